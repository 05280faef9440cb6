using System.Text.Json;
using System.Text.Json.Serialization;

namespace Wayleave.Host.Benchmarks.Tcp;

/// <summary>What a benchmark of TCP into device memory found; as JSON, what scripts rely on.</summary>
public sealed record TcpReceiveReport
{
    /// <summary>Name and version of this form.</summary>
    public string Schema { get; init; } = "wayleave.bench-tcp-receive/1";

    public required int MtuBytes { get; init; }

    public required long RegionBytes { get; init; }

    public required long HoldBytes { get; init; }

    public required IReadOnlyList<TcpReceiveRound> Rounds { get; init; }

    public double MedianBytesPerS => Samples.Median(Rounds.Select(r => r.BytesPerS));

    /// <summary>Processor time of the receiving process per gigabyte (10^9).</summary>
    public double MedianCpuSPerGb => Samples.Median(Rounds.Select(r => r.CpuSPerGb));

    /// <summary>Frames read and thrown away, in payload bytes; null without.</summary>
    public double? MedianLimitBytesPerS => Rounds.All(r => r.LimitBytesPerS is not null)
        ? Samples.Median(Rounds.Select(r => r.LimitBytesPerS!.Value))
        : null;

    public string ToJson() => JsonSerializer.Serialize(this, TcpReceiveJson.Default.TcpReceiveReport);
}

/// <summary>One test of the sender.</summary>
public sealed record TcpReceiveRound
{
    public required double BytesPerS { get; init; }

    public required long Bytes { get; init; }

    public required double CpuSPerGb { get; init; }

    /// <summary>Processor time of the sender per gigabyte, as it says itself.</summary>
    public required double SenderCpuSPerGb { get; init; }

    /// <summary>Bytes that were copied to host memory for the reader: cookies, and what found no chunk.</summary>
    public required long StagedBytes { get; init; }

    /// <summary>
    /// How often the NIC copied a byte that is in device memory: 0 when all of them were read straight into it, 1 when
    /// all were placed after they were read. Null when none got there.
    /// </summary>
    public required double? CopiesPerByte { get; init; }

    /// <summary>Frames that were read to the wrong place first.</summary>
    public required long ScattersRepaired { get; init; }

    public required long Retransmits { get; init; }

    public double? LimitBytesPerS { get; init; }
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    WriteIndented = true)]
[JsonSerializable(typeof(TcpReceiveReport))]
internal sealed partial class TcpReceiveJson : JsonSerializerContext;
