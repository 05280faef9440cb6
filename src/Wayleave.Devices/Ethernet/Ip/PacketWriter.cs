using System.Buffers.Binary;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Ip;

/// <summary>Puts Ethernet and IP headers in front of what a host sends.</summary>
internal sealed class PacketWriter(MacAddress mac, ushort? vlan)
{
    /// <summary>RFC 1122 3.2.1.7 and RFC 8200: what hosts use.</summary>
    public const byte DefaultHopLimit = 64;

    /// <summary>Bytes of the Ethernet header.</summary>
    public int LinkBytes { get; } = vlan is null ? EthernetHeader.Size : EthernetHeader.Size + EthernetHeader.TagSize;

    public MacAddress Mac => mac;

    /// <summary>Bytes in front of what IP carries.</summary>
    public int HeaderBytes(IpAddress destination) =>
        LinkBytes + (destination.IsIPv4 ? Ipv4Header.Size : Ipv6Header.Size);

    /// <summary>Writes an Ethernet header.</summary>
    public void WriteLink(Span<byte> frame, MacAddress destination, EtherType type) =>
        new EthernetHeader(destination, mac, type, vlan).WriteTo(frame);

    /// <summary>Writes Ethernet and IP headers; IPv4 is never to be fragmented.</summary>
    /// <param name="frame">At least <see cref="HeaderBytes"/>.</param>
    /// <param name="to">Who gets it first.</param>
    /// <param name="source">Of the family of <paramref name="destination"/>.</param>
    /// <param name="destination">Where it goes.</param>
    /// <param name="protocol">What it carries.</param>
    /// <param name="payloadBytes">How much of it.</param>
    /// <param name="hopLimit">255 for neighbour discovery.</param>
    public void WriteHeaders(
        Span<byte> frame,
        MacAddress to,
        IpAddress source,
        IpAddress destination,
        IpProtocol protocol,
        int payloadBytes,
        byte hopLimit = DefaultHopLimit)
    {
        WriteLink(frame, to, destination.IsIPv4 ? EtherType.IPv4 : EtherType.IPv6);
        if (destination.IsIPv4)
        {
            new Ipv4Header
            {
                TotalBytes = Ipv4Header.Size + payloadBytes,
                TimeToLive = hopLimit,
                Protocol = protocol,
                Source = source,
                Destination = destination,
            }.WriteTo(frame[LinkBytes..]);
        }
        else
        {
            new Ipv6Header
            {
                PayloadBytes = payloadBytes,
                NextHeader = protocol,
                HopLimit = hopLimit,
                Source = source,
                Destination = destination,
            }.WriteTo(frame[LinkBytes..]);
        }
    }

    /// <summary>Fills in the checksum of an ICMP message of either version; its field is zero.</summary>
    public static void FinishIcmp(Span<byte> message, IpAddress source, IpAddress destination)
    {
        uint sum = source.IsIPv4
            ? 0
            : InternetChecksum.PseudoHeader(source, destination, IpProtocol.IcmpV6, message.Length);
        BinaryPrimitives.WriteUInt16BigEndian(
            message[2..], InternetChecksum.Finish(InternetChecksum.Add(message, sum)));
    }
}
