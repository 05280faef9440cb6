using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

/// <summary>
/// A captured packet as a line for people, in the manner of tcpdump: seconds, frame bytes, addresses, headers, verdict.
/// </summary>
public static class PacketText
{
    private const int DataBytesShown = 12;

    /// <summary>
    /// <c>0.000437   62 10.77.0.2:49950&gt;10.77.0.1:4791 id=3ffe RC_ACKNOWLEDGE qp=46 psn=a00000 ...</c>.
    /// PSNs, keys and addresses are hexadecimal. <paramref name="firstNanoseconds"/> is the time stamp that counts as
    /// zero.
    /// </summary>
    public static string Line(CapturedPacket packet, long firstNanoseconds)
    {
        ArgumentNullException.ThrowIfNull(packet);
        decimal seconds = (packet.TimestampNanoseconds - firstNanoseconds) / 1000 / 1_000_000m;
        StringBuilder line = new();
        line.Append(CultureInfo.InvariantCulture, $"{seconds,8:0.000000} {packet.WireBytes,4}");
        if (packet.FrameProblem == FrameError.None)
        {
            AppendAddresses(line, packet.Header);
            AppendHeaders(line, packet);
        }

        if (packet.TryView(out PacketView view) && packet.Verdict != IcrcVerdict.Truncated)
        {
            line.Append(CultureInfo.InvariantCulture, $" icrc={BinaryPrimitives.ReverseEndianness(view.Icrc):x8}");
        }

        line.Append(' ').Append(Word(packet.Verdict));
        return Problem(packet) is { } problem ? line.Append(": ").Append(problem).ToString() : line.ToString();
    }

    /// <summary>The verdict as this format and the JSON one print it.</summary>
    public static string Word(IcrcVerdict verdict) => verdict switch
    {
        IcrcVerdict.Ok => "ok",
        IcrcVerdict.Bad => "bad",
        _ => "truncated",
    };

    /// <summary>What is wrong with the packet besides its ICRC; null when nothing is.</summary>
    public static string? Problem(CapturedPacket packet)
    {
        ArgumentNullException.ThrowIfNull(packet);
        string? frame = packet.FrameProblem switch
        {
            FrameError.None => null,
            FrameError.IPv4HeaderLength => "IPv4 options, which RoCEv2 packets cannot have",
            FrameError.Fragment => "an IP fragment, which RoCEv2 packets never are",
            FrameError.InconsistentLength => "the lengths in the IP and UDP headers disagree",
            FrameError.WrongVersion => "the IP version is not that of the frame",
            _ => "not a whole UDP datagram",
        };
        return frame ?? packet.PacketProblem switch
        {
            DropReason.None => null,
            DropReason.TooShort => "shorter than its headers",
            DropReason.UnknownOpcode => "opcode without meaning",
            DropReason.WrongVersion => "transport version is not 0",
            DropReason.NoDestination => "destination queue pair 0",
            _ => packet.PacketProblem.ToString(),
        };
    }

    private static void AppendAddresses(StringBuilder line, in FrameHeader header)
    {
        line.Append(CultureInfo.InvariantCulture,
            $" {header.Source}:{header.SourcePort}>{header.Destination}:{header.DestinationPort}");
        if (header.Source.IsIPv4)
        {
            line.Append(
                CultureInfo.InvariantCulture,
                $" id={header.Identification:x4} df={(header.DontFragment ? 1 : 0)} ttl={header.HopLimit}");
        }
        else
        {
            line.Append(CultureInfo.InvariantCulture, $" hlim={header.HopLimit}");
        }

        line.Append(CultureInfo.InvariantCulture, $" udpck={header.UdpChecksum:x4}");
    }

    private static void AppendHeaders(StringBuilder line, CapturedPacket packet)
    {
        if (!Bth.TryParse(packet.Bytes.Span, out Bth bth))
        {
            return;
        }

        line.Append(
            CultureInfo.InvariantCulture, $" {OpcodeTraits.NameOf(bth.Opcode)} qp={bth.DestQp} psn={bth.Psn:x6}")
            .Append(bth.Solicited ? " SE" : "")
            .Append(bth.MigrationRequest ? " MIG" : "")
            .Append(bth.AckRequest ? " ACKREQ" : "");
        if (bth.PKey != Bth.DefaultPKey)
        {
            line.Append(CultureInfo.InvariantCulture, $" pkey={bth.PKey:x4}");
        }

        if (bth.PadCount != 0)
        {
            line.Append(CultureInfo.InvariantCulture, $" pad={bth.PadCount}");
        }

        if (packet.TryView(out PacketView view))
        {
            AppendExtensions(line, view);
            AppendData(line, view, isWhole: packet.Verdict != IcrcVerdict.Truncated);
        }
    }

    private static void AppendExtensions(StringBuilder line, in PacketView view)
    {
        OpcodeTraits traits = view.Traits;
        if (traits.Has(ExtensionHeaders.Deth))
        {
            line.Append(CultureInfo.InvariantCulture, $" qkey={view.Deth.QKey:x8} srcqp={view.Deth.SourceQp}");
        }

        if (traits.Has(ExtensionHeaders.Feth))
        {
            line.Append(CultureInfo.InvariantCulture, $" feth={view.Feth.Bits:x8}");
        }

        if (traits.Has(ExtensionHeaders.Reth))
        {
            line.Append(
                CultureInfo.InvariantCulture, $" va={view.Reth.Va:x} rkey={view.Reth.RKey:x8} len={view.Reth.Length}");
        }

        if (traits.Has(ExtensionHeaders.AtomicEth))
        {
            AtomicEth atomic = view.AtomicEth;
            line.Append(
                CultureInfo.InvariantCulture,
                $" va={atomic.Va:x} rkey={atomic.RKey:x8} swap/add={atomic.SwapOrAdd:x} cmp={atomic.Compare:x}");
        }

        if (traits.Has(ExtensionHeaders.Aeth))
        {
            line.Append(CultureInfo.InvariantCulture, $" {Acknowledgement(view.Aeth)} msn={view.Aeth.Msn}");
        }

        if (traits.Has(ExtensionHeaders.AtomicAckEth))
        {
            line.Append(CultureInfo.InvariantCulture, $" orig={view.AtomicAck:x16}");
        }

        if (traits.Has(ExtensionHeaders.ImmDt))
        {
            line.Append(CultureInfo.InvariantCulture, $" imm={view.Immediate:x8}");
        }

        if (traits.Has(ExtensionHeaders.Ieth))
        {
            line.Append(CultureInfo.InvariantCulture, $" inv_rkey={view.InvalidateKey:x8}");
        }
    }

    private static void AppendData(StringBuilder line, in PacketView view, bool isWhole)
    {
        if (view.PayloadBytes == 0)
        {
            return;
        }

        ReadOnlySpan<byte> payload = view.Payload;
        if (isWhole && view.DestQp == MadDescription.QueuePair && MadDescription.Of(payload) is { } mad)
        {
            ulong transaction = BinaryPrimitives.ReadUInt64BigEndian(payload[8..]);
            line.Append(
                CultureInfo.InvariantCulture,
                $" MAD class={mad.Class[2..]} attr={mad.Attribute[2..]}({mad.Name}) tid={transaction:x}");
        }

        line.Append(CultureInfo.InvariantCulture, $" data[{payload.Length}]");
        if (isWhole)
        {
            line.Append('=').Append(Convert.ToHexStringLower(payload[..Math.Min(DataBytesShown, payload.Length)]))
                .Append(payload.Length > DataBytesShown ? ".." : "");
        }
    }

    private static string Acknowledgement(Aeth header) => header.Kind switch
    {
        AethKind.Acknowledge => string.Create(CultureInfo.InvariantCulture, $"ACK credit={header.Value}"),
        AethKind.ReceiverNotReady => string.Create(CultureInfo.InvariantCulture, $"RNR_NAK timer={header.Value}"),
        AethKind.NegativeAcknowledge =>
            string.Create(CultureInfo.InvariantCulture, $"NAK {header.Value} ({Reason(header.Syndrome)})"),
        _ => string.Create(CultureInfo.InvariantCulture, $"reserved syndrome {header.Syndrome:x2}"),
    };

    private static string Reason(byte syndrome) => syndrome switch
    {
        Aeth.NakPsnSequence => "PSN sequence error",
        Aeth.NakInvalidRequest => "invalid request",
        Aeth.NakRemoteAccess => "remote access error",
        Aeth.NakRemoteOperation => "remote operational error",
        _ => "unknown",
    };
}
