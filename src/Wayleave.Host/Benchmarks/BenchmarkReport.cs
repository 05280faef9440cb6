using System.Text.Json.Serialization;

namespace Wayleave.Host.Benchmarks;

/// <summary>
/// What a benchmark found; as JSON, what scripts rely on. Bytes are payload bytes, times are wall-clock times.
/// </summary>
public sealed record BenchmarkReport
{
    /// <summary>Name and version of this form.</summary>
    public string Schema { get; init; } = "wayleave.bench/1";

    /// <summary>As on the command line: <c>write-bw</c>.</summary>
    public required string Test { get; init; }

    public required int SizeBytes { get; init; }

    public required long RegionBytes { get; init; }

    public required int MtuBytes { get; init; }

    public required int QueuePairs { get; init; }

    public required int Depth { get; init; }

    /// <summary>The receive buffer in force, as the kernel accounts it; what is on its way is kept below it.</summary>
    public required int ReceiveBufferBytes { get; init; }

    public required int Processors { get; init; }

    /// <summary>Whether the two threads that measure and serve each stayed on a processor of their own.</summary>
    public required bool IsPinned { get; init; }

    public IReadOnlyList<BenchmarkRound> Rounds { get; init; } = [];

    public BandwidthResult? Bandwidth { get; init; }

    /// <summary>Half round trips.</summary>
    public LatencyResult? Latency { get; init; }

    /// <summary>Queue pairs that were busy beside the measured one; null without any.</summary>
    public int? Beside { get; init; }

    /// <summary>What all of them moved meanwhile.</summary>
    public double? MedianBesideBytesPerS { get; init; }

    public TakeBackResult? TakeBack { get; init; }

    /// <summary>
    /// Bytes allocated by all threads of both processes per operation, and per packet of payload, less what a round
    /// without operations allocates; null where the test has no steady state.
    /// </summary>
    public double? AllocatedBytesPerOperation { get; init; }

    public double? AllocatedBytesPerPacket { get; init; }

    public long? Retransmits { get; init; }

    public long? Timeouts { get; init; }

    /// <summary>Times a sender that heard nothing asked its peer what it has.</summary>
    public long? Probes { get; init; }

    /// <summary>Gaps that a receiver named with a NAK, each once.</summary>
    public long? SequenceNaks { get; init; }

    /// <summary>Datagrams that either receive buffer had no room for, rounds of the limit not counted.</summary>
    public long? SocketDrops { get; init; }

    public string ToJson() => System.Text.Json.JsonSerializer.Serialize(this, ReportJson.Default.BenchmarkReport);
}

/// <summary>One round, in the order they ran.</summary>
public sealed record BenchmarkRound
{
    public double? BytesPerS { get; init; }

    public long Operations { get; init; }

    /// <summary>Of the round of the limit just before.</summary>
    public double? LimitBytesPerS { get; init; }

    /// <summary><see cref="BytesPerS"/> by <see cref="LimitBytesPerS"/>.</summary>
    public double? Ratio { get; init; }

    /// <summary>What the sender of the limit got rid of; the difference was dropped at the receive buffer.</summary>
    public double? LimitSentBytesPerS { get; init; }

    /// <summary>Of the round with one queue pair just before.</summary>
    public double? OneBytesPerS { get; init; }

    /// <summary><see cref="BytesPerS"/> by <see cref="OneBytesPerS"/>.</summary>
    public double? OneRatio { get; init; }

    public double? MedianUs { get; init; }

    /// <summary>Of the queue pairs beside the measured one, together.</summary>
    public double? BesideBytesPerS { get; init; }
}

public sealed record BandwidthResult
{
    public required double MedianBytesPerS { get; init; }

    /// <summary>The best round.</summary>
    public required double PeakBytesPerS { get; init; }

    public required double MedianMessagesPerS { get; init; }

    public required long Operations { get; init; }

    public double? MedianLimitBytesPerS { get; init; }

    /// <summary>Median of the rounds' ratios.</summary>
    public double? MedianRatio { get; init; }

    public double? MedianOneBytesPerS { get; init; }

    /// <summary>Median of the rounds' ratios to one queue pair.</summary>
    public double? MedianOneRatio { get; init; }
}

public sealed record LatencyResult
{
    public required int Count { get; init; }

    public required double MinUs { get; init; }

    public required double MaxUs { get; init; }

    public required double MedianUs { get; init; }

    public required double AverageUs { get; init; }

    public required double DeviationUs { get; init; }

    public required double P99Us { get; init; }

    public required double P999Us { get; init; }
}

/// <summary>From the call of Revoke to the proof in hand.</summary>
public sealed record TakeBackResult
{
    public required LatencyResult Time { get; init; }

    /// <summary>Proofs of grade Retired.</summary>
    public required int Retired { get; init; }

    /// <summary>Of the owner's thread, during all take-backs together.</summary>
    public required long VoluntarySwitches { get; init; }

    public required long InvoluntarySwitches { get; init; }

    /// <summary>Bytes that changed after the proof. Anything but 0 is a bug.</summary>
    public required long LateBytes { get; init; }

    /// <summary>Payload bytes refused by the dead keys.</summary>
    public required long RejectedBytes { get; init; }

    /// <summary>Payload bytes placed before the take-backs: shows that there was load.</summary>
    public required long PlacedBytes { get; init; }
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    WriteIndented = true)]
[JsonSerializable(typeof(BenchmarkReport))]
internal sealed partial class ReportJson : JsonSerializerContext;
