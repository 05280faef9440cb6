using System.Text.Json;
using System.Text.Json.Serialization;
using Wayleave.Core.Topology;

namespace Wayleave.Host.Benchmarks.Copies;

/// <summary>How a pair of devices did.</summary>
public enum CopyStatus
{
    /// <summary>Measured, and every byte had arrived.</summary>
    Passed,

    /// <summary>There is nothing to measure: neither end has an engine, or not enough memory.</summary>
    Waived,

    /// <summary>The topology has no way between the two.</summary>
    Refused,

    /// <summary>Measured, and bytes were wrong.</summary>
    Failed,
}

/// <summary>
/// What a copy benchmark found; as JSON, what scripts rely on. Bytes are payload bytes, counted once.
/// </summary>
public sealed record CopyBenchmarkReport
{
    /// <summary>Name and version of this form.</summary>
    public string Schema { get; init; } = "wayleave.bench-copy/1";

    /// <summary>Copies in the ring at once.</summary>
    public required int Depth { get; init; }

    /// <summary>Memory at either end that the copies walk over, unless one copy is larger.</summary>
    public required int RegionBytes { get; init; }

    public required int Processors { get; init; }

    /// <summary>In the order of rows and columns.</summary>
    public required IReadOnlyList<string> Devices { get; init; }

    /// <summary>Each size, in it each row, in it each column.</summary>
    public required IReadOnlyList<CopyCell> Cells { get; init; }

    public string ToJson() => JsonSerializer.Serialize(this, CopyReportJson.Default.CopyBenchmarkReport);
}

/// <summary>Copies of one size from one device's memory to another's.</summary>
public sealed record CopyCell
{
    public required int SizeBytes { get; init; }

    public required string From { get; init; }

    public required string To { get; init; }

    public required CopyStatus Status { get; init; }

    /// <summary>Why nothing was measured, or what was wrong.</summary>
    public string? Reason { get; init; }

    /// <summary>Whose copy engine moved the bytes: that of the source if it has one, else that of the target.</summary>
    public string? Engine { get; init; }

    /// <summary>The ways that the engine's bytes took, reads and writes together.</summary>
    public IReadOnlyList<PeerRoute> Routes { get; init; } = [];

    /// <summary>
    /// Memory at either end that the copies walked over; less than asked for when a device has less.
    /// </summary>
    public long? RegionBytes { get; init; }

    public IReadOnlyList<CopyRound> Rounds { get; init; } = [];

    public double? MedianBytesPerS { get; init; }

    /// <summary>Of plain copies by the processor, between the same places, in rounds that took turns.</summary>
    public double? MedianPlainBytesPerS { get; init; }

    /// <summary>Median of the rounds' ratios of the engine to the plain copy.</summary>
    public double? MedianRatio { get; init; }
}

/// <summary>One round of the engine and the round of plain copies before it.</summary>
public sealed record CopyRound(double BytesPerS, double PlainBytesPerS)
{
    public double Ratio => BytesPerS / PlainBytesPerS;
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    Converters = [typeof(CopyStatusConverter), typeof(PeerRouteConverter)],
    WriteIndented = true)]
[JsonSerializable(typeof(CopyBenchmarkReport))]
internal sealed partial class CopyReportJson : JsonSerializerContext
{
    internal sealed class CopyStatusConverter() : SnakeCaseConverter<CopyStatus>;

    internal sealed class PeerRouteConverter() : SnakeCaseConverter<PeerRoute>;

    internal class SnakeCaseConverter<T>()
        : JsonStringEnumConverter<T>(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false)
        where T : struct, Enum;
}
