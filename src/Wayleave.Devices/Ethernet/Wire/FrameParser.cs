using System.Buffers.Binary;

namespace Wayleave.Devices.Ethernet.Wire;

// Ethernet -> tag -> ARP | IPv4 | IPv6 -> extension headers -> TCP | UDP | ICMP -> what the link says -> checksum
//
// Nothing inside the frame is believed before it was checked, and nothing is remembered: a frame that is refused leaves
// no trace but a reason. The checksum comes last because it reads every byte.

/// <summary>
/// Reads frames as an end host must: no fragments, no source routes, no IPv4 options at all, bounded IPv6 extension
/// headers, lengths that agree, and a link header that agrees with the packet. Pure.
/// </summary>
public static class FrameParser
{
    /// <summary>IPv6 extension headers of one packet.</summary>
    public const int ExtensionHeadersMax = 8;

    /// <summary>Bytes of all of them.</summary>
    public const int ExtensionBytesMax = 256;

    private const int ArpBytes = 28; // of Ethernet and IPv4
    private const int UdpHeaderBytes = 8;
    private const int UdpChecksumOffset = 6;
    private const int IcmpHeaderBytes = 8;
    private const int IcmpV6HeaderBytes = 4;
    private const byte JumboPayload = 0xC2;

    /// <summary>Reads a frame.</summary>
    /// <param name="frame">From the Ethernet header on, without FCS; perhaps padded.</param>
    /// <param name="link">What the link says about it; <c>default</c> for a link without offloads.</param>
    /// <param name="layout">Valid when the result is <see cref="FrameDrop.None"/>.</param>
    public static FrameDrop Parse(ReadOnlySpan<byte> frame, in VirtioNetHeader link, out FrameLayout layout)
    {
        layout = default;
        if (!EthernetHeader.TryParse(frame, out EthernetHeader ethernet))
        {
            return FrameDrop.TooShort;
        }

        if (ethernet.Source.IsMulticast)
        {
            return FrameDrop.GroupSource;
        }

        layout = new FrameLayout
        {
            DestinationMac = ethernet.Destination,
            SourceMac = ethernet.Source,
            Vlan = ethernet.Vlan,
            EtherType = ethernet.Type,
            NetworkOffset = ethernet.SizeBytes,
        };
        FrameDrop drop = ethernet.Type switch
        {
            EtherType.IPv4 => ParseIPv4(frame, ref layout),
            EtherType.IPv6 => ParseIPv6(frame, ref layout),
            EtherType.Arp => ParseArp(frame, ref layout),
            EtherType.Vlan or EtherType.ServiceVlan => FrameDrop.UnexpectedVlan,
            _ => FrameDrop.UnknownEtherType,
        };
        if (drop != FrameDrop.None)
        {
            return drop;
        }

        return IsConsistent(frame, link, layout) ? CheckTransport(frame, link, layout) : FrameDrop.LinkHeader;
    }

    private static FrameDrop ParseArp(ReadOnlySpan<byte> frame, ref FrameLayout layout)
    {
        int offset = layout.NetworkOffset;
        if (frame.Length < offset + ArpBytes)
        {
            return FrameDrop.NetworkHeader;
        }

        layout = layout with { TransportOffset = offset, PayloadOffset = offset, EndOffset = offset + ArpBytes };
        return FrameDrop.None;
    }

    private static FrameDrop ParseIPv4(ReadOnlySpan<byte> frame, ref FrameLayout layout)
    {
        ReadOnlySpan<byte> packet = frame[layout.NetworkOffset..];
        if (!Ipv4Header.TryParse(packet, out Ipv4Header ip))
        {
            return FrameDrop.NetworkHeader;
        }

        if (InternetChecksum.Finish(InternetChecksum.Add(packet[..ip.HeaderBytes])) != 0)
        {
            return FrameDrop.NetworkChecksum;
        }

        if (ip.HeaderBytes != Ipv4Header.Size)
        {
            return FrameDrop.NetworkOptions;
        }

        if (ip.IsFragment)
        {
            return FrameDrop.Fragment;
        }

        if (ip.TimeToLive == 0 || !CanComeFrom(ip.Source, ip.Destination) || ip.Source.IsUnspecified)
        {
            return FrameDrop.Martian;
        }

        layout = layout with
        {
            Protocol = ip.Protocol,
            TransportOffset = layout.NetworkOffset + Ipv4Header.Size,
            EndOffset = layout.NetworkOffset + ip.TotalBytes,
            Source = ip.Source,
            Destination = ip.Destination,
            HopLimit = ip.TimeToLive,
            TrafficClass = ip.TrafficClass,
        };
        return ParseTransport(frame, ref layout);
    }

    private static FrameDrop ParseIPv6(ReadOnlySpan<byte> frame, ref FrameLayout layout)
    {
        ReadOnlySpan<byte> packet = frame[layout.NetworkOffset..];
        if (!Ipv6Header.TryParse(packet, out Ipv6Header ip))
        {
            return FrameDrop.NetworkHeader;
        }

        FrameDrop drop = SkipExtensionHeaders(
            packet.Slice(Ipv6Header.Size, ip.PayloadBytes), ip.NextHeader, out IpProtocol protocol, out int skipped);
        if (drop != FrameDrop.None)
        {
            return drop;
        }

        // RFC 4862: duplicate address detection has no source yet.
        bool hasSource = !ip.Source.IsUnspecified || protocol == IpProtocol.IcmpV6;
        if (ip.HopLimit == 0 || !CanComeFrom(ip.Source, ip.Destination) || !hasSource)
        {
            return FrameDrop.Martian;
        }

        layout = layout with
        {
            Protocol = protocol,
            TransportOffset = layout.NetworkOffset + Ipv6Header.Size + skipped,
            EndOffset = layout.NetworkOffset + Ipv6Header.Size + ip.PayloadBytes,
            Source = ip.Source,
            Destination = ip.Destination,
            HopLimit = ip.HopLimit,
            TrafficClass = ip.TrafficClass,
        };
        return ParseTransport(frame, ref layout);
    }

    private static bool CanComeFrom(IpAddress source, IpAddress destination) =>
        source.CanBeSource && source != destination && !destination.IsLoopback && !destination.IsUnspecified;

    private static FrameDrop SkipExtensionHeaders(
        ReadOnlySpan<byte> payload, IpProtocol first, out IpProtocol protocol, out int skipped)
    {
        (protocol, skipped) = (first, 0);
        for (int count = 0; ; count++)
        {
            if (protocol == IpProtocol.Fragment)
            {
                return FrameDrop.Fragment;
            }

            bool isOptions = protocol is IpProtocol.HopByHopOptions or IpProtocol.DestinationOptions;
            if (!isOptions)
            {
                return protocol is IpProtocol.Routing or IpProtocol.NoNextHeader
                    ? FrameDrop.ExtensionHeaders
                    : FrameDrop.None;
            }

            // RFC 8200 4.1: hop-by-hop options come first or not at all.
            bool isMisplaced = protocol == IpProtocol.HopByHopOptions && count > 0;
            ReadOnlySpan<byte> header = payload[skipped..];
            if (isMisplaced || count == ExtensionHeadersMax || header.Length < 8)
            {
                return FrameDrop.ExtensionHeaders;
            }

            int lengthBytes = (header[1] + 1) * 8;
            if (lengthBytes > header.Length
                || skipped + lengthBytes > ExtensionBytesMax
                || !AreKnownOrSkippable(header[2..lengthBytes]))
            {
                return FrameDrop.ExtensionHeaders;
            }

            protocol = (IpProtocol)header[0];
            skipped += lengthBytes;
        }
    }

    // RFC 8200 4.2: the two highest bits of an unknown option say whether it may be skipped.
    private static bool AreKnownOrSkippable(ReadOnlySpan<byte> options)
    {
        while (options.Length > 0)
        {
            byte type = options[0];
            if (type == 0)
            {
                options = options[1..]; // Pad1 has no length
                continue;
            }

            if (options.Length < 2 || 2 + options[1] > options.Length || type == JumboPayload || type >> 6 != 0)
            {
                return false;
            }

            options = options[(2 + options[1])..];
        }

        return true;
    }

    private static FrameDrop ParseTransport(ReadOnlySpan<byte> frame, ref FrameLayout layout)
    {
        ReadOnlySpan<byte> segment = frame[layout.TransportOffset..layout.EndOffset];
        layout = layout with { PayloadOffset = layout.TransportOffset };
        switch (layout.Protocol)
        {
            case IpProtocol.Tcp:
                if (!TcpHeader.TryParse(segment, out TcpHeader tcp)
                    || tcp.SourcePort == 0
                    || tcp.DestinationPort == 0
                    || layout.Destination.IsMulticast
                    || layout.DestinationMac.IsMulticast)
                {
                    return FrameDrop.TransportHeader;
                }

                layout = layout with
                {
                    Kind = FrameKind.Tcp,
                    Tcp = tcp,
                    SourcePort = tcp.SourcePort,
                    DestinationPort = tcp.DestinationPort,
                    PayloadOffset = layout.TransportOffset + tcp.HeaderBytes,
                };
                return FrameDrop.None;

            case IpProtocol.Udp:
                return ParseUdp(segment, ref layout);

            case IpProtocol.Icmp:
                return segment.Length >= IcmpHeaderBytes && layout.Source.IsIPv4
                    ? FrameDrop.None
                    : FrameDrop.TransportHeader;

            case IpProtocol.IcmpV6:
                return segment.Length >= IcmpV6HeaderBytes && !layout.Source.IsIPv4
                    ? FrameDrop.None
                    : FrameDrop.TransportHeader;

            default:
                return FrameDrop.None;
        }
    }

    private static FrameDrop ParseUdp(ReadOnlySpan<byte> segment, ref FrameLayout layout)
    {
        if (segment.Length < UdpHeaderBytes)
        {
            return FrameDrop.TransportHeader;
        }

        // RFC 768 lets the source be 0; a service that answers there would answer to nobody (H-22).
        ushort source = BinaryPrimitives.ReadUInt16BigEndian(segment);
        ushort destination = BinaryPrimitives.ReadUInt16BigEndian(segment[2..]);
        int lengthBytes = BinaryPrimitives.ReadUInt16BigEndian(segment[4..]);
        if (source == 0 || destination == 0 || lengthBytes < UdpHeaderBytes || lengthBytes > segment.Length)
        {
            return FrameDrop.TransportHeader;
        }

        layout = layout with
        {
            SourcePort = source,
            DestinationPort = destination,
            PayloadOffset = layout.TransportOffset + UdpHeaderBytes,
            EndOffset = layout.TransportOffset + lengthBytes,
        };
        return FrameDrop.None;
    }

    // hdr_len is a hint, and 0 for what is not cut; all else has to be what the packet itself says.
    private static bool IsConsistent(ReadOnlySpan<byte> frame, in VirtioNetHeader link, in FrameLayout layout)
    {
        bool isPartial = (link.Flags & VirtioNetFlags.NeedsChecksum) != 0;
        if (isPartial)
        {
            int offset = ChecksumOffsetOf(layout);
            if (offset < 0
                || link.ChecksumStart != layout.TransportOffset
                || link.ChecksumOffset != offset
                || link.ChecksumStart + link.ChecksumOffset + sizeof(ushort) > layout.EndOffset)
            {
                return false;
            }
        }

        if (link.HeaderBytes > frame.Length)
        {
            return false;
        }

        if (link.Gso == GsoType.None)
        {
            return link.GsoBytes == 0 && !link.HasEcn;
        }

        GsoType expected = layout.EtherType == EtherType.IPv4 ? GsoType.TcpIPv4 : GsoType.TcpIPv6;
        return layout.Kind == FrameKind.Tcp && link.Gso == expected && link.GsoBytes > 0 && isPartial;
    }

    private static FrameDrop CheckTransport(
        ReadOnlySpan<byte> frame, in VirtioNetHeader link, in FrameLayout layout)
    {
        // The link vouches for a frame that never left this host, or that it has verified.
        if ((link.Flags & (VirtioNetFlags.NeedsChecksum | VirtioNetFlags.DataValid)) != 0
            || layout.EtherType == EtherType.Arp)
        {
            return FrameDrop.None;
        }

        int offset = ChecksumOffsetOf(layout);
        if (offset < 0)
        {
            return FrameDrop.None;
        }

        ReadOnlySpan<byte> segment = frame[layout.TransportOffset..layout.EndOffset];
        if (layout.Protocol == IpProtocol.Udp && BinaryPrimitives.ReadUInt16BigEndian(segment[offset..]) == 0)
        {
            return layout.Source.IsIPv4 ? FrameDrop.None : FrameDrop.TransportChecksum; // RFC 8200 8.1
        }

        uint sum = layout.Protocol == IpProtocol.Icmp
            ? 0
            : InternetChecksum.PseudoHeader(layout.Source, layout.Destination, layout.Protocol, segment.Length);
        return InternetChecksum.Finish(InternetChecksum.Add(segment, sum)) == 0
            ? FrameDrop.None
            : FrameDrop.TransportChecksum;
    }

    private static int ChecksumOffsetOf(in FrameLayout layout) => layout.EtherType == EtherType.Arp
        ? -1
        : layout.Protocol switch
        {
            IpProtocol.Tcp => TcpHeader.ChecksumOffset,
            IpProtocol.Udp => UdpChecksumOffset,
            IpProtocol.Icmp or IpProtocol.IcmpV6 => 2,
            _ => -1,
        };
}
