using System.Buffers.Binary;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma.Wire;

/// <summary>
/// Hostile bytes against the parsers and the ICRC. The seeds are fixed; WAYLEAVE_FUZZ_ROUNDS multiplies the number of
/// rounds for a longer hunt.
/// </summary>
public class WireFuzzTests
{
    private static readonly int s_rounds =
        int.TryParse(Environment.GetEnvironmentVariable("WAYLEAVE_FUZZ_ROUNDS"), out int rounds) ? rounds : 1;

    private static readonly IcrcFlow s_flow =
        new(Gid.FromIPv4(0x7F000002), Gid.FromIPv4(0x7F000003), 50_000, FrameHeader.RocePort);

    public static TheoryData<byte> Pads => new((byte)0, (byte)1, (byte)2, (byte)3);

    [Fact]
    public void F_01_Whatever_the_packet_parser_accepts_is_encoded_back_to_the_same_bytes()
    {
        SplitMix64 random = new(0xF01);
        byte[][] corpus = [.. Corpus()];
        int accepted = 0;
        for (int round = 0; round < 40_000 * s_rounds; round++)
        {
            byte[] bytes = Mutate(random, corpus[random.Next(corpus.Length)]);
            if (PacketView.TryParse(bytes, out PacketView packet) != DropReason.None)
            {
                Assert.True(packet.Bytes.IsEmpty);
                continue;
            }

            accepted++;
            Assert.True(packet.PayloadBytes >= 0);
            Assert.True(PacketCodec.Reencode(bytes).AsSpan().SequenceEqual(bytes), Convert.ToHexString(bytes));
        }

        // Otherwise the corpus or the mutations have rotted.
        Assert.InRange(accepted, 10_000 * s_rounds, 39_000 * s_rounds);
    }

    [Fact]
    public void F_01_Whatever_the_frame_parser_accepts_is_encoded_back_to_the_same_bytes()
    {
        SplitMix64 random = new(0xF011);
        byte[][] corpus = [.. Records().Select(record => record.Frame.ToArray())];
        int accepted = 0;
        for (int round = 0; round < 20_000 * s_rounds; round++)
        {
            byte[] bytes = Mutate(random, corpus[random.Next(corpus.Length)]);
            if (FrameView.TryParse(bytes, out FrameView frame) != FrameError.None)
            {
                Assert.True(frame.Network.IsEmpty);
                continue;
            }

            accepted++;
            byte[] written = new byte[frame.Header.Size + frame.UdpPayload.Length];
            frame.Header.WriteTo(written, frame.UdpPayload.Length);
            frame.UdpPayload.CopyTo(written.AsSpan(frame.Header.Size));
            if (frame.IsIPv4)
            {
                // The two things that are no part of the value: the reserved flag, and a checksum that was wrong.
                written[20] |= (byte)(bytes[20] & 0x80);
                bytes.AsSpan(24, 2).CopyTo(written.AsSpan(24));
            }

            Assert.True(bytes.AsSpan(0, written.Length).SequenceEqual(written), Convert.ToHexString(bytes));
        }

        Assert.InRange(accepted, 2_000 * s_rounds, 19_000 * s_rounds);
    }

    [Fact]
    public void F_01_The_capture_reader_ends_at_every_damage_and_never_leaves_the_capture()
    {
        SplitMix64 random = new(0xF012);
        byte[][] corpus = [.. CaptureFiles.Names.Select(CaptureFiles.Capture)];
        for (int round = 0; round < 3_000 * s_rounds; round++)
        {
            byte[] capture = Mutate(random, corpus[random.Next(corpus.Length)]);
            if (PcapReader.TryOpen(capture, out PcapReader? reader) != PcapStatus.Success)
            {
                Assert.Null(reader);
                continue;
            }

            long bytes = PcapWriter.HeaderBytes;
            while (reader!.TryRead(out PcapRecord record) == PcapStatus.Success)
            {
                bytes += 16 + record.Frame.Length;
                Assert.Equal(bytes, reader.OffsetBytes);
            }

            Assert.True(bytes <= capture.Length);
        }
    }

    [Fact]
    public void F_02_A_solved_identification_verifies_and_an_unsolved_packet_has_none()
    {
        SplitMix64 random = new(0xF02);
        byte[][] corpus = [.. Corpus()];
        for (int round = 0; round < 10_000 * s_rounds; round++)
        {
            byte[] packet = [.. corpus[random.Next(corpus.Length)]];
            ushort identification = (ushort)random.NextUInt64();
            Icrc.Seal(s_flow, identification, packet);
            bool isDamaged = random.Next(2) == 1;
            if (isDamaged)
            {
                int bit = random.Next(packet.Length * 8);
                packet[bit / 8] ^= (byte)(0x80 >> bit % 8);
                isDamaged = bit / 8 != 4; // The congestion byte of the BTH is not covered.
            }

            bool solved = Icrc.TrySolveIdentification(s_flow, packet, out ushort found);
            Assert.Equal(!isDamaged, Icrc.Verify(s_flow, identification, packet));
            Assert.Equal(solved, solved && Icrc.Verify(s_flow, found, packet));

            // One flipped bit is never mistaken for another identification in a packet this short: the first k for
            // which x^-k mod P is a polynomial below x^16 is 214135.
            Assert.Equal(!isDamaged, solved);
            Assert.Equal(isDamaged ? 0 : identification, found);
        }
    }

    [Fact]
    public void F_02_When_no_identification_is_found_none_of_the_65536_verifies()
    {
        SplitMix64 random = new(0xF021);
        byte[] packet = new byte[60];
        for (int round = 0; round < 4 * s_rounds; round++)
        {
            random.Fill(packet);
            bool solved = Icrc.TrySolveIdentification(s_flow, packet, out ushort found);
            for (int identification = 0; identification <= ushort.MaxValue; identification++)
            {
                Assert.Equal(solved && identification == found, Icrc.Verify(s_flow, (ushort)identification, packet));
            }
        }
    }

    [Fact]
    public void H_01_Anything_shorter_than_the_headers_of_its_opcode_is_dropped()
    {
        byte[] packet = new byte[64];
        new SplitMix64(0x401).Fill(packet);
        packet[1] = 0;
        for (int opcode = 0; opcode < 256; opcode++)
        {
            packet[0] = (byte)opcode;
            OpcodeTraits traits = OpcodeTraits.Of((Opcode)opcode);
            for (int length = 0; length < packet.Length; length++)
            {
                DropReason expected =
                    length < PacketView.SizeMin ? DropReason.TooShort
                    : !traits.IsDefined ? DropReason.UnknownOpcode
                    : length < traits.HeaderBytes + PacketView.IcrcSize ? DropReason.TooShort
                    : DropReason.None;
                Assert.Equal(expected, PacketView.TryParse(packet.AsSpan(0, length), out _));
            }
        }

        Assert.False(Icrc.Verify(s_flow, 0, packet.AsSpan(0, PacketView.SizeMin - 1)));
        Assert.False(Icrc.TrySolveIdentification(s_flow, packet.AsSpan(0, PacketView.SizeMin - 1), out _));
        Assert.Throws<ArgumentOutOfRangeException>(() => Icrc.Seal(s_flow, 0, new byte[PacketView.SizeMin - 1]));
    }

    [Theory]
    [MemberData(nameof(Pads))]
    public void H_02_A_pad_count_that_exceeds_what_follows_the_headers_is_dropped(byte pad)
    {
        foreach (Opcode opcode in Enum.GetValues<Opcode>())
        {
            for (int body = 0; body < 8; body++)
            {
                byte[] packet = new byte[OpcodeTraits.Of(opcode).HeaderBytes + body + PacketView.IcrcSize];
                new Bth { Opcode = opcode, PadCount = pad, DestQp = 17 }.WriteTo(packet);
                DropReason expected = body < pad ? DropReason.TooShort : DropReason.None;
                Assert.Equal(expected, PacketView.TryParse(packet, out PacketView view));
                Assert.Equal(body < pad ? 0 : body - pad, expected == DropReason.None ? view.Payload.Length : 0);
            }
        }
    }

    [Fact]
    public void H_03_Every_opcode_with_a_random_body_and_a_valid_icrc_is_parsed_by_its_table_row()
    {
        SplitMix64 random = new(0x403);
        byte[] buffer = new byte[160];
        for (int round = 0; round < 60 * s_rounds; round++)
        {
            for (int opcode = 0; opcode < 256; opcode++)
            {
                int length = PacketView.SizeMin + random.Next(buffer.Length - PacketView.SizeMin);
                Span<byte> packet = buffer.AsSpan(0, length);
                random.Fill(packet);
                packet[0] = (byte)opcode;
                packet[1] &= (byte)(random.Next(4) == 0 ? 0xFF : 0xF0);
                Icrc.Seal(s_flow, 0, packet);
                Assert.True(Icrc.Verify(s_flow, 0, packet));
                DropReason reason = PacketView.TryParse(packet, out PacketView view);
                OpcodeTraits traits = OpcodeTraits.Of((Opcode)opcode);
                bool isWhole = packet.Length >= traits.HeaderBytes + (packet[1] >> 4 & 3) + PacketView.IcrcSize;
                DropReason expected =
                    !traits.IsDefined ? DropReason.UnknownOpcode
                    : !isWhole ? DropReason.TooShort
                    : (packet[1] & 0xF) != 0 ? DropReason.WrongVersion
                    : (BinaryPrimitives.ReadUInt32BigEndian(packet[4..]) & Psn.Mask) == 0 ? DropReason.NoDestination
                    : DropReason.None;
                Assert.Equal(expected, reason);
                if (reason == DropReason.None)
                {
                    AssertAccessorsFollow(view);
                }
            }
        }
    }

    [Fact]
    public void Packets_without_destination_or_of_another_version_are_dropped()
    {
        byte[] packet = WorkedVectors.Packet("V1")[28..];
        packet[1] |= 0x01;
        Assert.Equal(DropReason.WrongVersion, PacketView.TryParse(packet, out _));
        packet[1] &= 0xF0;
        packet.AsSpan(5, 3).Clear();
        Assert.Equal(DropReason.NoDestination, PacketView.TryParse(packet, out _));
    }

    [Fact]
    public void The_data_path_allocates_nothing()
    {
        byte[] packet = new byte[4136];
        byte[] copy = new byte[4136];
        new Bth { Opcode = Opcode.RcWriteOnly, DestQp = 17 }.WriteTo(packet);
        long before = 0;
        for (int round = 0; round < 3; round++)
        {
            // The first rounds may compile and initialise.
            before = GC.GetAllocatedBytesForCurrentThread();
            Icrc.Seal(s_flow, 7, packet);
            PacketView.TryParse(packet, out PacketView view);
            _ = view.Reth;
            _ = Icrc.TrySolveIdentification(s_flow, packet, out _) && Icrc.Verify(s_flow, 7, packet);
            Icrc.AppendCopy(s_flow.Seed(packet.Length, 7), packet, copy);
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    // Each accessor either answers or says that the opcode has no such header; none reads beyond the packet.
    private static void AssertAccessorsFollow(PacketView view)
    {
        Assert.Equal(view.Traits.Has(ExtensionHeaders.Reth), Answers(view, v => v.Reth.Length));
        Assert.Equal(view.Traits.Has(ExtensionHeaders.Aeth), Answers(view, v => v.Aeth.Msn));
        Assert.Equal(view.Traits.Has(ExtensionHeaders.AtomicEth), Answers(view, v => v.AtomicEth.Compare));
        Assert.Equal(view.Traits.Has(ExtensionHeaders.AtomicAckEth), Answers(view, v => v.AtomicAck));
        Assert.Equal(view.Traits.Has(ExtensionHeaders.Deth), Answers(view, v => v.Deth.SourceQp));
        Assert.Equal(view.Traits.Has(ExtensionHeaders.Feth), Answers(view, v => v.Feth.Bits));
        Assert.Equal(view.Traits.Has(ExtensionHeaders.ImmDt), Answers(view, v => v.Immediate));
        Assert.Equal(view.Traits.Has(ExtensionHeaders.Ieth), Answers(view, v => v.InvalidateKey));
        int tail = view.PadCount + PacketView.IcrcSize;
        Assert.Equal(view.Bytes.Length, view.Traits.HeaderBytes + view.Payload.Length + tail);
    }

    private static bool Answers(PacketView view, Func<PacketView, ulong> accessor)
    {
        try
        {
            accessor(view);
            return true;
        }
        catch (InvalidOperationException)
        {
            return false;
        }
    }

    private static IEnumerable<byte[]> Corpus() =>
        WorkedVectors.Names.Select(WorkedVectors.Packet).Select(packet => packet[(packet[0] >> 4 == 4 ? 28 : 48)..])
            .Concat(Records().Select(UdpPayload));

    private static IEnumerable<PcapRecord> Records() => CaptureFiles.Names.SelectMany(CaptureFiles.ReadAll);

    private static byte[] UdpPayload(PcapRecord record)
    {
        Assert.Equal(FrameError.None, FrameView.TryParse(record.Frame.Span, out FrameView frame));
        return [.. frame.UdpPayload];
    }

    private static byte[] Mutate(SplitMix64 random, byte[] original)
    {
        byte[] bytes = [.. original];
        for (int change = random.Next(4); change > 0 && bytes.Length > 0; change--)
        {
            // The headers are where it hurts.
            int at = random.Next(random.Next(4) == 0 ? bytes.Length : Math.Min(bytes.Length, 60));
            switch (random.Next(5))
            {
                case 0:
                    bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 2:
                    bytes[at] = random.Next(2) == 0 ? (byte)0 : (byte)0xFF;
                    break;
                case 3:
                    Array.Resize(ref bytes, at);
                    break;
                default:
                    bytes = [.. bytes.AsSpan(0, at), .. new byte[1 + random.Next(8)], .. bytes.AsSpan(at)];
                    break;
            }
        }

        return bytes;
    }
}
