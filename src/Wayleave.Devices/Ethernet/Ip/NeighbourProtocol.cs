using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Ip;

// Nobody's claim to one of our addresses changes anything; it is counted, and ARP's is answered by our own, in
// moderation (RFC 5227 2.4 b). An answer that nobody asked for adds no neighbour.

/// <summary>ARP (RFC 826) and the part of RFC 4861 that hosts on one link need.</summary>
internal sealed class NeighbourProtocol(
    IpRoutes routes, NeighbourTable table, PacketWriter writer, FrameQueue answers, IpStats stats)
{
    private const byte HopLimit = 255;

    private static readonly TimeSpan s_defendInterval = TimeSpan.FromSeconds(10); // RFC 5227: DEFEND_INTERVAL
    private static readonly IpAddress s_allNodes = new(0xFF02_0000_0000_0000, 1);

    private TimeSpan _defendAt = TimeSpan.MinValue;

    /// <summary>An ARP packet, padding behind it.</summary>
    public void HandleArp(ReadOnlySpan<byte> packet, TimeSpan now)
    {
        if (!ArpPacket.TryParse(packet, out ArpPacket arp) || arp.SenderMac == writer.Mac)
        {
            stats.NeighbourErrors++;
            return;
        }

        if (routes.IsOurs(arp.SenderIp))
        {
            HandleConflict(arp.SenderIp, now);
            return;
        }

        bool isForUs = routes.IsOurs(arp.TargetIp);
        if (!arp.SenderIp.IsUnspecified)
        {
            table.Learn(arp.SenderIp, arp.SenderMac, now, creates: isForUs && arp.IsRequest);
        }

        if (isForUs && arp.IsRequest)
        {
            stats.NeighbourAnswers++;
            SendArp(arp.SenderMac, new ArpPacket(false, writer.Mac, arp.TargetIp, arp.SenderMac, arp.SenderIp));
        }
    }

    /// <summary>A neighbour message; RFC 4861 7.1: only from this link, which the hop limit proves.</summary>
    public void HandleMessage(in FrameLayout layout, ReadOnlySpan<byte> message, TimeSpan now)
    {
        if (layout.HopLimit != HopLimit || !NeighbourMessage.TryParse(message, out NeighbourMessage parsed))
        {
            stats.NeighbourErrors++;
            return;
        }

        if (parsed.IsSolicitation)
        {
            HandleSolicitation(layout, parsed, now);
        }
        else
        {
            HandleAdvertisement(layout, parsed, now);
        }
    }

    /// <summary>Asks for a neighbour: all of the link the first time, it alone when its address is only old.</summary>
    public bool TryWriteQuestion(Neighbour neighbour, ref SuperFrame frame)
    {
        if (!routes.TryGetSource(neighbour.Address, out IpAddress source))
        {
            return false;
        }

        stats.NeighbourQuestions++;
        bool isUnicast = neighbour.State == NeighbourState.Probing;
        if (neighbour.Address.IsIPv4)
        {
            Span<byte> bytes = frame.Reserve(writer.LinkBytes + ArpPacket.Size);
            writer.WriteLink(bytes, isUnicast ? neighbour.Mac : MacAddress.Broadcast, EtherType.Arp);
            new ArpPacket(true, writer.Mac, source, default, neighbour.Address).WriteTo(bytes[writer.LinkBytes..]);
            return true;
        }

        IpAddress group = IpRoutes.SolicitedNode(neighbour.Address);
        NeighbourMessage message = new()
        {
            IsSolicitation = true,
            Target = neighbour.Address,
            LinkAddress = writer.Mac,
        };
        WriteMessage(
            frame.Reserve(writer.HeaderBytes(group) + NeighbourMessage.Size),
            isUnicast ? neighbour.Mac : IpRoutes.GroupMac(group),
            source,
            isUnicast ? neighbour.Address : group,
            message);
        return true;
    }

    /// <summary>Tells the link where our addresses are (RFC 5227 2.3, RFC 4861 7.2.6).</summary>
    public void Announce()
    {
        foreach (ref readonly InterfaceAddress own in routes.Addresses)
        {
            AnnounceOne(own.Address);
        }
    }

    private void AnnounceOne(IpAddress address)
    {
        if (address.IsIPv4)
        {
            SendArp(MacAddress.Broadcast, new ArpPacket(true, writer.Mac, address, default, address));
        }
        else
        {
            Advertise(IpRoutes.GroupMac(s_allNodes), address, s_allNodes, isSolicited: false);
        }
    }

    private void HandleConflict(IpAddress address, TimeSpan now)
    {
        stats.AddressConflicts++;
        if (now >= _defendAt)
        {
            _defendAt = now + s_defendInterval;
            AnnounceOne(address);
        }
    }

    private void HandleSolicitation(in FrameLayout layout, in NeighbourMessage message, TimeSpan now)
    {
        if (!routes.IsOurs(message.Target))
        {
            return;
        }

        bool isProbe = layout.Source.IsUnspecified;
        if (isProbe && message.LinkAddress is not null)
        {
            stats.NeighbourErrors++; // RFC 4861 7.1.1: who has no address yet tells no link-layer address
            return;
        }

        if (routes.IsOurs(layout.Source))
        {
            stats.AddressConflicts++;
            return;
        }

        stats.NeighbourAnswers++;
        if (isProbe)
        {
            // Somebody wants one of our addresses: all nodes hear that it is taken (RFC 4861 7.2.4).
            Advertise(IpRoutes.GroupMac(s_allNodes), message.Target, s_allNodes, isSolicited: false);
            return;
        }

        MacAddress to = message.LinkAddress ?? layout.SourceMac;
        table.Learn(layout.Source, to, now, creates: true);
        Advertise(to, message.Target, layout.Source, isSolicited: true);
    }

    private void HandleAdvertisement(in FrameLayout layout, in NeighbourMessage message, TimeSpan now)
    {
        bool isToGroup = layout.Destination.IsMulticast;
        if (message.IsSolicited && isToGroup)
        {
            stats.NeighbourErrors++; // RFC 4861 7.1.2
            return;
        }

        if (routes.IsOurs(message.Target))
        {
            stats.AddressConflicts++;
            return;
        }

        if (!table.TryFind(message.Target, out Neighbour? neighbour))
        {
            return;
        }

        // RFC 4861 7.2.5: another address than the one known is taken only when the answer says so.
        MacAddress mac = message.LinkAddress ?? neighbour.Mac;
        bool isNews = neighbour.State == NeighbourState.Incomplete
            ? message.LinkAddress is not null
            : message.IsOverride || (mac == neighbour.Mac && message.IsSolicited);
        if (isNews)
        {
            table.Learn(message.Target, mac, now, creates: false);
        }
    }

    private void SendArp(MacAddress to, in ArpPacket packet)
    {
        if (!answers.TryAdd(writer.LinkBytes + ArpPacket.Size, out Span<byte> bytes))
        {
            stats.AnswersWithheld++;
            return;
        }

        writer.WriteLink(bytes, to, EtherType.Arp);
        packet.WriteTo(bytes[writer.LinkBytes..]);
    }

    private void Advertise(MacAddress to, IpAddress target, IpAddress destination, bool isSolicited)
    {
        if (!answers.TryAdd(writer.HeaderBytes(destination) + NeighbourMessage.Size, out Span<byte> bytes))
        {
            stats.AnswersWithheld++;
            return;
        }

        NeighbourMessage message = new()
        {
            Target = target,
            IsSolicited = isSolicited,
            IsOverride = true,
            LinkAddress = writer.Mac,
        };
        WriteMessage(bytes, to, target, destination, message);
    }

    private void WriteMessage(
        Span<byte> bytes, MacAddress to, IpAddress source, IpAddress destination, in NeighbourMessage message)
    {
        writer.WriteHeaders(
            bytes, to, source, destination, IpProtocol.IcmpV6, NeighbourMessage.Size, HopLimit);
        Span<byte> body = bytes[writer.HeaderBytes(destination)..];
        message.WriteTo(body);
        PacketWriter.FinishIcmp(body, source, destination);
    }
}
