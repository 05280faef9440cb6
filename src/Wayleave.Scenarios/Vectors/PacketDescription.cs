using System.Buffers.Binary;
using System.Text.Json.Serialization;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

/// <summary>
/// A captured packet as data: each header field by the name that the descriptions of the capture vectors use. A header
/// that the packet does not have is null, and so are all of them when the packet is malformed.
/// </summary>
public sealed record PacketDescription
{
    public required int Index { get; init; }

    /// <summary>Place among all frames of the capture, from 1.</summary>
    public required int Frame { get; init; }

    /// <summary>Microseconds since the first packet of the capture.</summary>
    [JsonPropertyName("t_us")]
    public required long TimeMicroseconds { get; init; }

    public string? SrcIp { get; init; }

    public string? DstIp { get; init; }

    /// <summary><c>RC_WRITE_FIRST</c>; <c>UNKNOWN_3F</c> for a code without meaning.</summary>
    public string? Opcode { get; init; }

    public string? BthOpcode { get; init; }

    public uint? Psn { get; init; }

    [JsonPropertyName("ackreq")]
    public bool? AckRequest { get; init; }

    [JsonPropertyName("se")]
    public bool? Solicited { get; init; }

    [JsonPropertyName("mig")]
    public bool? MigrationRequest { get; init; }

    public int? Pad { get; init; }

    public string? PKey { get; init; }

    public uint? DestQpn { get; init; }

    public DethDescription? Deth { get; init; }

    public RethDescription? Reth { get; init; }

    public AtomicDescription? Atomic { get; init; }

    public AethDescription? Aeth { get; init; }

    public AtomicAckDescription? AtomicAck { get; init; }

    [JsonPropertyName("immdt")]
    public string? Immediate { get; init; }

    public string? Ieth { get; init; }

    public string? Feth { get; init; }

    public MadDescription? Mad { get; init; }

    /// <summary>Null for IPv6, which has none.</summary>
    public ushort? IpId { get; init; }

    public ushort? UdpSrcPort { get; init; }

    /// <summary>Without the pad.</summary>
    public int? PayloadLen { get; init; }

    /// <summary>The four bytes of the ICRC in the order they travel.</summary>
    public string? Icrc { get; init; }

    public required IcrcVerdict IcrcVerdict { get; init; }

    /// <summary>Why a receiver drops the packet before it looks for a queue pair; null when it does not.</summary>
    public string? Malformed { get; init; }

    /// <summary>
    /// Describes a packet. <paramref name="firstNanoseconds"/> is the time stamp that counts as zero.
    /// </summary>
    public static PacketDescription Of(CapturedPacket packet, long firstNanoseconds)
    {
        ArgumentNullException.ThrowIfNull(packet);
        PacketDescription description = new()
        {
            Index = packet.Index,
            Frame = packet.FrameNumber,
            TimeMicroseconds = (packet.TimestampNanoseconds - firstNanoseconds) / 1000,
            IcrcVerdict = packet.Verdict,
            Malformed = PacketText.Problem(packet),
        };
        if (packet.FrameProblem != FrameError.None)
        {
            return description;
        }

        description = description with
        {
            SrcIp = packet.Header.Source.ToString(),
            DstIp = packet.Header.Destination.ToString(),
            IpId = packet.Header.Source.IsIPv4 ? packet.Header.Identification : null,
            UdpSrcPort = packet.Header.SourcePort,
        };
        if (!Bth.TryParse(packet.Bytes.Span, out Bth bth))
        {
            return description;
        }

        description = description with
        {
            Opcode = OpcodeTraits.NameOf(bth.Opcode),
            BthOpcode = $"0x{(byte)bth.Opcode:x2}",
            Psn = bth.Psn,
            AckRequest = bth.AckRequest,
            Solicited = bth.Solicited,
            MigrationRequest = bth.MigrationRequest,
            Pad = bth.PadCount,
            PKey = $"0x{bth.PKey:x4}",
            DestQpn = bth.DestQp,
        };
        return packet.TryView(out PacketView view) ? description.WithExtensions(packet, view) : description;
    }

    private PacketDescription WithExtensions(CapturedPacket packet, in PacketView view)
    {
        ExtensionHeaders headers = view.Traits.Headers;
        bool isWhole = packet.Verdict != IcrcVerdict.Truncated;
        return this with
        {
            Deth = Has(ExtensionHeaders.Deth) ? new($"0x{view.Deth.QKey:x8}", view.Deth.SourceQp) : null,
            Reth = Has(ExtensionHeaders.Reth)
                ? new($"0x{view.Reth.Va:x}", $"0x{view.Reth.RKey:x8}", view.Reth.Length)
                : null,
            Atomic = Has(ExtensionHeaders.AtomicEth) ? AtomicDescription.Of(view.AtomicEth) : null,
            Aeth = Has(ExtensionHeaders.Aeth) ? AethDescription.Of(view.Aeth) : null,
            AtomicAck = Has(ExtensionHeaders.AtomicAckEth) ? new($"0x{view.AtomicAck:x16}") : null,
            Immediate = Has(ExtensionHeaders.ImmDt) ? $"0x{view.Immediate:x8}" : null,
            Ieth = Has(ExtensionHeaders.Ieth) ? $"0x{view.InvalidateKey:x8}" : null,
            Feth = Has(ExtensionHeaders.Feth) ? $"0x{view.Feth.Bits:x8}" : null,
            Mad = isWhole && view.DestQp == MadDescription.QueuePair ? MadDescription.Of(view.Payload) : null,
            PayloadLen = view.PayloadBytes,
            Icrc = isWhole ? $"{BinaryPrimitives.ReverseEndianness(view.Icrc):x8}" : null,
        };

        bool Has(ExtensionHeaders header) => (headers & header) != 0;
    }
}
