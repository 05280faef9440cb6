namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>When a listener answers with SYN cookies instead of remembering who asked (RFC 4987 3.6).</summary>
public enum SynCookieMode
{
    /// <summary>A full SYN queue drops further SYNs.</summary>
    Never,

    /// <summary>Once the SYN queue is full (net.ipv4.tcp_syncookies = 1).</summary>
    WhenFull,

    /// <summary>From the first SYN on; for tests (net.ipv4.tcp_syncookies = 2).</summary>
    Always,
}

/// <summary>How a <see cref="TcpEndpoint"/> is made. Copied at construction.</summary>
public sealed record TcpEndpointOptions
{
    /// <summary>Of the link: an IP packet is never larger. The MSS follows from it.</summary>
    public int MtuBytes { get; init; } = 1500;

    /// <summary>
    /// Payload of the largest super-packet handed out; one segment when the link does not segment.
    /// </summary>
    public int SuperPacketBytes { get; init; } = 65000;

    /// <summary>Unread and promised bytes of a connection.</summary>
    public long ReceiveBufferBytes { get; init; } = 4 << 20;

    /// <summary>Bytes that a connection copies and keeps until they are acknowledged.</summary>
    public int SendBufferBytes { get; init; } = 4 << 20;

    /// <summary>Host memory for all send buffers, in blocks of <see cref="SendBlockBytes"/>.</summary>
    public long SendMemoryBytes { get; init; } = 64 << 20;

    /// <summary>A block of a send buffer.</summary>
    public int SendBlockBytes { get; init; } = 64 << 10;

    /// <summary>Pieces of device memory that a connection has queued and not got acknowledged.</summary>
    public int SendPiecesMax { get; init; } = 1024;

    /// <summary>Ranges of data that came too early; beyond, the farthest is dropped.</summary>
    public int ReassemblyRangesMax { get; init; } = 256;

    /// <summary>Pieces into which a peer's SACK blocks may cut what is outstanding.</summary>
    public int ScoreboardEntriesMax { get; init; } = 8192;

    public int ConnectionsMax { get; init; } = 65536;

    /// <summary>Connections in TIME-WAIT; the oldest gives way (net.ipv4.tcp_max_tw_buckets).</summary>
    public int TimeWaitMax { get; init; } = 16384;

    /// <summary>Half-open connections of one listener (net.ipv4.tcp_max_syn_backlog).</summary>
    public int SynQueueMax { get; init; } = 256;

    public SynCookieMode SynCookies { get; init; } = SynCookieMode.WhenFull;

    public bool UsesTimestamps { get; init; } = true;

    public bool UsesSack { get; init; } = true;

    public bool UsesWindowScale { get; init; } = true;

    /// <summary>RFC 6928.</summary>
    public int InitialWindowSegments { get; init; } = 10;

    /// <summary>RFC 6298 says one second, Linux 200 ms.</summary>
    public TimeSpan RetransmitTimeoutMin { get; init; } = TimeSpan.FromMilliseconds(200);

    /// <summary>At least 60 s (RFC 6298 2.5).</summary>
    public TimeSpan RetransmitTimeoutMax { get; init; } = TimeSpan.FromSeconds(120);

    /// <summary>Below the 500 ms of RFC 9293 3.8.6.3.</summary>
    public TimeSpan DelayedAck { get; init; } = TimeSpan.FromMilliseconds(40);

    /// <summary>SYNs sent after the first.</summary>
    public int SynRetries { get; init; } = 6;

    /// <summary>Answers to a SYN sent after the first.</summary>
    public int SynAckRetries { get; init; } = 5;

    /// <summary>Time-outs in a row after which a peer is given up (net.ipv4.tcp_retries2).</summary>
    public int DataRetries { get; init; } = 15;

    /// <summary>Twice the maximum segment lifetime, as Linux counts it.</summary>
    public TimeSpan TimeWait { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>How long a closed connection waits for the FIN of its peer.</summary>
    public TimeSpan OrphanTimeout { get; init; } = TimeSpan.FromSeconds(60);

    public TimeSpan KeepAliveIdle { get; init; } = TimeSpan.FromHours(2);

    public TimeSpan KeepAliveInterval { get; init; } = TimeSpan.FromSeconds(75);

    public int KeepAliveProbes { get; init; } = 9;

    /// <summary>
    /// Answers to segments outside the window, per connection (net.ipv4.tcp_invalid_ratelimit).
    /// </summary>
    public TimeSpan InvalidInterval { get; init; } = TimeSpan.FromMilliseconds(500);

    /// <summary>Challenge acknowledgements of the whole endpoint per second, about (RFC 5961 section 7).</summary>
    public int ChallengesPerSecond { get; init; } = 1000;

    /// <summary>Resets for segments of no connection, per second.</summary>
    public int ResetsPerSecond { get; init; } = 1000;

    /// <summary>Answers to strangers that wait to be sent; further ones are dropped.</summary>
    public int RepliesMax { get; init; } = 256;

    /// <summary>First and last port that <see cref="TcpEndpoint.Connect"/> chooses from.</summary>
    public (ushort First, ushort Last) EphemeralPorts { get; init; } = (32768, 60999);

    public TcpDefences Defences { get; init; } = TcpDefences.All;

    /// <summary>RFC 8985 7.2: how long a peer may hold an acknowledgement back.</summary>
    internal TimeSpan PeerDelayedAckMax { get; } = TimeSpan.FromMilliseconds(200);

    /// <summary>A peer's segment is taken to be at least this large until one was seen.</summary>
    internal int MinimumSegmentBytes { get; } = 536;

    /// <summary>Throws when the values do not work together, naming every problem at once.</summary>
    /// <exception cref="ArgumentException">One or more values are out of range.</exception>
    public void Validate()
    {
        List<string> problems = [];
        Range(MtuBytes, 576, 65535, nameof(MtuBytes));
        Range(SuperPacketBytes, 1, 65535 - 120, nameof(SuperPacketBytes));
        Range(ReceiveBufferBytes, 1, 1L << 30, nameof(ReceiveBufferBytes));
        Range(SendBufferBytes, 1, 1 << 30, nameof(SendBufferBytes));
        Range(SendMemoryBytes, SendBlockBytes, 1L << 40, nameof(SendMemoryBytes));
        Range(SendBlockBytes, 1024, 1 << 20, nameof(SendBlockBytes));
        Range(SendPiecesMax, 1, 1 << 20, nameof(SendPiecesMax));
        Range(ReassemblyRangesMax, 1, 65536, nameof(ReassemblyRangesMax));
        Range(ScoreboardEntriesMax, 16, 1 << 20, nameof(ScoreboardEntriesMax));
        Range(ConnectionsMax, 1, 1 << 24, nameof(ConnectionsMax));
        Range(TimeWaitMax, 0, 1 << 24, nameof(TimeWaitMax));
        Range(SynQueueMax, 1, 1 << 20, nameof(SynQueueMax));
        Range(InitialWindowSegments, 1, 100, nameof(InitialWindowSegments));
        Range(SynRetries, 0, 30, nameof(SynRetries));
        Range(SynAckRetries, 0, 30, nameof(SynAckRetries));
        Range(DataRetries, 1, 100, nameof(DataRetries));
        Range(KeepAliveProbes, 1, 127, nameof(KeepAliveProbes));
        Range(ChallengesPerSecond, 1, int.MaxValue, nameof(ChallengesPerSecond));
        Range(ResetsPerSecond, 0, int.MaxValue, nameof(ResetsPerSecond));
        Range(RepliesMax, 1, 1 << 20, nameof(RepliesMax));
        Positive(RetransmitTimeoutMin, nameof(RetransmitTimeoutMin));
        Positive(TimeWait, nameof(TimeWait));
        Positive(OrphanTimeout, nameof(OrphanTimeout));
        Positive(KeepAliveIdle, nameof(KeepAliveIdle));
        Positive(KeepAliveInterval, nameof(KeepAliveInterval));
        Check(
            RetransmitTimeoutMax >= RetransmitTimeoutMin,
            $"{nameof(RetransmitTimeoutMax)} must not be below {nameof(RetransmitTimeoutMin)}");
        Check(
            DelayedAck >= TimeSpan.Zero && DelayedAck <= TimeSpan.FromMilliseconds(500),
            $"{nameof(DelayedAck)} must be 0 to 500 ms, not {DelayedAck}");
        Check(
            EphemeralPorts.First > 0 && EphemeralPorts.Last >= EphemeralPorts.First,
            $"{nameof(EphemeralPorts)} must be a range without 0, not {EphemeralPorts}");
        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }

        void Range(long value, long least, long most, string name) =>
            Check(value >= least && value <= most, $"{name} must be {least} to {most}, not {value}");

        void Positive(TimeSpan value, string name) =>
            Check(value > TimeSpan.Zero, $"{name} must be positive, not {value}");

        void Check(bool holds, string problem)
        {
            if (!holds)
            {
                problems.Add(problem);
            }
        }
    }
}
