using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma.Wire;

/// <summary>The worked vectors read as whole IP packets, and damaged bit by bit.</summary>
public class WorkedVectorTests
{
    private const int IPv4Header = 20;
    private const int IPv6Header = 40;
    private const int UdpHeader = 8;

    // Bits that a router or a switch may change: TOS, TTL, the two checksums, and byte 4 of the BTH.
    private static readonly HashSet<int> s_maskedIPv4 =
        [.. Bytes(1, 8, 10, 11, IPv4Header + 6, IPv4Header + 7, IPv4Header + UdpHeader + 4)];

    // The same of IPv6: traffic class and flow label start in the middle of the first byte.
    private static readonly HashSet<int> s_maskedIPv6 =
        [.. Enumerable.Range(4, 28), .. Bytes(7, IPv6Header + 6, IPv6Header + 7, IPv6Header + UdpHeader + 4)];

    public static TheoryData<string> Vectors => new(WorkedVectors.Names);

    public static TheoryData<string, string> Listings => new()
    {
        { "V1", "RC_SEND_ONLY qp=22 psn=a00000 ack payload=0" },
        { "V2", "RC_ACKNOWLEDGE qp=17 psn=a00000 syndrome=1f msn=1 payload=0" },
        { "V3", "RC_WRITE_ONLY qp=43 psn=a00000 ack va=20000000 rkey=00000b4c length=0 payload=0" },
        { "V4", "RC_READ_REQUEST qp=70 psn=a00000 ack va=20000000 rkey=00001452 length=0 payload=0" },
        { "V5", "RC_CMP_SWAP qp=82 psn=a00000 ack va=20000040 rkey=00001848 swap=1112131415161718 "
            + "compare=102030405060708 payload=0" },
        { "V6", "RC_ATOMIC_ACKNOWLEDGE qp=38 psn=a00000 syndrome=1f msn=1 original=102030405060708 payload=0" },
        { "V7", "RC_ATOMIC_WRITE qp=133 psn=a00000 ack va=20000040 rkey=0000296b length=8 payload=8" },
        { "V8", "RC_ACKNOWLEDGE qp=40 psn=a00000 syndrome=62 msn=0 payload=0" },
        { "V9", "RC_ACKNOWLEDGE qp=48 psn=a00000 syndrome=34 msn=0 payload=0" },
        { "V10", "RC_SEND_ONLY qp=25 psn=a00000 ack se pad=3 payload=61" },
        { "V11", "RC_WRITE_ONLY_IMM qp=61 psn=a00000 ack va=20000100 rkey=00001146 length=64 imm=cafef00d payload=64" },
        { "V12", "UD_SEND_ONLY qp=121 psn=a00000 qkey=11223344 source=51 payload=64" },
        { "V13", "RC_ACKNOWLEDGE qp=56 psn=a00000 syndrome=1f msn=1 payload=0" },
        { "V14", "RC_FETCH_ADD qp=148 psn=a00000 ack va=20000040 rkey=00002edf swap=10 compare=0 payload=0" },
        { "V15", "CNP qp=280 psn=000000 becn payload=16" },
        { "V16", "UC_SEND_ONLY qp=211 psn=cf1710 mig pad=2 payload=18" },
    };

    [Theory]
    [MemberData(nameof(Listings))]
    public void ROCE_01_Every_field_of_the_worked_vectors_is_decoded(string name, string listing)
    {
        Assert.Equal(FrameError.None, FrameView.TryParseNetwork(WorkedVectors.Packet(name), out FrameView frame));
        Assert.True(Icrc.Verify(frame));
        Assert.Equal(FrameHeader.RocePort, frame.DestinationPort);
        Assert.Equal(DropReason.None, PacketView.TryParse(frame.UdpPayload, out PacketView packet));
        Assert.Equal(listing, List(packet));
        Assert.True(packet.HasProperPad);
    }

    [Fact]
    public void ROCE_03_Bits_that_routers_change_do_not_touch_the_icrc_over_ipv4() =>
        AssertFlips("V1", s_maskedIPv4, isValid: true);

    [Fact]
    public void ROCE_05_Bits_that_routers_change_do_not_touch_the_icrc_over_ipv6() =>
        AssertFlips("V13", s_maskedIPv6, isValid: true);

    [Theory]
    [MemberData(nameof(Vectors))]
    public void ROCE_04_Any_other_flipped_bit_makes_the_packet_invalid(string name)
    {
        byte[] packet = WorkedVectors.Packet(name);
        HashSet<int> masked = packet[0] >> 4 == 4 ? s_maskedIPv4 : s_maskedIPv6;
        AssertFlips(name, Enumerable.Range(0, packet.Length * 8).Where(bit => !masked.Contains(bit)), isValid: false);
    }

    [Fact]
    public void ROCE_06_Every_identification_is_solved()
    {
        IcrcFlow flow = new(Gid.FromIPv4(0x0A4D0001), Gid.FromIPv4(0x0A4D0002), 0xC18C, FrameHeader.RocePort);
        byte[] packet = WorkedVectors.Packet("V11")[(IPv4Header + UdpHeader)..];
        for (int identification = 0; identification <= ushort.MaxValue; identification++)
        {
            Icrc.Seal(flow, (ushort)identification, packet);
            Assert.True(Icrc.TrySolveIdentification(flow, packet, out ushort solved));
            Assert.Equal(identification, solved);
        }
    }

    [Fact]
    public void ROCE_06_An_identification_is_solved_at_every_length_of_a_datagram()
    {
        IcrcFlow flow = new(Gid.FromIPv4(0x7F000002), Gid.FromIPv4(0x7F000003), 50_000, FrameHeader.RocePort);
        SplitMix64 random = new(6);
        byte[] buffer = new byte[65_507];
        random.Fill(buffer);
        for (int length = PacketView.SizeMin; length <= buffer.Length; length += length < 600 ? 1 : 1021)
        {
            ushort identification = (ushort)random.NextUInt64();
            Icrc.Seal(flow, identification, buffer.AsSpan(0, length));
            Assert.True(Icrc.TrySolveIdentification(flow, buffer.AsSpan(0, length), out ushort solved));
            Assert.Equal(identification, solved);
        }
    }

    [Fact]
    public void ROCE_06_A_damaged_packet_has_no_identification_but_for_one_in_65536()
    {
        IcrcFlow flow = new(Gid.FromIPv4(0x7F000002), Gid.FromIPv4(0x7F000003), 50_000, FrameHeader.RocePort);
        SplitMix64 random = new(7);
        byte[] packet = new byte[1040];
        random.Fill(packet);
        Icrc.Seal(flow, 4711, packet);
        int accepted = 0;
        for (int run = 0; run < 65_536; run++)
        {
            int at = random.Next(packet.Length - 4);
            uint damage = (uint)random.NextUInt64() | 1;
            for (int i = 0; i < 4; i++)
            {
                packet[at + i] ^= (byte)(damage >> 8 * i);
            }

            accepted += Icrc.TrySolveIdentification(flow, packet, out _) ? 1 : 0;
            for (int i = 0; i < 4; i++)
            {
                packet[at + i] ^= (byte)(damage >> 8 * i);
            }
        }

        // One is expected; the seed is fixed, so the number is too.
        Assert.InRange(accepted, 0, 6);
    }

    [Fact]
    public void ROCE_21_A_flush_is_sealed_in_the_way_of_the_standard_or_in_that_of_rxe()
    {
        IcrcFlow flow = new(Gid.FromIPv4(0x0A4D0001), Gid.FromIPv4(0x0A4D0002), 0xC18C, FrameHeader.RocePort);
        byte[] packet = new byte[36];
        new Bth { Opcode = Opcode.RcFlush, DestQp = 17, Psn = 5, AckRequest = true }.WriteTo(packet);
        new Feth(1).WriteTo(packet.AsSpan(12));
        new Reth(0x1000, 0x2000, 64).WriteTo(packet.AsSpan(16));

        Icrc.Seal(flow, 3, packet);
        Assert.True(Icrc.Verify(flow, 3, packet));
        Assert.False(Icrc.VerifyFlushFromRxe(flow, 3, packet));

        Icrc.SealFlushForRxe(flow, 3, packet);
        Assert.True(Icrc.VerifyFlushFromRxe(flow, 3, packet));
        Assert.False(Icrc.Verify(flow, 3, packet));

        // The same, spelt out: the headers with byte 4 as ones, and then once more as they are.
        byte[] twice = [.. packet.AsSpan(0, 32), .. packet.AsSpan(0, 32)];
        twice[4] = 0xFF;
        byte[] expected = new byte[4];
        Icrc.Finish(Icrc.Append(flow.Seed(packet.Length, 3), twice), expected);
        Assert.Equal(expected, packet[32..]);
        Assert.False(Icrc.VerifyFlushFromRxe(flow, 3, packet.AsSpan(0, 35)));
    }

    [Fact]
    public void Endpoints_of_different_families_have_no_flow() =>
        Assert.Throws<ArgumentException>(() => new IcrcFlow(Gid.FromIPv4(1), new Gid(1, 1), 1, 2));

    private static IEnumerable<int> Bytes(params int[] offsets) =>
        offsets.SelectMany(offset => Enumerable.Range(8 * offset, 8));

    private static void AssertFlips(string name, IEnumerable<int> bits, bool isValid)
    {
        byte[] packet = WorkedVectors.Packet(name);
        foreach (int bit in bits)
        {
            // Bits count from the most significant one of the first byte, as in the drawings of the specifications.
            packet[bit / 8] ^= (byte)(0x80 >> bit % 8);
            bool isWhole = FrameView.TryParseNetwork(packet, out FrameView frame) == FrameError.None;
            Assert.True(isValid == (isWhole && Icrc.Verify(frame)), $"{name} with bit {bit} flipped");
            packet[bit / 8] ^= (byte)(0x80 >> bit % 8);
        }
    }

    private static string List(PacketView packet)
    {
        OpcodeTraits traits = packet.Traits;
        string text = $"{OpcodeTraits.NameOf(packet.Opcode)} qp={packet.DestQp} psn={packet.Psn:x6}";
        text += packet.AckRequest ? " ack" : "";
        text += packet.Solicited ? " se" : "";
        text += packet.Bth.MigrationRequest ? " mig" : "";
        text += packet.BackwardCongestion ? " becn" : "";
        text += packet.PadCount > 0 ? $" pad={packet.PadCount}" : "";
        text += traits.Has(ExtensionHeaders.Deth) ? $" qkey={packet.Deth.QKey:x8} source={packet.Deth.SourceQp}" : "";
        text += traits.Has(ExtensionHeaders.Reth) ? Remote(packet.Reth) : "";
        text += traits.Has(ExtensionHeaders.AtomicEth) ? Atomic(packet.AtomicEth) : "";
        text += traits.Has(ExtensionHeaders.Aeth) ? $" syndrome={packet.Aeth.Syndrome:x2} msn={packet.Aeth.Msn}" : "";
        text += traits.Has(ExtensionHeaders.AtomicAckEth) ? $" original={packet.AtomicAck:x}" : "";
        text += traits.Has(ExtensionHeaders.ImmDt) ? $" imm={packet.Immediate:x8}" : "";
        return $"{text} payload={packet.PayloadBytes}";
    }

    private static string Remote(Reth header) => $" va={header.Va:x} rkey={header.RKey:x8} length={header.Length}";

    private static string Atomic(AtomicEth header) =>
        $" va={header.Va:x} rkey={header.RKey:x8} swap={header.SwapOrAdd:x} compare={header.Compare:x}";
}
