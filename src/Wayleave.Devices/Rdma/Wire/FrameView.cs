using System.Buffers.Binary;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// An Ethernet frame with a UDP datagram over IPv4 or IPv6, read in place. Strict, as a RoCEv2 receiver must be: no
/// VLAN tags, no IPv4 options, no IPv6 extension headers, no fragments, and lengths that agree. Checksums are not
/// judged; captures of a sender often lack them.
/// </summary>
public readonly ref struct FrameView
{
    internal const int EthernetBytes = 14;
    internal const int IPv4Bytes = 20;
    internal const int IPv6Bytes = 40;
    internal const int UdpBytes = 8;
    internal const byte ProtocolUdp = 17;
    internal const ushort EtherTypeIPv4 = 0x0800;
    internal const ushort EtherTypeIPv6 = 0x86DD;

    private readonly ReadOnlySpan<byte> _ethernet;
    private readonly ReadOnlySpan<byte> _network;

    private FrameView(ReadOnlySpan<byte> ethernet, ReadOnlySpan<byte> network)
    {
        _ethernet = ethernet;
        _network = network;
    }

    /// <summary>
    /// The IP packet without trailing bytes of the frame: padding to 60 bytes, or a frame check sequence.
    /// </summary>
    public ReadOnlySpan<byte> Network => _network;

    public bool IsIPv4 => _network[0] >> 4 == 4;

    /// <summary>Zero when the view was made from an IP packet.</summary>
    public MacAddress DestinationMac => _ethernet.IsEmpty ? default : MacAddress.FromBytes(_ethernet);

    /// <summary>Zero when the view was made from an IP packet.</summary>
    public MacAddress SourceMac => _ethernet.IsEmpty ? default : MacAddress.FromBytes(_ethernet[MacAddress.Size..]);

    public Gid Source => IsIPv4
        ? Gid.FromIPv4(BinaryPrimitives.ReadUInt32BigEndian(_network[12..]))
        : Gid.FromBytes(_network[8..]);

    public Gid Destination => IsIPv4
        ? Gid.FromIPv4(BinaryPrimitives.ReadUInt32BigEndian(_network[16..]))
        : Gid.FromBytes(_network[24..]);

    /// <summary>The TOS byte of IPv4, the traffic class of IPv6: DSCP and ECN.</summary>
    public byte TrafficClass => IsIPv4 ? _network[1] : (byte)(BinaryPrimitives.ReadUInt16BigEndian(_network) >> 4);

    /// <summary>20 bits; zero for IPv4.</summary>
    public uint FlowLabel => IsIPv4 ? 0 : BinaryPrimitives.ReadUInt32BigEndian(_network) & 0xF_FFFF;

    /// <summary>Time to live of IPv4, hop limit of IPv6.</summary>
    public byte HopLimit => _network[IsIPv4 ? 8 : 7];

    /// <summary>The IPv4 identification; zero for IPv6, which has none.</summary>
    public ushort Identification => IsIPv4 ? BinaryPrimitives.ReadUInt16BigEndian(_network[4..]) : (ushort)0;

    /// <summary>DF of IPv4; always true for IPv6.</summary>
    public bool DontFragment => !IsIPv4 || (_network[6] & 0x40) != 0;

    public ushort SourcePort => BinaryPrimitives.ReadUInt16BigEndian(Udp);

    public ushort DestinationPort => BinaryPrimitives.ReadUInt16BigEndian(Udp[2..]);

    public ushort UdpChecksum => BinaryPrimitives.ReadUInt16BigEndian(Udp[6..]);

    /// <summary>What the datagram carries: for RoCEv2 the packet from BTH to ICRC.</summary>
    public ReadOnlySpan<byte> UdpPayload => Udp[UdpBytes..];

    /// <summary>
    /// All headers as one value. The reserved flag of IPv4 and its header checksum are not part of it.
    /// </summary>
    public FrameHeader Header => new()
    {
        SourceMac = SourceMac,
        DestinationMac = DestinationMac,
        Source = Source,
        Destination = Destination,
        SourcePort = SourcePort,
        DestinationPort = DestinationPort,
        TrafficClass = TrafficClass,
        FlowLabel = FlowLabel,
        HopLimit = HopLimit,
        Identification = Identification,
        DontFragment = DontFragment,
        UdpChecksum = UdpChecksum,
    };

    private ReadOnlySpan<byte> Udp => _network[(IsIPv4 ? IPv4Bytes : IPv6Bytes)..];

    /// <summary>
    /// Looks at a frame that starts with its Ethernet header. Never throws; on an error the view is empty.
    /// </summary>
    public static FrameError TryParse(ReadOnlySpan<byte> frame, out FrameView view)
    {
        view = default;
        if (frame.Length < EthernetBytes)
        {
            return FrameError.Truncated;
        }

        ushort etherType = BinaryPrimitives.ReadUInt16BigEndian(frame[(2 * MacAddress.Size)..]);
        if (etherType is not (EtherTypeIPv4 or EtherTypeIPv6))
        {
            return FrameError.UnknownEtherType;
        }

        ReadOnlySpan<byte> packet = frame[EthernetBytes..];
        if (packet.Length > 0 && packet[0] >> 4 != (etherType == EtherTypeIPv4 ? 4 : 6))
        {
            return FrameError.WrongVersion;
        }

        FrameError error = TryParseNetwork(packet, out view);
        if (error == FrameError.None)
        {
            view = new FrameView(frame[..EthernetBytes], view._network);
        }

        return error;
    }

    /// <summary>Looks at a packet that starts with its IP header, as a raw socket delivers it.</summary>
    public static FrameError TryParseNetwork(ReadOnlySpan<byte> packet, out FrameView view)
    {
        view = default;
        if (packet.IsEmpty)
        {
            return FrameError.Truncated;
        }

        FrameError error = (packet[0] >> 4) switch
        {
            4 => CheckIPv4(packet),
            6 => CheckIPv6(packet),
            _ => FrameError.WrongVersion,
        };
        if (error != FrameError.None)
        {
            return error;
        }

        bool isIPv4 = packet[0] >> 4 == 4;
        int headerBytes = isIPv4 ? IPv4Bytes : IPv6Bytes;
        int lengthBytes = isIPv4
            ? BinaryPrimitives.ReadUInt16BigEndian(packet[2..])
            : IPv6Bytes + BinaryPrimitives.ReadUInt16BigEndian(packet[4..]);
        if (lengthBytes < headerBytes + UdpBytes)
        {
            return FrameError.InconsistentLength;
        }

        if (lengthBytes > packet.Length)
        {
            return FrameError.Truncated;
        }

        packet = packet[..lengthBytes];
        if (BinaryPrimitives.ReadUInt16BigEndian(packet[(headerBytes + 4)..]) != lengthBytes - headerBytes)
        {
            return FrameError.InconsistentLength;
        }

        view = new FrameView(default, packet);
        return FrameError.None;
    }

    /// <summary>
    /// The CRC register before the BTH, from the headers as they are: what <see cref="IcrcFlow.Seed"/> makes for a
    /// socket.
    /// </summary>
    internal uint IcrcSeed()
    {
        int headerBytes = (IsIPv4 ? IPv4Bytes : IPv6Bytes) + UdpBytes;
        Span<byte> masked = stackalloc byte[8 + IPv6Bytes + UdpBytes];
        masked[..8].Fill(0xFF);
        Span<byte> ip = masked.Slice(8, headerBytes);
        _network[..headerBytes].CopyTo(ip);
        if (IsIPv4)
        {
            ip[1] = 0xFF;
            ip[8] = 0xFF;
            ip[10] = ip[11] = 0xFF;
        }
        else
        {
            ip[0] |= 0x0F;
            ip[1] = ip[2] = ip[3] = 0xFF;
            ip[7] = 0xFF;
        }

        ip[^2] = ip[^1] = 0xFF;
        return CrcTable.Append(uint.MaxValue, masked[..(8 + headerBytes)]);
    }

    private static FrameError CheckIPv4(ReadOnlySpan<byte> packet)
    {
        if ((packet[0] & 0xF) != IPv4Bytes / 4)
        {
            return FrameError.IPv4HeaderLength;
        }

        if (packet.Length < IPv4Bytes)
        {
            return FrameError.Truncated;
        }

        // More fragments, or an offset.
        if ((BinaryPrimitives.ReadUInt16BigEndian(packet[6..]) & 0x3FFF) != 0)
        {
            return FrameError.Fragment;
        }

        return packet[9] == ProtocolUdp ? FrameError.None : FrameError.NotUdp;
    }

    private static FrameError CheckIPv6(ReadOnlySpan<byte> packet)
    {
        if (packet.Length < IPv6Bytes)
        {
            return FrameError.Truncated;
        }

        return packet[6] == ProtocolUdp ? FrameError.None : FrameError.NotUdp;
    }
}
