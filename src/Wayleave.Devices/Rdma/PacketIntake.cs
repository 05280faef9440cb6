using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// The way of a packet from the wire to its queue pair: the silent checks D1 to D8 of roce.md A5. Port token held by
/// the caller.
/// </summary>
internal sealed class PacketIntake(RdmaPort port, RdmaDeviceOptions options)
{
    private FaultInjector? _faults;
    private readonly MiddleIntake _middles = new(port);
    private int _refusals; // asked for one by one
    private QueuePair? _last; // of the last packet: a batch is usually one queue pair's

    /// <summary>A packet of a datagram.</summary>
    public void Handle(in Arrival arrival, ushort sourcePort, ReadOnlySpan<byte> packet, TimeSpan now)
    {
        if (_faults is null)
        {
            Receive(arrival, sourcePort, packet, now);
        }
        else
        {
            ReceiveWithFaults(_faults, arrival, sourcePort, packet, now);
        }
    }

    /// <summary>
    /// The packets that need less of a look than <see cref="Handle"/> has, because they continue what stands before
    /// them. Between two packets, like that.
    /// </summary>
    /// <param name="arrival">Of the first of them.</param>
    /// <param name="sourcePort">UDP port they came from.</param>
    /// <param name="bytes">One packet or more, and nobody knows what they are.</param>
    /// <param name="segmentBytes">Length of each but the last.</param>
    /// <returns>How many are done with; often none.</returns>
    public int HandleRun(in Arrival arrival, ushort sourcePort, ReadOnlySpan<byte> bytes, int segmentBytes) =>
        (Opcode)bytes[0] is Opcode.RcWriteMiddle or Opcode.RcSendMiddle or Opcode.RcReadResponseMiddle
        && _faults is null
        && _last is { } pair
            ? _middles.Take(pair, arrival, sourcePort, bytes, segmentBytes)
            : 0;

    /// <summary>Packets that <see cref="HandleRun"/> was done with.</summary>
    public long TakenInRuns => _middles.Taken;

    /// <summary>A queue pair is gone.</summary>
    public void Forget() => _last = null;

    /// <summary>A fault is due: the message that needs a receive is to be told that there is none.</summary>
    public bool HidesReceive()
    {
        if (_refusals == 0)
        {
            return _faults is { } faults && faults.HidesReceive();
        }

        _refusals--;
        return true;
    }

    /// <summary>So many more messages are told so, whatever the faults are.</summary>
    public void RefuseNext(int messages) => _refusals = (int)Math.Min((long)_refusals + messages, int.MaxValue);

    /// <summary>From now on; what the last ones hold back is lost.</summary>
    public void UseFaults(FaultOptions? faults) =>
        _faults = faults is null ? null : new FaultInjector(faults, FaultDirections.Arriving);

    /// <summary>A fault is due: the key of the WRITE whose bytes these are is dead.</summary>
    public bool RevokesAt(int payloadBytes) => _faults is { } faults && faults.RevokesAt(payloadBytes);

    /// <summary>A fault: nothing arrives any more, and nothing leaves.</summary>
    public bool IsDead => _faults is { IsDead: true };

    private void Receive(in Arrival arrival, ushort sourcePort, ReadOnlySpan<byte> packet, TimeSpan now)
    {
        port.Counters.PacketsReceived++;
        port.Counters.BytesReceived += packet.Length;
        ref PortCounters counters = ref arrival.Link.Count;
        counters.PacketsReceived++;
        counters.BytesReceived += packet.Length;
        DropReason reason = HandlePacket(arrival, sourcePort, packet, now);
        if (reason != DropReason.None)
        {
            port.Counters.CountDrop(reason);
            counters.PacketsDropped++;
        }
    }

    private void ReceiveWithFaults(
        FaultInjector faults, in Arrival arrival, ushort sourcePort, ReadOnlySpan<byte> packet, TimeSpan now)
    {
        int copies = faults.Admit(arrival, sourcePort, packet, now, out ReadOnlySpan<byte> admitted);
        for (; copies > 0; copies--)
        {
            Receive(arrival, sourcePort, admitted, now);
        }

        port.NoteDeadline(faults.Deadline);
    }

    /// <summary>What was held back, and is due.</summary>
    public void HandleTimeout(TimeSpan now)
    {
        if (_faults is not { IsDead: false } faults)
        {
            return;
        }

        while (faults.TryRelease(now, out Arrival arrival, out ushort sourcePort, out ReadOnlySpan<byte> packet))
        {
            Receive(arrival, sourcePort, packet, now);
        }

        port.NoteDeadline(faults.Deadline);
    }

    // D1 to D8 of roce.md A5: nothing is ever answered for these, and nothing but counters changes.
    private DropReason HandlePacket(
        in Arrival arrival, ushort sourcePort, ReadOnlySpan<byte> bytes, TimeSpan now)
    {
        if (arrival.Link.State != PortState.Active)
        {
            return DropReason.PortDown;
        }

        DropReason reason = PacketView.TryParse(bytes, out PacketView packet);
        if (reason != DropReason.None)
        {
            return reason;
        }

        if (arrival.IsToGroup || packet.DestQp == RdmaDevice.MulticastNumber)
        {
            return HandleGroupPacket(arrival, sourcePort, packet);
        }

        QueuePair? pair = _last;
        if (pair is null || pair.QpNumber != packet.DestQp || packet.DestQp == RdmaDevice.ManagementNumber)
        {
            pair = packet.DestQp == RdmaDevice.ManagementNumber
                ? arrival.Link.ManagementPair
                : port.FindQueuePair(packet.DestQp);
            if (pair is null)
            {
                return DropReason.UnknownQp;
            }

            _last = pair;
        }

        OpcodeTraits traits = packet.Traits;
        if (traits.Service != pair.Service && !MayBeNotified(traits, pair))
        {
            return DropReason.WrongTransport;
        }

        QueuePairState least = traits.IsRequest ? QueuePairState.ReadyToReceive : QueuePairState.ReadyToSend;
        if (pair.State < least || pair.State == QueuePairState.Error)
        {
            return DropReason.WrongState;
        }

        if (!ReferenceEquals(pair.PortLink, arrival.Link))
        {
            return DropReason.WrongPort;
        }

        if (traits.Service == TransportService.UnreliableDatagram)
        {
            return HandleDatagram(pair, arrival, sourcePort, packet, now);
        }

        if (pair.Service == TransportService.UnreliableDatagram)
        {
            return HandleNotification(pair, arrival, sourcePort, packet, now);
        }

        if (pair.Peer.Address.Destination != arrival.Source)
        {
            return DropReason.WrongPeer;
        }

        if (!options.IsOurPartition(packet.PKey))
        {
            return DropReason.WrongPKey;
        }

        bool isFlushOfRxe = packet.Opcode == Opcode.RcFlush && pair.Profile.FlushChecksumRunsTwice;
        bool fits = isFlushOfRxe
            ? pair.Peer.VerifyFlushOfRxe(bytes, sourcePort, arrival.Identification, out bool isFullCheck)
            : pair.Peer.Verify(bytes, sourcePort, arrival.Identification, out isFullCheck);
        if (!fits)
        {
            return DropReason.BadIcrc;
        }

        CountCheck(isFullCheck);
        if (pair.Congestion is { } congestion && Congestion.IsMarked(arrival.TrafficClass))
        {
            congestion.HandleMark(now);
        }

        if (traits.IsRequest)
        {
            if (pair.AwaitsFirstPacket)
            {
                pair.PortLink.Agent?.HandleFirstPacket(pair);
            }

            return pair.Responder.HandleRequest(packet, arrival);
        }

        if (traits.Service == TransportService.Congestion)
        {
            if (packet.BackwardCongestion)
            {
                pair.Congestion?.HandleNotification(now);
            }
        }
        else if (packet.Opcode == Opcode.RcAcknowledge)
        {
            pair.Reliable!.HandleAcknowledge(packet.Psn, packet.Aeth, now);
        }
        else
        {
            pair.Reliable!.Responses.Handle(packet, now);
        }

        return DropReason.None;
    }

    private DropReason HandleDatagram(
        QueuePair pair, in Arrival arrival, ushort sourcePort, in PacketView packet, TimeSpan now)
    {
        if (!options.IsOurPartition(packet.PKey))
        {
            return DropReason.WrongPKey;
        }

        if (packet.Deth.QKey != pair.QKey)
        {
            return DropReason.WrongQKey;
        }

        int identification = arrival.Identification;
        if (!arrival.Link.Datagrams.Verify(
            packet.Bytes, arrival.Source, arrival.Destination, sourcePort, ref identification, out bool isFullCheck))
        {
            return DropReason.BadIcrc;
        }

        CountCheck(isFullCheck);
        if (pair.Congestion is { } congestion && Congestion.IsMarked(arrival.TrafficClass))
        {
            congestion.HandleMark(arrival, packet.Deth.SourceQp, now);
        }

        return pair.Responder.HandleRequest(packet, arrival with { Identification = (ushort)identification });
    }

    // One packet, and a copy for each that is attached. Nothing is ever sent because of it, not even a CNP: one packet
    // of somebody would be answered by everybody.
    private DropReason HandleGroupPacket(in Arrival arrival, ushort sourcePort, in PacketView packet)
    {
        if (!arrival.IsToGroup || packet.DestQp != RdmaDevice.MulticastNumber)
        {
            return DropReason.WrongGroup;
        }

        ReadOnlySpan<QueuePair> attached = port.Groups.Find(arrival.Link, arrival.Group);
        DropReason reason = attached.IsEmpty ? DropReason.NotOurAddress
            : packet.Traits.Service != TransportService.UnreliableDatagram ? DropReason.WrongTransport
            : !options.IsOurPartition(packet.PKey) ? DropReason.WrongPKey
            : DropReason.None;
        if (reason != DropReason.None)
        {
            return reason;
        }

        int identification = arrival.Identification;
        if (!arrival.Link.Datagrams.Verify(
            packet.Bytes,
            arrival.Source,
            arrival.Group,
            sourcePort,
            ref identification,
            out bool isFullCheck))
        {
            return DropReason.BadIcrc;
        }

        CountCheck(isFullCheck);
        arrival.Link.Count.MulticastReceived++;
        Arrival known = arrival with { Identification = (ushort)identification };
        bool isTaken = false;
        foreach (QueuePair pair in attached)
        {
            DropReason refused = Deliver(pair, packet, known);
            isTaken |= refused == DropReason.None;
            reason = reason == DropReason.None ? refused : reason;
        }

        return isTaken ? DropReason.None : reason;
    }

    private static DropReason Deliver(QueuePair pair, in PacketView packet, in Arrival arrival) =>
        pair.State is < QueuePairState.ReadyToReceive or QueuePairState.Error ? DropReason.WrongState
            : !ReferenceEquals(pair.PortLink, arrival.Link) ? DropReason.WrongPort
            : packet.Deth.QKey != pair.QKey ? DropReason.WrongQKey
            : pair.Responder.HandleRequest(packet, arrival);

    // A CNP for a queue pair that sends datagrams, from an address that somebody here sends to.
    private DropReason HandleNotification(
        QueuePair pair, in Arrival arrival, ushort sourcePort, in PacketView packet, TimeSpan now)
    {
        if (port.Peers.Find(arrival.Link, arrival.Source) is null)
        {
            return DropReason.WrongPeer;
        }

        if (!options.IsOurPartition(packet.PKey))
        {
            return DropReason.WrongPKey;
        }

        int identification = arrival.Identification;
        if (!arrival.Link.Datagrams.Verify(
            packet.Bytes, arrival.Source, arrival.Destination, sourcePort, ref identification, out bool isFullCheck))
        {
            return DropReason.BadIcrc;
        }

        CountCheck(isFullCheck);
        if (packet.BackwardCongestion)
        {
            pair.Congestion!.HandleNotification(now);
        }

        return DropReason.None;
    }

    // A CNP is for a connection of any transport, and for datagrams where their congestion is controlled.
    private static bool MayBeNotified(in OpcodeTraits traits, QueuePair pair) =>
        traits.Service == TransportService.Congestion
        && (pair.Service != TransportService.UnreliableDatagram || pair.Congestion is not null);

    private void CountCheck(bool isFullCheck)
    {
        port.Counters.IcrcChecksFull += isFullCheck ? 1 : 0;
        port.Counters.IcrcChecksSolved += isFullCheck ? 0 : 1;
    }
}
