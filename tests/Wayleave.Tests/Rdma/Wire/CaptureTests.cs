using System.Buffers;
using System.Buffers.Binary;
using System.Globalization;
using System.Text.Json;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma.Wire;

/// <summary>
/// Decodes every packet a kernel rxe sent and holds each field against what another decoder made of it.
/// </summary>
public class CaptureTests
{
    // What the descriptions say about the dialog rather than about the packet.
    private static readonly string[] s_aboutTheDialog =
        ["index", "work_request", "answers", "retransmission", "dropped", "ignored"];

    public static TheoryData<string> Names => new(CaptureFiles.Names);

    public static TheoryData<string> DescribedNames => new(CaptureFiles.DescribedNames);

    [Fact]
    public void There_are_captures_to_decode() => Assert.NotEmpty(CaptureFiles.Names);

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_icrc_of_a_capture_is_right_with_the_header_and_without_it(string name)
    {
        foreach (PcapRecord record in CaptureFiles.ReadAll(name))
        {
            Assert.Equal(FrameError.None, FrameView.TryParse(record.Frame.Span, out FrameView frame));
            Assert.True(Icrc.Verify(frame));

            IcrcFlow flow = new(frame.Source, frame.Destination, frame.SourcePort, frame.DestinationPort);
            Assert.Equal(frame.IcrcSeed(), flow.Seed(frame.UdpPayload.Length, frame.Identification));
            Assert.True(Icrc.Verify(flow, frame.Identification, frame.UdpPayload));
            Assert.Equal(frame.IsIPv4, Icrc.TrySolveIdentification(flow, frame.UdpPayload, out ushort solved));
            Assert.Equal(frame.Identification, solved);

            byte[] rebuilt = [.. frame.UdpPayload];
            rebuilt.AsSpan()[^4..].Clear();
            Icrc.Seal(flow, frame.Identification, rebuilt);
            Assert.True(frame.UdpPayload.SequenceEqual(rebuilt));
        }
    }

    [Theory]
    [MemberData(nameof(DescribedNames))]
    public void Every_field_of_a_capture_is_the_described_one(string name)
    {
        List<PcapRecord> records = CaptureFiles.ReadAll(name);
        using JsonDocument description = CaptureFiles.Description(name);
        JsonElement packets = description.RootElement.GetProperty("packets");
        Assert.Equal(packets.GetArrayLength(), records.Count);
        for (int index = 0; index < records.Count; index++)
        {
            long microseconds = (records[index].TimestampNanoseconds - records[0].TimestampNanoseconds) / 1000;
            IEnumerable<JsonProperty> fields = packets[index].EnumerateObject();
            foreach (JsonProperty field in fields.Where(f => !s_aboutTheDialog.Contains(f.Name)))
            {
                Assert.Equal(Text(field.Value), Decode(records[index], field.Name, microseconds));
            }

            AssertDescribesAllHeaders(records[index], packets[index]);
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void A_capture_written_from_what_was_decoded_is_the_same(string name)
    {
        ArrayBufferWriter<byte> output = new();
        PcapWriter.WriteHeader(output);
        List<PcapRecord> records = CaptureFiles.ReadAll(name);
        foreach (PcapRecord record in records)
        {
            Assert.Equal(FrameError.None, FrameView.TryParse(record.Frame.Span, out FrameView frame));
            byte[] packet = PacketCodec.Reencode(frame.UdpPayload);
            PcapWriter.WriteDatagram(output, record.TimestampNanoseconds, frame.Header, packet);
        }

        Assert.Equal(PcapStatus.Success, PcapReader.TryOpen(output.WrittenMemory, out PcapReader? reader));
        foreach (PcapRecord expected in records)
        {
            Assert.Equal(PcapStatus.Success, reader!.TryRead(out PcapRecord actual));
            Assert.Equal(expected.TimestampNanoseconds, actual.TimestampNanoseconds);
            Assert.Equal(expected.OriginalBytes, actual.OriginalBytes);
            Assert.Equal(Convert.ToHexString(expected.Frame.Span), Convert.ToHexString(actual.Frame.Span));
        }

        Assert.Equal(PcapStatus.End, reader!.TryRead(out _));
    }

    /// <summary>One field of a packet in the notation of the descriptions.</summary>
    private static string Decode(PcapRecord record, string field, long microseconds)
    {
        Assert.Equal(FrameError.None, FrameView.TryParse(record.Frame.Span, out FrameView frame));
        Assert.Equal(DropReason.None, PacketView.TryParse(frame.UdpPayload, out PacketView packet));
        return field switch
        {
            "t_us" => Number(microseconds),
            "direction" => (byte)frame.Source.Low == 1 ? "A->B" : "B->A",
            "opcode" => OpcodeTraits.NameOf(packet.Opcode),
            "bth_opcode" => $"0x{(byte)packet.Opcode:x2}",
            "psn" => Number(packet.Psn),
            "ackreq" => Flag(packet.AckRequest),
            "se" => Flag(packet.Solicited),
            "mig" => Flag(packet.Bth.MigrationRequest),
            "pad" => Number(packet.PadCount),
            "dest_qpn" => Number(packet.DestQp),
            "ip_id" => frame.IsIPv4 ? Number(frame.Identification) : "null",
            "udp_src_port" => Number(frame.SourcePort),
            "payload_len" => Number(packet.PayloadBytes),
            "icrc" => $"{BinaryPrimitives.ReverseEndianness(packet.Icrc):x8}",
            "deth" => $"qkey=0x{packet.Deth.QKey:x8} src_qpn={packet.Deth.SourceQp}",
            "reth" => $"va=0x{packet.Reth.Va:x} rkey=0x{packet.Reth.RKey:x8} length={packet.Reth.Length}",
            "atomic" => Atomic(packet.AtomicEth),
            "aeth" => Acknowledgement(packet.Aeth),
            "atomic_ack" => $"original=0x{packet.AtomicAck:x16}",
            "immdt" => $"0x{packet.Immediate:x8}",
            "ieth" => $"0x{packet.InvalidateKey:x8}",
            "mad" => Mad(packet.Payload),
            _ => $"no field {field} is known",
        };
    }

    private static string Atomic(AtomicEth header) =>
        $"va=0x{header.Va:x} rkey=0x{header.RKey:x8} "
        + $"swap_or_add=0x{header.SwapOrAdd:x16} compare=0x{header.Compare:x16}";

    private static string Acknowledgement(Aeth header) => $"syndrome=0x{header.Syndrome:x2} " + header.Kind switch
    {
        AethKind.Acknowledge => $"kind=ACK msn={header.Msn} credit={header.Value}",
        AethKind.ReceiverNotReady => $"kind=RNR_NAK msn={header.Msn} timer_code={header.Value}",
        AethKind.NegativeAcknowledge => $"kind=NAK msn={header.Msn} code={header.Value}",
        _ => "kind=reserved",
    };

    // Connection management is another layer; here its common header only shows that the payload is the right one.
    private static string Mad(ReadOnlySpan<byte> mad)
    {
        ushort attribute = BinaryPrimitives.ReadUInt16BigEndian(mad[16..]);
        string name = attribute switch
        {
            0x10 => "ConnectRequest",
            0x12 => "ConnectReject",
            0x13 => "ConnectReply",
            0x14 => "ReadyToUse",
            0x15 => "DisconnectRequest",
            0x16 => "DisconnectReply",
            _ => "unknown",
        };
        ulong transaction = BinaryPrimitives.ReadUInt64BigEndian(mad[8..]);
        return $"class=0x{mad[1]:x2} attribute=0x{attribute:x4} name={name} tid=0x{transaction:x16}";
    }

    private static void AssertDescribesAllHeaders(PcapRecord record, JsonElement described)
    {
        Assert.Equal(FrameError.None, FrameView.TryParse(record.Frame.Span, out FrameView frame));
        Assert.Equal(DropReason.None, PacketView.TryParse(frame.UdpPayload, out PacketView packet));
        foreach ((ExtensionHeaders header, string name) in new[]
        {
            (ExtensionHeaders.Deth, "deth"), (ExtensionHeaders.Reth, "reth"), (ExtensionHeaders.Feth, "feth"),
            (ExtensionHeaders.AtomicEth, "atomic"), (ExtensionHeaders.AtomicAckEth, "atomic_ack"),
            (ExtensionHeaders.Aeth, "aeth"), (ExtensionHeaders.ImmDt, "immdt"), (ExtensionHeaders.Ieth, "ieth"),
        })
        {
            Assert.Equal(packet.Traits.Has(header), described.TryGetProperty(name, out _));
        }
    }

    private static string Text(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Object => string.Join(' ', value.EnumerateObject().Select(f => $"{f.Name}={Text(f.Value)}")),
        JsonValueKind.String => value.GetString()!,
        JsonValueKind.Null => "null",
        JsonValueKind.True => Flag(true),
        JsonValueKind.False => Flag(false),
        _ => value.GetRawText(),
    };

    private static string Flag(bool value) => value ? "true" : "false";

    private static string Number(long value) => value.ToString(CultureInfo.InvariantCulture);
}
