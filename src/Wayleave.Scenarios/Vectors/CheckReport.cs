using System.Text.Json;
using System.Text.Json.Serialization;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

/// <summary>
/// What <c>wayleave roce check</c> found: every RoCEv2 packet of a capture with the verdict on its ICRC.
/// </summary>
public sealed record CheckReport
{
    /// <summary>Names the form of the JSON; a change that could break a reader changes it.</summary>
    public string Schema { get; } = "wayleave.roce_check.v1";

    public required int PacketCount { get; init; }

    public required int Ok { get; init; }

    public required int Bad { get; init; }

    public required int Truncated { get; init; }

    /// <summary>Frames of other protocols and ports.</summary>
    public required int SkippedFrames { get; init; }

    /// <summary>Why the file could not be read to its end; null when it could.</summary>
    public string? FileProblem { get; init; }

    public required IReadOnlyList<PacketDescription> Packets { get; init; }

    /// <summary>
    /// Every packet was there from its first to its last byte, with the right ICRC, and the file was whole.
    /// </summary>
    public bool IsSound => Ok == PacketCount && FileProblem is null;

    /// <summary>Describes every packet of a capture.</summary>
    public static CheckReport Of(Capture capture)
    {
        ArgumentNullException.ThrowIfNull(capture);
        long first = capture.Packets.Count > 0 ? capture.Packets[0].TimestampNanoseconds : 0;
        return new CheckReport
        {
            PacketCount = capture.Packets.Count,
            Ok = capture.Count(IcrcVerdict.Ok),
            Bad = capture.Count(IcrcVerdict.Bad),
            Truncated = capture.Count(IcrcVerdict.Truncated),
            SkippedFrames = capture.SkippedFrames,
            FileProblem = capture.Status == PcapStatus.End ? null : PcapReader.Describe(capture.Status),
            Packets = [.. capture.Packets.Select(p => PacketDescription.Of(p, first))],
        };
    }

    /// <summary>The counts in one line: <c>4 packets: 3 ok, 1 bad; 2 other frames skipped</c>.</summary>
    [JsonIgnore]
    public string Summary
    {
        get
        {
            string text = $"{Plural.Of(PacketCount, "packet")}: {Ok} ok";
            text += Bad == 0 ? "" : $", {Bad} bad";
            text += Truncated == 0 ? "" : $", {Truncated} truncated";
            return SkippedFrames == 0 ? text : $"{text}; {Plural.Of(SkippedFrames, "other frame")} skipped";
        }
    }

    /// <summary>One JSON object on one line, keys in snake_case.</summary>
    public string ToJson() => JsonSerializer.Serialize(this, ReportJson.Default.CheckReport);
}
