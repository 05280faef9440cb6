using System.Text.Json.Serialization;

namespace Wayleave.Cli.Commands;

/// <summary>What <c>wayleave gpu run --json</c> prints.</summary>
internal sealed record GpuRunDocument
{
    public string Schema { get; set; } = "wayleave.gpu-run.v1";

    public required string Gpu { get; init; }

    public required string Kernel { get; init; }

    /// <summary>Of the host; null for a ring, whose commands have no fence.</summary>
    public ulong? Job { get; init; }

    /// <summary><c>done</c> or <c>failed</c>.</summary>
    public required string State { get; init; }

    /// <summary><c>EFAULT</c>, <c>ETIME</c>, <c>ECANCELED</c>; absent when all is well.</summary>
    public string? Error { get; init; }

    /// <summary>The object that was written, or read by a checksum.</summary>
    public string? Target { get; init; }

    public ulong? Bytes { get; init; }

    /// <summary>CRC-32C of those bytes, as the GPU computed it after the kernel.</summary>
    public string? Checksum { get; init; }

    /// <summary>Commands of a ring that are done.</summary>
    public ulong? Commands { get; init; }

    /// <summary>From the submission to the end.</summary>
    public long? ElapsedUs { get; init; }
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(GpuRunDocument))]
internal sealed partial class GpuRunJson : JsonSerializerContext;
