using System.Text.Json;
using System.Text.Json.Serialization;

namespace Wayleave.Host.Benchmarks.Memory;

/// <summary>What is measured of address spaces.</summary>
public enum MemoryBenchmarkTest
{
    /// <summary>From a device's miss until its page is in reach.</summary>
    Fault,

    /// <summary>Pages to a device's memory and home.</summary>
    Migrate,

    /// <summary>Registration of memory with a NIC, pinned, and again through the cache.</summary>
    Register,

    /// <summary>From the end of a job on one engine to the end of the next, which waited for it, on another.</summary>
    FenceHop,
}

/// <summary>What a benchmark of address spaces found; as JSON, what scripts rely on.</summary>
public sealed record MemoryBenchmarkReport
{
    /// <summary>Name and version of this form.</summary>
    public string Schema { get; init; } = "wayleave.bench-memory/1";

    public required MemoryBenchmarkTest Test { get; init; }

    /// <summary>Of memory that is worked on.</summary>
    public required long SizeBytes { get; init; }

    public required int Processors { get; init; }

    public required IReadOnlyList<MemoryBenchmarkResult> Results { get; init; }

    /// <summary>Changes of real memory that notifiers were told of; only with userfaultfd.</summary>
    public long? NotifierRounds { get; init; }

    public string ToJson() => JsonSerializer.Serialize(this, MemoryReportJson.Default.MemoryBenchmarkReport);
}

/// <summary>One operation.</summary>
/// <param name="What">In words.</param>
/// <param name="Latency">Of one operation.</param>
/// <param name="BytesPerS">Of those that move or cover memory: by the median.</param>
/// <param name="RatioToCopy">Of those that move bytes: to a plain copy of as many, in rounds that took turns.</param>
/// <param name="RatioToPeer">Of those that have a peer in C: its median over ours, in rounds that took turns.</param>
public sealed record MemoryBenchmarkResult(
    string What,
    LatencyResult Latency,
    double? BytesPerS = null,
    double? RatioToCopy = null,
    double? RatioToPeer = null);

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    WriteIndented = true,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    UseStringEnumConverter = true)]
[JsonSerializable(typeof(MemoryBenchmarkReport))]
internal sealed partial class MemoryReportJson : JsonSerializerContext;
