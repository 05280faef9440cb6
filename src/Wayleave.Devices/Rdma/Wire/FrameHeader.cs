using System.Buffers.Binary;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The Ethernet, IP and UDP headers around a RoCEv2 packet, as a value: what <see cref="FrameView"/> reads and what a
/// capture of a socket has to be completed with. <c>new FrameHeader()</c> is addressed to UDP port 4791 with DF set,
/// identification zero and 64 hops.
/// </summary>
public readonly record struct FrameHeader
{
    /// <summary>The UDP destination port of RoCEv2.</summary>
    public const ushort RocePort = 4791;

    /// <summary>Bytes that no frame's headers exceed.</summary>
    public const int SizeMax = FrameView.EthernetBytes + FrameView.IPv6Bytes + FrameView.UdpBytes;

    public FrameHeader()
    {
        DestinationPort = RocePort;
        HopLimit = 64;
        DontFragment = true;
    }

    public MacAddress SourceMac { get; init; }

    public MacAddress DestinationMac { get; init; }

    public Gid Source { get; init; }

    /// <summary>Of the same family as <see cref="Source"/>.</summary>
    public Gid Destination { get; init; }

    public ushort SourcePort { get; init; }

    public ushort DestinationPort { get; init; }

    /// <summary>DSCP and ECN.</summary>
    public byte TrafficClass { get; init; }

    /// <summary>IPv6 only; 20 bits.</summary>
    public uint FlowLabel { get; init; }

    /// <summary>Time to live of IPv4.</summary>
    public byte HopLimit { get; init; }

    /// <summary>IPv4 only.</summary>
    public ushort Identification { get; init; }

    /// <summary>IPv4 only.</summary>
    public bool DontFragment { get; init; }

    /// <summary>Zero: not computed, as RoCEv2 senders leave it; the ICRC is the check.</summary>
    public ushort UdpChecksum { get; init; }

    /// <summary>Bytes that <see cref="WriteTo"/> writes: 42 for IPv4, 62 for IPv6.</summary>
    public int Size =>
        FrameView.EthernetBytes + (Source.IsIPv4 ? FrameView.IPv4Bytes : FrameView.IPv6Bytes) + FrameView.UdpBytes;

    /// <summary>
    /// Writes <see cref="Size"/> bytes for a datagram of that many payload bytes, the IPv4 header checksum included.
    /// </summary>
    /// <exception cref="ArgumentException">The addresses are of different families.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The destination is too short, or the payload too long for a
    /// datagram.</exception>
    public void WriteTo(Span<byte> destination, int udpPayloadBytes)
    {
        if (Source.IsIPv4 != Destination.IsIPv4)
        {
            throw new ArgumentException($"{Source} and {Destination} are of different families", nameof(destination));
        }

        int udpLength = udpPayloadBytes + FrameView.UdpBytes;
        ArgumentOutOfRangeException.ThrowIfNegative(udpPayloadBytes);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(
            udpLength + (Source.IsIPv4 ? FrameView.IPv4Bytes : 0), ushort.MaxValue, nameof(udpPayloadBytes));

        destination = destination[..Size];
        destination.Clear();
        DestinationMac.WriteTo(destination);
        SourceMac.WriteTo(destination[MacAddress.Size..]);
        ushort etherType = Source.IsIPv4 ? FrameView.EtherTypeIPv4 : FrameView.EtherTypeIPv6;
        BinaryPrimitives.WriteUInt16BigEndian(destination[(2 * MacAddress.Size)..], etherType);

        Span<byte> ip = destination[FrameView.EthernetBytes..];
        if (Source.IsIPv4)
        {
            WriteIPv4(ip[..FrameView.IPv4Bytes], udpLength);
        }
        else
        {
            WriteIPv6(ip, udpLength);
        }

        Span<byte> udp = destination[^FrameView.UdpBytes..];
        BinaryPrimitives.WriteUInt16BigEndian(udp, SourcePort);
        BinaryPrimitives.WriteUInt16BigEndian(udp[2..], DestinationPort);
        BinaryPrimitives.WriteUInt16BigEndian(udp[4..], (ushort)udpLength);
        BinaryPrimitives.WriteUInt16BigEndian(udp[6..], UdpChecksum);
    }

    private void WriteIPv4(Span<byte> header, int udpLength)
    {
        header[0] = 0x45;
        header[1] = TrafficClass;
        BinaryPrimitives.WriteUInt16BigEndian(header[2..], (ushort)(FrameView.IPv4Bytes + udpLength));
        BinaryPrimitives.WriteUInt16BigEndian(header[4..], Identification);
        header[6] = DontFragment ? (byte)0x40 : (byte)0;
        header[8] = HopLimit;
        header[9] = FrameView.ProtocolUdp;
        BinaryPrimitives.WriteUInt32BigEndian(header[12..], Source.IPv4);
        BinaryPrimitives.WriteUInt32BigEndian(header[16..], Destination.IPv4);

        // RFC 791 3.1: the ones' complement of the ones' complement sum of the header, the checksum itself as zero.
        uint sum = 0;
        for (int offset = 0; offset < header.Length; offset += 2)
        {
            sum += BinaryPrimitives.ReadUInt16BigEndian(header[offset..]);
        }

        sum = (sum & 0xFFFF) + (sum >> 16);
        sum = (sum & 0xFFFF) + (sum >> 16);
        BinaryPrimitives.WriteUInt16BigEndian(header[10..], (ushort)~sum);
    }

    private void WriteIPv6(Span<byte> header, int udpLength)
    {
        BinaryPrimitives.WriteUInt32BigEndian(header, 6u << 28 | (uint)TrafficClass << 20 | (FlowLabel & 0xF_FFFF));
        BinaryPrimitives.WriteUInt16BigEndian(header[4..], (ushort)udpLength);
        header[6] = FrameView.ProtocolUdp;
        header[7] = HopLimit;
        Source.WriteTo(header[8..]);
        Destination.WriteTo(header[24..]);
    }
}
