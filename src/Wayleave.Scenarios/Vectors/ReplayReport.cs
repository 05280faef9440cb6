using System.Text.Json;
using System.Text.Json.Serialization;

namespace Wayleave.Scenarios.Vectors;

/// <summary>Which end of a captured connection our stack plays.</summary>
public enum ReplayRole
{
    /// <summary>Gets the captured requests; its responses are compared.</summary>
    Responder,

    /// <summary>Posts the work requests and gets the captured responses; its requests are compared.</summary>
    Requester,
}

/// <summary>What a replay came to.</summary>
public enum ReplayResult
{
    /// <summary>Everything our side sent, completed and stored is what the capture and its description show.</summary>
    Match,

    /// <summary>Something differs; see <see cref="ReplayReport.Mismatches"/>.</summary>
    Mismatch,

    /// <summary>The capture shows something that cannot be replayed; see <see cref="ReplayReport.Reason"/>.</summary>
    NotSupported,
}

/// <summary>One difference between the capture and what our side did.</summary>
/// <param name="Where">
/// What was compared: <c>packet 3</c>, <c>completion 0</c>, <c>queue pair</c>, <c>memory 0x20000000+64</c>.
/// </param>
/// <param name="Field">Which part of it.</param>
/// <param name="Expected">As captured or described.</param>
/// <param name="Got">What our side has instead.</param>
public sealed record ReplayMismatch(string Where, string Field, string Expected, string Got)
{
    /// <summary>One line for people.</summary>
    public override string ToString() => $"{Where}: {Field}: expected {Expected}, got {Got}";
}

/// <summary>The result of playing one side of a capture.</summary>
public sealed record ReplayReport
{
    /// <summary>Names the form of the JSON; a change that could break a reader changes it.</summary>
    public string Schema { get; } = "wayleave.roce_replay.v1";

    public required string Case { get; init; }

    public required ReplayRole Role { get; init; }

    /// <summary>The side we played, A or B; null when nothing was played.</summary>
    public string? Side { get; init; }

    public required ReplayResult Result { get; init; }

    /// <summary>What is not supported; null otherwise.</summary>
    public string? Reason { get; init; }

    /// <summary>Packets of the peer that our side was given.</summary>
    public int PacketsFed { get; init; }

    /// <summary>Packets of our side that were compared.</summary>
    public int PacketsCompared { get; init; }

    public int CompletionsCompared { get; init; }

    public int MemoryRangesCompared { get; init; }

    /// <summary>Where our clock stood at the end; it starts at zero and runs by timers, not by waiting.</summary>
    public long VirtualMicroseconds { get; init; }

    /// <summary>At most one per packet, the first that was found; packets first.</summary>
    public IReadOnlyList<ReplayMismatch> Mismatches { get; init; } = [];

    /// <summary>
    /// Every packet with its verdict when the replay is not supported and that is all there is to say; else null.
    /// </summary>
    public CheckReport? Check { get; init; }

    /// <summary>The outcome in one line.</summary>
    [JsonIgnore]
    public string Summary => Result switch
    {
        ReplayResult.NotSupported => $"not supported yet: {Reason}",
        ReplayResult.Match => $"match: {Counts}",
        _ => $"{(Mismatches.Count == 1 ? "1 mismatch" : $"{Mismatches.Count} mismatches")}: {Counts}",
    };

    private string Counts =>
        $"{(Role == ReplayRole.Requester ? "requester" : "responder")} {Side}, "
        + $"{PacketsFed} of the peer's packets fed; compared: "
        + $"{Plural.Of(PacketsCompared, "packet")}, {Plural.Of(CompletionsCompared, "completion")}, "
        + Plural.Of(MemoryRangesCompared, "memory range");

    /// <summary>One JSON object on one line, keys in snake_case.</summary>
    public string ToJson() => JsonSerializer.Serialize(this, ReportJson.Default.ReplayReport);
}

internal sealed class ReplayRoleConverter() : JsonStringEnumConverter<ReplayRole>(JsonNamingPolicy.SnakeCaseLower);

internal sealed class ReplayResultConverter() : JsonStringEnumConverter<ReplayResult>(JsonNamingPolicy.SnakeCaseLower);
