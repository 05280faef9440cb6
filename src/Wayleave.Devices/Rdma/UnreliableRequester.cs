using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Nothing is acknowledged, so a request is complete when its last packet is in a super-packet, and one is under way:
//
//   completed | head: packet 0 .. _packet .. last | posted
//
// A request that fails here stops the send queue (SQE) and not the receives; a modify to RTS goes on. Every datagram
// may have another destination, so a datagram queue pair stands in the list of the peer that its next one goes to.

/// <summary>The sending half of a UC or UD queue pair (roce.md A7). Port token held by the caller.</summary>
internal sealed class UnreliableRequester(QueuePair pair, SendQueue queue, RdmaPort port) : SendSide
{
    private uint _head;
    private int _packet; // of the request at the head
    private uint _psn;
    private bool _drainReported;

    /// <summary>Nobody answers: what is next to send.</summary>
    public override uint OldestUnansweredPsn => _psn;

    public override TimeSpan Deadline => TimeSpan.MaxValue;

    private bool HasWork => _head != queue.Tail;

    private bool IsDatagram => pair.Type == QueuePairType.UnreliableDatagram;

    public override void Reset(uint firstPsn)
    {
        _psn = firstPsn;
        _head = 0;
        _packet = 0;
        _drainReported = false;
    }

    public override BuildResult BuildNext(ref SuperPacket superPacket, TimeSpan now)
    {
        while (MaySend())
        {
            ref SendSlot slot = ref queue[_head];
            if (slot.IsLocal)
            {
                if (!TryExecute(slot))
                {
                    return BuildResult.Nothing;
                }

                continue;
            }

            return !TryAim(slot, out bool isElsewhere) ? BuildResult.Nothing
                : isElsewhere ? BuildResult.OtherPeer
                : BuildPacket(ref superPacket, ref slot);
        }

        return BuildResult.Nothing;
    }

    public override void Wake()
    {
        if (pair.State is QueuePairState.Error or QueuePairState.SendQueueError)
        {
            Flush();
        }
        else if (MaySend() && !pair.Link(QueuePairListKind.Requests).IsLinked
            && (queue[_head].IsLocal || TryAim(queue[_head], out _)))
        {
            SendOrder.ScheduleRequests(pair);
        }
    }

    public override void HandleTimeout(TimeSpan now)
    {
    }

    public override void HandleDrain()
    {
        _drainReported = false;
        ReportDrained();
    }

    public override bool IsDrained => _packet == 0;

    public override void HandlePathChange()
    {
    }

    public override void Flush()
    {
        while (HasWork)
        {
            Complete(WorkCompletionStatus.WorkRequestFlushed);
        }
    }

    // A message that was begun is finished even when the queue is to stop.
    private bool MaySend() => HasWork
        && (pair.State == QueuePairState.ReadyToSend
            || (pair.State == QueuePairState.SendQueueDrained && _packet > 0));

    private bool TryExecute(in SendSlot slot)
    {
        WorkCompletionStatus status = LocalRequests.Execute(pair, slot);
        if (status != WorkCompletionStatus.Success)
        {
            Fail(status);
            return false;
        }

        Complete(status);
        return true;
    }

    // False when the request has failed, because its address handle is gone, or is for another port.
    private bool TryAim(in SendSlot slot, out bool isElsewhere)
    {
        isElsewhere = false;
        if (!IsDatagram)
        {
            return true;
        }

        if (slot.Target is not AddressHandle { Peer: { } peer } || !ReferenceEquals(peer.Link, pair.PortLink))
        {
            Fail(WorkCompletionStatus.LocalQpOperationError);
            return false;
        }

        isElsewhere = !pair.HasPeer || !ReferenceEquals(pair.Peer, peer);
        pair.Aim(peer);
        return true;
    }

    private BuildResult BuildPacket(ref SuperPacket superPacket, ref SendSlot slot)
    {
        int mtu = pair.MtuBytes;
        int packets = slot.PacketsAt(mtu);
        bool isLast = _packet == packets - 1;
        uint offset = (uint)_packet * (uint)mtu;
        int payloadBytes = (int)Math.Min((uint)mtu, slot.LengthBytes - offset);
        Opcode opcode = RequestHeaders.OpcodeOf(slot.Opcode, _packet == 0, isLast)
            + (byte)(IsDatagram ? Opcode.UdSendOnly - Opcode.RcSendOnly : Opcode.UcSendFirst - Opcode.RcSendFirst);
        int headerBytes = OpcodeTraits.Of(opcode).HeaderBytes;
        int packetBytes = PayloadPacket.SizeOf(headerBytes, payloadBytes);
        if (!superPacket.TryReserve(packetBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        Bth bth = new()
        {
            Opcode = opcode,
            Solicited = isLast && RequestHeaders.IsSolicited(slot),
            PadCount = -payloadBytes & 3,
            PKey = port.Options.PKey,
            DestQp = IsDatagram ? (uint)slot.RemoteAddress : pair.DestQpNumber,
            Psn = _psn,
        };
        RequestHeaders.Write(packet, bth, slot, new Deth(QKeyOf(slot), pair.QpNumber));
        uint icrc = PayloadPacket.Begin(pair.Peer.Outbound, superPacket.Count, bth, packet, headerBytes);
        AccessOutcome outcome = Gather(
            slot, offset, packet.Slice(headerBytes, payloadBytes), ref icrc, out MemoryRegion? region);
        if (outcome != AccessOutcome.Done)
        {
            return HandleLocalRefusal(outcome, region);
        }

        PayloadPacket.End(icrc, packet, headerBytes, payloadBytes);
        superPacket.Commit(packetBytes);
        _psn = Psn.Next(_psn);
        _packet++;
        if (isLast)
        {
            Complete(WorkCompletionStatus.Success);
            ReportDrained();
        }

        return BuildResult.Built;
    }

    // IBTA 10.2.5: a key with the top bit stands for the own one, which others may not use.
    private uint QKeyOf(in SendSlot slot) => (slot.RKey & 0x8000_0000) != 0 ? pair.QKey : slot.RKey;

    private AccessOutcome Gather(
        in SendSlot slot, uint offset, Span<byte> payload, ref uint icrc, out MemoryRegion? region)
    {
        if ((slot.Flags & SendFlags.Inline) == 0)
        {
            return pair.Memory.Gather(queue.Sges(_head), offset, payload, ref icrc, out region);
        }

        region = null;
        icrc = Icrc.AppendCopy(icrc, queue.Inline(_head).Slice((int)offset, payload.Length), payload);
        return AccessOutcome.Done;
    }

    private BuildResult HandleLocalRefusal(AccessOutcome outcome, MemoryRegion? region)
    {
        if (outcome == AccessOutcome.Faulted)
        {
            port.RegionFaults.Add(region!, pair);
            port.RegionFaults.Stall(pair);
        }
        else
        {
            Fail(WorkCompletionStatus.LocalProtectionError);
        }

        return BuildResult.Nothing;
    }

    private void Fail(WorkCompletionStatus status)
    {
        Complete(status);
        pair.EnterSendQueueError();
    }

    private void Complete(WorkCompletionStatus status)
    {
        ref SendSlot slot = ref queue[_head];
        slot.Target = null;
        _head++;
        _packet = 0;
        SendCompletions.Tell(pair, slot, _head, status);
    }

    private void ReportDrained()
    {
        if (pair.State == QueuePairState.SendQueueDrained && !_drainReported && IsDrained)
        {
            _drainReported = true;
            port.RaiseEvent(new AsyncEvent(AsyncEventType.SendQueueDrained, pair.QpNumber));
        }
    }
}
