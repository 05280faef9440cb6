using System.Net;
using Wayleave.Devices.Rdma;
using Wayleave.Host.Configuration;

namespace Wayleave.Host.Benchmarks;

/// <summary>What is measured. The names on the command line are these in lower case with a dash.</summary>
public enum BenchmarkTest
{
    /// <summary>RDMA WRITE, bytes per second; the target's application sleeps.</summary>
    WriteBw,

    /// <summary>RDMA READ, bytes per second; the target's application sleeps.</summary>
    ReadBw,

    /// <summary>SEND into posted receives, bytes per second.</summary>
    SendBw,

    /// <summary>Half a round trip of two WRITEs, both sides polling memory.</summary>
    WriteLat,

    /// <summary>Half a round trip of two SENDs, both sides polling completions.</summary>
    SendLat,

    /// <summary>Taking memory back while a peer writes to it.</summary>
    Revoke,

    /// <summary>
    /// What the machine carries from one socket to another in super-packets, with no protocol at all.
    /// </summary>
    UdpLimit,
}

/// <summary>How a benchmark runs. The same record goes to the passive process.</summary>
public sealed record BenchmarkOptions
{
    /// <summary>Bytes of each WRITE beside a measured latency.</summary>
    public const int BesideBytes = 65536;

    private const int QueuePairsMax = 1024;
    private const int DepthDefault = 64;
    private const long RegionBytesMax = 1L << 30;
    private const int UnprivilegedBufferBytes = 212_992; // net.core.rmem_max and wmem_max, unless somebody changed them

    public BenchmarkTest Test { get; init; }

    /// <summary>Bytes of a message.</summary>
    public int SizeBytes { get; init; } = 65536;

    /// <summary>
    /// The memory that messages walk over at each end; 0 for 4 MiB, or one message if that is more. A region that fits
    /// the cache is hot, 64 MiB is cold.
    /// </summary>
    public long RegionBytes { get; init; }

    /// <summary>Payload bytes of a packet: 256, 512, 1024, 2048 or 4096.</summary>
    public int MtuBytes { get; init; } = 4096;

    public int QueuePairs { get; init; } = 1;

    /// <summary>
    /// Latency: queue pairs besides the measured one, between the same two NICs, that the active side keeps full of
    /// WRITEs of <see cref="BesideBytes"/>.
    /// </summary>
    public int Beside { get; init; }

    /// <summary>Work requests in flight per queue pair.</summary>
    public int Depth { get; init; } = DepthDefault;

    /// <summary>
    /// Operations of one round; 0 to run for <see cref="Duration"/> instead. Revoke: take-backs of the whole test.
    /// </summary>
    public int Iterations { get; init; }

    /// <summary>Length of one round where <see cref="Iterations"/> does not say it.</summary>
    public TimeSpan Duration { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>Rounds; results are their medians.</summary>
    public int Rounds { get; init; } = 5;

    /// <summary>As <see cref="NicConfig.FirstsAhead"/>, at both ends.</summary>
    public int FirstsAhead { get; init; } = new NicConfig().FirstsAhead;

    /// <summary>Runs a round of <see cref="BenchmarkTest.UdpLimit"/> before each round, for the ratio.</summary>
    public bool WithLimit { get; init; }

    /// <summary>
    /// Runs a round with one queue pair of the usual depth before each round, between two processes of its own, for the
    /// ratio.
    /// </summary>
    public bool WithOne { get; init; }

    /// <summary>
    /// SO_RCVBUF and SO_SNDBUF to ask for; 0 for what hosts ask for, which root gets and other users as far as
    /// net.core.rmem_max goes. Without a word a benchmark measures what everybody gets on a machine as it is installed.
    /// </summary>
    public int SocketBufferBytes { get; init; } = UnprivilegedBufferBytes;

    /// <summary>
    /// Addresses of the active and the passive side: text, because the passive process gets them too.
    /// </summary>
    public string ActiveAddress { get; init; } = "127.0.0.2";

    public string PassiveAddress { get; init; } = "127.0.0.3";

    /// <summary>Faults that the NICs of both sides inflict on themselves, or null.</summary>
    public FaultOptions? Faults { get; init; }

    /// <summary>What a test runs with when nothing else is said: perftest's sizes.</summary>
    public static BenchmarkOptions DefaultsOf(BenchmarkTest test) => test switch
    {
        BenchmarkTest.WriteLat or BenchmarkTest.SendLat => new BenchmarkOptions { Test = test, SizeBytes = 8 },
        BenchmarkTest.Revoke => new BenchmarkOptions { Test = test, RegionBytes = 1 << 20, Rounds = 1 },
        _ => new BenchmarkOptions { Test = test },
    };

    /// <summary><see cref="RegionBytes"/> with its default filled in.</summary>
    public long EffectiveRegionBytes => RegionBytes != 0 ? RegionBytes : Math.Max(4L << 20, SizeBytes);

    /// <summary>Where the thread that measures stays, and the one at the other end that serves it.</summary>
    internal const int ActiveProcessor = 0;
    internal const int PassiveProcessor = 1;

    /// <summary>
    /// Whether they stay there, as perftest's under numactl: the scheduler now and then puts both on one processor, for
    /// longer than a round. A take-back has more threads than that.
    /// </summary>
    internal bool IsPinned => Test != BenchmarkTest.Revoke && Environment.ProcessorCount > PassiveProcessor;

    /// <summary>What a round of <see cref="WithOne"/> runs with.</summary>
    internal BenchmarkOptions One =>
        this with { QueuePairs = 1, Depth = DepthDefault, WithOne = false, WithLimit = false };

    /// <summary>Of a queue pair that is measured: a latency test asks for few completions.</summary>
    internal int MeasuredDepth => IsLatency ? Math.Max(Depth, DepthDefault) : Depth;

    public bool IsLatency => Test is BenchmarkTest.WriteLat or BenchmarkTest.SendLat;

    /// <exception cref="ArgumentException">Names every problem at once.</exception>
    public void Validate()
    {
        List<string> problems = [];
        Check(SizeBytes is >= 1 and <= 1 << 30, $"the message size must be 1 B to 1 GiB, not {SizeBytes}");
        Check(
            RegionBytes == 0 || (RegionBytes >= SizeBytes && RegionBytes <= RegionBytesMax),
            $"the region must hold one message of {SizeBytes} and at most 1 GiB, not {RegionBytes}");
        Check(
            MtuBytes is 256 or 512 or 1024 or 2048 or 4096,
            $"the MTU must be 256, 512, 1024, 2048 or 4096, not {MtuBytes}");
        Check(
            QueuePairs is >= 1 and <= QueuePairsMax,
            $"there can be 1 to {QueuePairsMax} queue pairs, not {QueuePairs}");
        Check(QueuePairs == 1 || !IsLatency, "latency is measured on one queue pair");
        Check(
            Beside >= 0 && Beside < QueuePairsMax && (Beside == 0 || IsLatency),
            $"beside a latency there can be 0 to {QueuePairsMax - 1} queue pairs, not {Beside}");
        Check(
            Beside == 0 || EffectiveRegionBytes >= 2L * SizeBytes + BesideBytes,
            $"the region must hold two messages of {SizeBytes} and one of {BesideBytes}, not {EffectiveRegionBytes}");
        Check(Depth is >= 1 and <= 1024, $"the depth must be 1 to 1024, not {Depth}");
        Check(
            FirstsAhead is >= 0 and <= PeerProfile.FirstsAheadMax,
            $"0 to {PeerProfile.FirstsAheadMax} messages begin before their turn, not {FirstsAhead}");
        Check(Iterations >= 0, $"iterations cannot be negative: {Iterations}");
        Check(
            Duration > TimeSpan.Zero && Duration <= TimeSpan.FromHours(1),
            $"a round lasts more than nothing and at most an hour, not {Duration}");
        Check(Rounds is >= 1 and <= 10_000, $"there can be 1 to 10000 rounds, not {Rounds}");
        bool isBandwidth = Test is BenchmarkTest.WriteBw or BenchmarkTest.ReadBw or BenchmarkTest.SendBw;
        Check(!WithLimit || isBandwidth, "the limit is one of bandwidth");
        Check(!WithOne || isBandwidth, "many queue pairs and one are compared in bandwidth");
        Check(SocketBufferBytes >= 0, $"the socket buffer cannot be negative: {SocketBufferBytes}");
        CheckAddress(ActiveAddress);
        CheckAddress(PassiveAddress);
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

        void CheckAddress(string address) =>
            Check(IPAddress.TryParse(address, out _), $"'{address}' is not an IP address");
    }
}
