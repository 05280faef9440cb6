using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Both ends of congestion control at one queue pair: CNPs to its peer, or to whoever sends it datagrams, when marked
/// packets come, and the rate that CNPs ask for. A datagram queue pair has one rate, whoever it sends to. Port token
/// held by the caller.
/// </summary>
internal sealed class Congestion(QueuePair pair, RdmaPort port, CongestionOptions options)
{
    private const int PayloadBytes = 16;
    private const int PacketBytes = Bth.Size + PayloadBytes + PacketView.IcrcSize;
    private const byte Experienced = 3; // ECN-CE, RFC 3168 5

    private TimeSpan _nextNotification = TimeSpan.MinValue;
    private bool _isOwed;

    public RateControl Rate { get; } = new(options);

    /// <summary>Whether the mark says that the path is congested.</summary>
    public static bool IsMarked(byte trafficClass) => (trafficClass & 3) == Experienced;

    /// <summary>The connection has ended: its peer is owed nothing, and the next one has another path.</summary>
    public void Reset()
    {
        (_nextNotification, _isOwed) = (TimeSpan.MinValue, false);
        Rate.Reset();
    }

    /// <summary>A marked packet of the peer came: it is told, unless it was a moment ago.</summary>
    public void HandleMark(TimeSpan now)
    {
        port.Counters.CongestionMarks++;
        if (now >= _nextNotification)
        {
            _nextNotification = now + options.NotificationInterval;
            _isOwed = true;
            port.Urge(TransmitUrgency.Now);
            SendOrder.ScheduleResponses(pair);
        }
    }

    /// <summary>As the other, for a datagram: its sender is told, of all senders one in the interval.</summary>
    /// <param name="arrival">Where it comes from.</param>
    /// <param name="sender">The queue pair there.</param>
    /// <param name="now">The time.</param>
    public void HandleMark(in Arrival arrival, uint sender, TimeSpan now)
    {
        port.Counters.CongestionMarks++;
        if (now < _nextNotification)
        {
            return;
        }

        // A sender that we never sent to listens where all do.
        _nextNotification = now + options.NotificationInterval;
        AddressVector to = port.Peers.Find(arrival.Link, arrival.Source)?.Address ?? new AddressVector(arrival.Source);
        Span<byte> packet = stackalloc byte[PacketBytes];
        IcrcFlow flow = new(arrival.Link.Gid, to.Destination, arrival.Link.UdpPort, to.DestinationPort);
        Write(packet, sender, flow, 0);
        port.LastWords.Add(arrival.Link, to, packet);
        port.Urge(TransmitUrgency.Now);
    }

    /// <summary>The peer says that what we send is too much.</summary>
    public void HandleNotification(TimeSpan now)
    {
        port.Counters.NotificationsReceived++;
        Rate.HandleNotification(now);
    }

    /// <summary>Something was lost, of which there may be no other sign.</summary>
    public void HandleLoss(TimeSpan now)
    {
        if (options.ReactsToLoss)
        {
            Rate.HandleNotification(now);
        }
    }

    /// <summary>Adds the CNP that is owed, if one is.</summary>
    public BuildResult BuildNext(ref SuperPacket superPacket)
    {
        if (!_isOwed)
        {
            return BuildResult.Nothing;
        }

        if (!superPacket.TryReserve(PacketBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        Write(packet, pair.DestQpNumber, pair.Peer.Outbound, superPacket.Count);
        superPacket.Commit(PacketBytes);
        _isOwed = false;
        return BuildResult.Built;
    }

    private void Write(Span<byte> packet, uint destination, in IcrcFlow flow, int index)
    {
        new Bth
        {
            Opcode = Opcode.CongestionNotification,
            PKey = port.Options.PKey,
            BackwardCongestion = true,
            DestQp = destination,
        }.WriteTo(packet);
        packet[Bth.Size..^PacketView.IcrcSize].Clear();
        Icrc.Seal(flow, (ushort)index, packet);
        port.Counters.NotificationsSent++;
    }
}
