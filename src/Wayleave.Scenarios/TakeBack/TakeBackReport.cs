using System.Text.Json;
using System.Text.Json.Serialization;

namespace Wayleave.Scenarios.TakeBack;

/// <summary>What a comparison found; as JSON, what scripts rely on.</summary>
public sealed record TakeBackReport
{
    /// <summary>Name and version of this form.</summary>
    public string Schema { get; init; } = "wayleave.compare-take-back/1";

    /// <summary>Of each strategy, in simulated time.</summary>
    public required double DurationUs { get; init; }

    public required double PressurePeriodUs { get; init; }

    public required int PressurePages { get; init; }

    public required int MessageBytes { get; init; }

    /// <summary>How many orders of a small workload were drawn for each strategy.</summary>
    public required int ExploredOrders { get; init; }

    /// <summary>
    /// In the order of <see cref="TakeBackStrategy.All"/> and <see cref="TakeBackStrategy.Mixes"/>, then mixes by their
    /// parts.
    /// </summary>
    public required IReadOnlyList<TakeBackResult> Results { get; init; }

    /// <summary>On several lines.</summary>
    public string ToJson() => JsonSerializer.Serialize(this, TakeBackJson.Default.TakeBackReport);
}

/// <summary>One strategy, or mix. Times are simulated; counts are of what the devices did.</summary>
public sealed record TakeBackResult
{
    public required string Strategy { get; init; }

    public required string Description { get; init; }

    /// <summary>How long it ran.</summary>
    public required double SimulatedUs { get; init; }

    /// <summary>Who waited at what when everybody waited for somebody before the end; null when nobody did.</summary>
    public required string? StoppedAt { get; init; }

    /// <summary>Pairs of jobs that ended well.</summary>
    public required int Jobs { get; init; }

    /// <summary>Bytes that these carried from one GPU through the other to the process.</summary>
    public required long JobBytes { get; init; }

    /// <summary>Bytes of WRITEs that completed well.</summary>
    public required long WrittenBytes { get; init; }

    /// <summary>Throughput: both together.</summary>
    public required double BytesPerS { get; init; }

    /// <summary>From the wish until pages or buffer were free; null when nothing ever was.</summary>
    public required double? TakeBackP50Us { get; init; }

    /// <summary>As <see cref="TakeBackP50Us"/>.</summary>
    public required double? TakeBackP99Us { get; init; }

    /// <summary>Of pages of the process alone, all that were wanted at once.</summary>
    public required double? PagesP50Us { get; init; }

    /// <summary>As <see cref="PagesP50Us"/>.</summary>
    public required double? PagesP99Us { get; init; }

    /// <summary>Of the buffer in the first GPU's memory alone.</summary>
    public required double? BufferP50Us { get; init; }

    /// <summary>As <see cref="BufferP50Us"/>.</summary>
    public required double? BufferP99Us { get; init; }

    public required long AskedPages { get; init; }

    public required long TakenPages { get; init; }

    public required int AskedBuffers { get; init; }

    public required int TakenBuffers { get; init; }

    /// <summary>What the devices use of the process and of the first GPU, in bytes.</summary>
    public required long UsedBytes { get; init; }

    /// <summary>How much of that came back when all was asked for, with the devices idle and nothing closed.</summary>
    public required long ReclaimableBytes { get; init; }

    public required long GpuFaults { get; init; }

    public required long NicFaults { get; init; }

    /// <summary>Touches of devices that found nothing and were served.</summary>
    public required long Faults { get; init; }

    /// <summary>The processor waited for one device before it handed work to the next.</summary>
    public required long ProcessorStalls { get; init; }

    /// <summary>User queues were stopped.</summary>
    public required long QueueStops { get; init; }

    /// <summary>The NIC told the peer to come again later.</summary>
    public required long RnrNaks { get; init; }

    /// <summary>Connections that had to be made anew.</summary>
    public required long Reconnects { get; init; }

    /// <summary>Work that had to stop for somebody: the four above.</summary>
    public required long Stalls { get; init; }

    public required int FailedMessages { get; init; }

    public required int FailedJobs { get; init; }

    /// <summary>Times that a driver could not store where its process has memory.</summary>
    public required int FailedReports { get; init; }

    public required int RefusedSubmissions { get; init; }

    /// <summary>Waits that would never have ended, in the run that was measured: each was refused.</summary>
    public required int RefusedWaits { get; init; }

    /// <summary>Steps that were simulated.</summary>
    public required long Steps { get; init; }

    /// <summary>Different circles that were found in orders of a small workload.</summary>
    public int Deadlocks => Circles.Count;

    /// <summary>Each in words: who waits for whom.</summary>
    public IReadOnlyList<TakeBackFinding> Circles { get; init; } = [];

    /// <summary>Rules that were broken in some order although nobody hung, in words.</summary>
    public IReadOnlyList<TakeBackFinding> BrokenRules { get; init; } = [];

    /// <summary>The first order in which everybody hangs when nobody looks; null when none was drawn.</summary>
    public string? HangWithoutChecker { get; init; }

    /// <summary>Orders that were drawn.</summary>
    public int ExploredOrders { get; init; }
}

/// <summary>What was found in some orders.</summary>
/// <param name="Text">In words, of the first order; names of pages and numbers differ in others.</param>
/// <param name="Orders">In how many.</param>
public sealed record TakeBackFinding(string Text, int Orders);

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, WriteIndented = true)]
[JsonSerializable(typeof(TakeBackReport))]
internal sealed partial class TakeBackJson : JsonSerializerContext;
