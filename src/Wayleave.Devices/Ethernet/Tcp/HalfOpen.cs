using Wayleave.Devices.Ethernet.Tcp.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>A handshake of which two packets have passed (<c>struct tcp_request_sock</c>).</summary>
internal struct HalfOpen
{
    public TcpFlow Flow;

    /// <summary>Our ISS.</summary>
    public uint InitialSequence;

    /// <summary>The peer's.</summary>
    public uint PeerSequence;

    /// <summary>What its SYN offered; the timestamp is the one to echo.</summary>
    public SegmentOptions Offered;

    /// <summary>What our answer promised to take.</summary>
    public int WindowBytes;

    /// <summary>The receive queue that the SYN came by.</summary>
    public int Queue;

    /// <summary>Answers sent or about to be; 0 for a cookie.</summary>
    public int Attempts;

    public TimeSpan AnsweredAt;
    public TimeSpan RetryAt;
    public bool IsAnswerDue;
    public bool IsUsed;
}
