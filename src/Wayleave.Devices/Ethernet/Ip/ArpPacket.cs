using System.Buffers.Binary;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Ip;

/// <summary>An ARP packet of Ethernet and IPv4 (RFC 826).</summary>
public readonly record struct ArpPacket(
    bool IsRequest, MacAddress SenderMac, IpAddress SenderIp, MacAddress TargetMac, IpAddress TargetIp)
{
    /// <summary>Bytes without padding.</summary>
    public const int Size = 28;

    private const ulong EthernetAndIPv4 = 0x0001_0800_0604_0000;

    /// <summary>
    /// Reads a packet; false unless it is a request or a reply of Ethernet and IPv4 from one host.
    /// </summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out ArpPacket packet)
    {
        packet = default;
        if (bytes.Length < Size)
        {
            return false;
        }

        ulong first = BinaryPrimitives.ReadUInt64BigEndian(bytes);
        int operation = (ushort)first;
        packet = new ArpPacket(
            operation == 1,
            MacAddress.FromBytes(bytes[8..]),
            IpAddress.ReadIPv4(bytes[14..]),
            MacAddress.FromBytes(bytes[18..]),
            IpAddress.ReadIPv4(bytes[24..]));
        return (first & ~0xFFFFUL) == EthernetAndIPv4
            && operation is 1 or 2
            && !packet.SenderMac.IsMulticast
            && !packet.SenderIp.IsMulticast;
    }

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt64BigEndian(destination, EthernetAndIPv4 | (IsRequest ? 1u : 2u));
        SenderMac.WriteTo(destination[8..]);
        SenderIp.WriteTo(destination[14..]);
        TargetMac.WriteTo(destination[18..]);
        TargetIp.WriteTo(destination[24..Size]);
    }
}
