namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>The numbers of a connection at one moment (<c>struct tcp_info</c>).</summary>
public readonly record struct TcpConnectionInfo
{
    public TimeSpan SmoothedRtt { get; init; }

    /// <summary>With its doublings.</summary>
    public TimeSpan RetransmitTimeout { get; init; }

    public long CongestionWindowBytes { get; init; }

    /// <summary>Where slow start ends.</summary>
    public long ThresholdBytes { get; init; }

    /// <summary>Payload of a full segment that we send.</summary>
    public int SegmentBytes { get; init; }

    /// <summary>The largest payload of a segment seen from the peer.</summary>
    public int ReceiveSegmentBytes { get; init; }

    /// <summary>What the peer takes.</summary>
    public long SendWindowBytes { get; init; }

    /// <summary>What we promised to take.</summary>
    public long ReceiveWindowBytes { get; init; }

    /// <summary>Received beyond a gap.</summary>
    public long OutOfOrderBytes { get; init; }

    public bool HasSeenReordering { get; init; }

    public bool UsesSack { get; init; }

    public bool UsesTimestamps { get; init; }

    public int SendWindowShift { get; init; }

    public int ReceiveWindowShift { get; init; }
}
