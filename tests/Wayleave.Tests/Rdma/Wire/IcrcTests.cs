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
}
