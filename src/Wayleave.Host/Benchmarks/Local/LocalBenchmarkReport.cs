using System.Text.Json;
using System.Text.Json.Serialization;

namespace Wayleave.Host.Benchmarks.Local;

/// <summary>What a benchmark between two programs of one machine found; as JSON, what scripts rely on.</summary>
public sealed record LocalBenchmarkReport
{
    /// <summary>Name and version of this form.</summary>
    public string Schema { get; init; } = "wayleave.bench-local/1";

    public required int SizeBytes { get; init; }

    public required int Processors { get; init; }

    public required IReadOnlyList<LocalBenchmarkResult> Results { get; init; }

    public string ToJson() => JsonSerializer.Serialize(this, LocalReportJson.Default.LocalBenchmarkReport);
}

/// <summary>One operation.</summary>
/// <param name="Name">For scripts: <c>import_and_map</c>.</param>
/// <param name="What">For people.</param>
/// <param name="Latency">Of one operation.</param>
/// <param name="BytesPerS">Of those that move bytes: by the median.</param>
/// <param name="RatioToCopy">
/// Of those that move bytes: the median, over operations, of a plain copy's time over its own right after it.
/// </param>
public sealed record LocalBenchmarkResult(
    string Name, string What, LatencyResult Latency, double? BytesPerS = null, double? RatioToCopy = null);

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    WriteIndented = true,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(LocalBenchmarkReport))]
internal sealed partial class LocalReportJson : JsonSerializerContext;
