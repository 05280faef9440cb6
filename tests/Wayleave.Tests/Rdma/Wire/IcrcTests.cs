using System.Buffers.Binary;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma.Wire;

public class IcrcTests
{
    public static TheoryData<string> Vectors => new(WorkedVectors.Names);

    [Theory]
    [MemberData(nameof(Vectors))]
    public void ROCE_02_Icrc_of_the_worked_vectors_is_byte_equal(string name)
    {
        byte[] packet = WorkedVectors.Packet(name);
        (IcrcFlow flow, ushort identification, int udpPayload) = FlowOf(packet);
        byte[] sealed_ = packet[udpPayload..];
        sealed_.AsSpan()[^4..].Clear();
        Icrc.Seal(flow, identification, sealed_);
        Assert.Equal(packet[udpPayload..], sealed_);
        Assert.True(Icrc.Verify(flow, identification, sealed_));
    }

    [Theory]
    [MemberData(nameof(Vectors))]
    public void ROCE_06_The_identification_of_a_packet_is_solved_from_its_icrc(string name)
    {
        byte[] packet = WorkedVectors.Packet(name);
        (IcrcFlow flow, ushort identification, int udpPayload) = FlowOf(packet);
        Assert.Equal(flow.IsIPv4, Icrc.TrySolveIdentification(flow, packet.AsSpan(udpPayload), out ushort solved));
        Assert.Equal(identification, solved);
    }

    [Fact]
    public void A_header_fed_with_its_payload_is_as_one_fed_before_it_at_every_length()
    {
        byte[] source = new byte[700];
        new Random(11).NextBytes(source);
        Bth bth = new() { Opcode = Opcode.RcWriteMiddle, DestQp = 0x123456, Psn = 0xFEDCBA, AckRequest = true };
        byte[] header = new byte[Bth.Size];
        bth.WriteTo(header);
        for (int length = 0; length <= source.Length; length++)
        {
            byte[] copy = new byte[length], apart = new byte[length];
            uint seed = (uint)length * 0x9E37_79B9;
            uint together = Icrc.AppendCopy(seed, bth, source.AsSpan(0, length), copy);
            Assert.Equal(Icrc.AppendCopy(Icrc.AppendBth(seed, header), source.AsSpan(0, length), apart), together);
            Assert.Equal(Icrc.AppendBth(seed, header), Icrc.AppendBth(seed, bth));
            Assert.True(copy.AsSpan().SequenceEqual(source.AsSpan(0, length)));
        }
    }

    [Fact]
    public void A_sealed_packet_verifies_by_the_tables_alone_and_each_flipped_bit_is_seen()
    {
        byte[] packet = new byte[Bth.Size + 300 + PacketView.IcrcSize];
        new Random(12).NextBytes(packet);
        IcrcFlow flow = new(Gid.FromIPv4(0x7F000001), Gid.FromIPv4(0x7F000002), 49152, 4791);
        Icrc.Seal(flow, 7, packet);
        uint register = Icrc.AppendBth(flow.Seed(packet.Length, 7), packet);
        register = Icrc.Append(CrcPath.Table, register, packet.AsSpan()[Bth.Size..^PacketView.IcrcSize]);
        Assert.Equal(~register, BinaryPrimitives.ReadUInt32LittleEndian(packet.AsSpan()[^PacketView.IcrcSize..]));
        for (int bit = 0; bit < 8 * packet.Length; bit++)
        {
            packet[bit / 8] ^= (byte)(1 << bit % 8);
            Assert.Equal(bit / 8 == 4, Icrc.Verify(flow, 7, packet)); // byte 4 may change on the way
            packet[bit / 8] ^= (byte)(1 << bit % 8);
        }
    }

    [Theory]
    [InlineData("192.0.2.1", "192.0.2.2")]
    [InlineData("2001:db8::1", "2001:db8::2")]
    public void The_seed_of_another_identification_follows_from_that_of_zero(string from, string to)
    {
        Assert.True(Gid.TryParse(from, out Gid source));
        Assert.True(Gid.TryParse(to, out Gid destination));
        IcrcFlow flow = new(source, destination, 49152, 4791);
        foreach (int bytes in (int[])[16, 1040, 4112, 65507])
        {
            foreach (ushort identification in (ushort[])[0, 1, 15, 255, 256, 0xFFFF])
            {
                uint seed = flow.Seed(bytes, identification: 0);
                Assert.Equal(flow.Seed(bytes, identification), flow.Reseed(seed, identification));
            }
        }
    }

    private static (IcrcFlow Flow, ushort Identification, int UdpPayload) FlowOf(byte[] packet)
    {
        bool isIPv4 = packet[0] >> 4 == 4;
        Span<byte> udp = packet.AsSpan(isIPv4 ? 20 : 40);
        ushort sourcePort = BinaryPrimitives.ReadUInt16BigEndian(udp);
        ushort destinationPort = BinaryPrimitives.ReadUInt16BigEndian(udp[2..]);
        if (!isIPv4)
        {
            Gid from = Gid.FromBytes(packet.AsSpan(8));
            Gid to = Gid.FromBytes(packet.AsSpan(24));
            return (new IcrcFlow(from, to, sourcePort, destinationPort), 0, 48);
        }

        Gid source = Gid.FromIPv4(BinaryPrimitives.ReadUInt32BigEndian(packet.AsSpan(12)));
        Gid destination = Gid.FromIPv4(BinaryPrimitives.ReadUInt32BigEndian(packet.AsSpan(16)));
        ushort identification = BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(4));
        return (new IcrcFlow(source, destination, sourcePort, destinationPort), identification, 28);
    }

    [Theory]
    [InlineData(0, 7)]
    [InlineData(300, 0)]
    [InlineData(65535, 1)]
    public void ROCE_07_A_packet_that_comes_to_another_place_gets_the_icrc_of_that(ushort from, ushort to)
    {
        IcrcFlow flow = new(Gid.FromIPv4(0x0A4D_0001), Gid.FromIPv4(0x0A4D_0002), 4791, 4791);
        foreach (int bytes in (int[])[16, 44, 1040, 4112])
        {
            byte[] packet = new byte[bytes];
            new Random(bytes).NextBytes(packet);
            Icrc.Seal(flow, from, packet);
            packet[0] ^= 0x40; // damage stays damage
            Icrc.Reidentify(packet, from, to, isFlushForRxe: false);
            Assert.False(Icrc.Verify(flow, to, packet));
            packet[0] ^= 0x40;
            Assert.True(Icrc.Verify(flow, to, packet));
        }

        byte[] flush = new byte[36];
        new Random(1).NextBytes(flush);
        Icrc.SealFlushForRxe(flow, from, flush);
        Icrc.Reidentify(flush, from, to, isFlushForRxe: true);
        Assert.True(Icrc.VerifyFlushFromRxe(flow, to, flush));
    }
}
