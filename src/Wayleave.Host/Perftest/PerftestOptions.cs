using System.Net;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Perftest;

/// <summary>What moves.</summary>
public enum PerftestVerb
{
    Write,
    Read,
    Send,

    /// <summary>Eight bytes, fetch-and-add or compare-and-swap.</summary>
    Atomic,
}

/// <summary>One run of a tool of perftest. Both sides are told the same, but for the address of the server.</summary>
public sealed record PerftestOptions
{
    /// <summary>The port of the exchange over TCP, and of the connection manager.</summary>
    public const int DefaultPort = 18515;

    /// <summary>The largest message of <see cref="AllSizes"/>.</summary>
    public const int SizeMax = 1 << 23;

    private const int DatagramBytesMax = 4096;
    private const int QueuePairsMax = 1024;
    private const long MemoryMax = 1L << 30;

    public PerftestVerb Verb { get; init; }

    /// <summary>
    /// The transport. UC has no READ and no atomics, UD only SENDs of one packet. What these lose is gone: a side that
    /// takes SENDs by count ends with the peer, and reports what has come; perftest's own tools wait for ever.
    /// </summary>
    public QueuePairType Connection { get; init; } = QueuePairType.ReliableConnection;

    /// <summary>Latency; otherwise bandwidth.</summary>
    public bool IsLatency { get; init; }

    /// <summary>Null for the server.</summary>
    public IPAddress? Server { get; init; }

    public int Port { get; init; } = DefaultPort;

    /// <summary>Bytes of a message; an atomic has eight.</summary>
    public int SizeBytes { get; init; } = 65536;

    /// <summary>Messages of each queue pair; not looked at when there is a <see cref="Duration"/>.</summary>
    public int Iterations { get; init; } = 1000;

    /// <summary>Zero goes by <see cref="Iterations"/>. Bandwidth only.</summary>
    public TimeSpan Duration { get; init; }

    /// <summary>Sizes 2 to <see cref="SizeMax"/>, one after the other, instead of <see cref="SizeBytes"/>.</summary>
    public bool AllSizes { get; init; }

    /// <summary>Both sides are active. Bandwidth only.</summary>
    public bool IsBidirectional { get; init; }

    public int QueuePairs { get; init; } = 1;

    /// <summary>Requests in flight per queue pair.</summary>
    public int Depth { get; init; } = 128;

    /// <summary>Connects, and exchanges what there is to exchange, by rdma_cm.</summary>
    public bool UsesConnectionManager { get; init; }

    /// <summary>Atomics compare and swap, instead of fetching and adding.</summary>
    public bool ComparesAndSwaps { get; init; }

    /// <summary>How long a peer that says nothing and sends nothing is waited for.</summary>
    public TimeSpan Patience { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>
    /// How long a client asks a server that has never answered, and how long a host may not answer TCP at all. By the
    /// connection manager these are two requests, 4.3 s apart; its own sixteen would take 69 s (ROCE-71), and whoever
    /// waits wants to know sooner that nobody is there.
    /// </summary>
    public TimeSpan ConnectPatience { get; init; } = TimeSpan.FromSeconds(8);

    /// <summary>Whether this side connects.</summary>
    public bool IsClient => Server is not null;

    /// <summary>The tool of perftest that the peer runs.</summary>
    public string ToolName => $"ib_{Verb.ToString().ToLowerInvariant()}_{(IsLatency ? "lat" : "bw")}";

    internal bool IsReliable => Connection == QueuePairType.ReliableConnection;

    internal bool IsDatagram => Connection == QueuePairType.UnreliableDatagram;

    /// <summary>The sizes of this run, in order.</summary>
    internal IEnumerable<int> Sizes =>
        AllSizes ? Enumerable.Range(1, 23).Select(power => 1 << power) : [SizeBytes];

    internal int LargestBytes => AllSizes ? SizeMax : SizeBytes;

    /// <summary>What a tool runs with when nothing else is said.</summary>
    public static PerftestOptions DefaultsOf(PerftestVerb verb, bool isLatency) => new()
    {
        Verb = verb,
        IsLatency = isLatency,
        SizeBytes = verb == PerftestVerb.Atomic ? 8 : isLatency ? 2 : 65536,
        Iterations = verb == PerftestVerb.Write && !isLatency ? 5000 : 1000,
        Depth = isLatency ? 1 : 128,
    };

    /// <exception cref="ArgumentException">Names every problem at once.</exception>
    public void Validate()
    {
        List<string> problems = [];
        Check(SizeBytes is >= 1 and <= SizeMax, $"a message has 1 to {SizeMax} bytes, not {SizeBytes}");
        Check(Verb != PerftestVerb.Atomic || SizeBytes == 8, $"an atomic has 8 bytes, not {SizeBytes}");
        Check(Verb != PerftestVerb.Atomic || !AllSizes, "an atomic has one size");
        Check(
            IsReliable || Verb is PerftestVerb.Write or PerftestVerb.Send,
            "UC has neither READ nor atomics, nor has UD");
        Check(!IsDatagram || Verb == PerftestVerb.Send, "UD has SENDs only");
        Check(
            !IsDatagram || SizeBytes <= DatagramBytesMax,
            $"a datagram has 1 to {DatagramBytesMax} bytes, not {SizeBytes}");
        Check(IsReliable || !UsesConnectionManager, "rdma_cm connects RC here");
        Check(
            IsReliable || Verb != PerftestVerb.Send || Duration > TimeSpan.Zero || !(AllSizes || IsBidirectional),
            "where messages may be lost, SENDs of all sizes, or of both sides, go by a duration");
        Check(!IsDatagram || !AllSizes, "a datagram has one packet: give its size");
        Check(Iterations >= 5, $"at least 5 iterations, not {Iterations}");
        Check(Duration >= TimeSpan.Zero, $"a run cannot last {Duration}");
        Check(Duration == TimeSpan.Zero || !AllSizes, "all sizes, or a duration");
        Check(!IsLatency || Duration == TimeSpan.Zero, "latency goes by iterations");
        Check(!IsLatency || !IsBidirectional, "latency has one direction at a time");
        Check(!IsLatency || QueuePairs == 1, "latency is measured on one queue pair");
        Check(
            QueuePairs is >= 1 and <= QueuePairsMax,
            $"there can be 1 to {QueuePairsMax} queue pairs, not {QueuePairs}");
        Check(
            2L * QueuePairs * LargestBytes <= MemoryMax,
            $"{QueuePairs} queue pairs with messages of {LargestBytes} bytes need more than 1 GiB");
        Check(Depth is >= 1 and <= 4096, $"the depth must be 1 to 4096, not {Depth}");
        Check(Port is > 0 and <= ushort.MaxValue, $"a port is 1 to {ushort.MaxValue}, not {Port}");
        Check(Patience > TimeSpan.Zero && ConnectPatience > TimeSpan.Zero, "patience must not be zero");
        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }

        void Check(bool holds, string problem)
        {
            if (!holds)
            {
                problems.Add(problem);
            }
        }
    }
}
