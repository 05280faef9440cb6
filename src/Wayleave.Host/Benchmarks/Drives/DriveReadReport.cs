using System.Text.Json;
using System.Text.Json.Serialization;

namespace Wayleave.Host.Benchmarks.Drives;

/// <summary>What a drive benchmark found; as JSON, what scripts rely on.</summary>
public sealed record DriveReadReport
{
    /// <summary>Name and version of this form.</summary>
    public string Schema { get; init; } = "wayleave.bench-drive-read/1";

    /// <summary>What was read.</summary>
    public required string Path { get; init; }

    public required long SizeBytes { get; init; }

    public required string Drive { get; init; }

    public required string Device { get; init; }

    /// <summary>The peer's command line; of the first process if there are several.</summary>
    public required string Peer { get; init; }

    /// <summary>Reads that the peer has under way at once.</summary>
    public required int PeerStreams { get; init; }

    /// <summary>Bytes of the last read that passed through system memory, for want of a way to VRAM.</summary>
    public required ulong StagingBytes { get; init; }

    public required IReadOnlyList<DriveReadRound> Rounds { get; init; }

    public double MedianBytesPerS => Samples.Median(Rounds.Select(r => r.BytesPerS));

    public double MedianPeerBytesPerS => Samples.Median(Rounds.Select(r => r.PeerBytesPerS));

    /// <summary>Median of the rounds' ratios of the drive to the peer.</summary>
    public double MedianRatio => Samples.Median(Rounds.Select(r => r.Ratio));

    public string ToJson() => JsonSerializer.Serialize(this, DriveReadJson.Default.DriveReadReport);
}

/// <summary>One read by the drive and the read by the peer beside it; each goes first in every other round.</summary>
public sealed record DriveReadRound(double BytesPerS, double PeerBytesPerS)
{
    public double Ratio => BytesPerS / PeerBytesPerS;
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    WriteIndented = true)]
[JsonSerializable(typeof(DriveReadReport))]
internal sealed partial class DriveReadJson : JsonSerializerContext;
