using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Read roce.md A5 first; rxe_resp.c is its longer form. The order of the checks R1 to R13 is the specification's, and
// each step says which it is. Nothing is sent from here: a check leaves one pending answer, and BuildNext sends it when
// its turn comes.
//
//   Responder          PSN, opcode, rights of the queue pair, resources; what an outcome means for the peer
//   MessagePlacement   SEND and WRITE: length, key, place the bytes
//   AnsweredRequests   READ, atomics, ATOMIC WRITE, FLUSH: length, key, execute once
//   ResponderResources what those are answered with, and again if asked again

/// <summary>The receiving half of an RC queue pair. Port token held by the caller.</summary>
internal sealed class Responder : ReceiveSide, IMiddleTaker
{
    private readonly QueuePair _pair;
    private readonly ReceiveQueue _receives;
    private readonly RdmaPort _port;
    private readonly PendingAnswer _answer;
    private readonly MessagePlacement _message;
    private readonly ResponderResources _resources;
    private uint _expectedPsn;
    private uint _msn;
    private HeldPackets? _held; // of a peer that sends ahead
    private bool _awaitsExpected; // a NAK or RNR NAK is out: silence until the expected packet comes
    private bool _ends; // the pending answer is the last one

    public Responder(QueuePair pair, ReceiveQueue receives, RdmaPort port)
    {
        _pair = pair;
        _receives = receives;
        _port = port;
        _answer = new PendingAnswer(pair);
        _message = new MessagePlacement(pair, receives, port, pair.Remote);
        _resources = new ResponderResources(pair);
    }

    // Nothing of their own: made where they are needed, since there are many queue pairs.
    private AnsweredRequests Answered => new(_pair);

    private ResponseBuilder Builder => new(_pair);

    public override uint ExpectedPsn => _expectedPsn;

    public override uint Msn => _msn;

    public override void Reset(uint firstPsn)
    {
        _expectedPsn = firstPsn;
        _msn = 0;
        _awaitsExpected = _ends = false;
        _answer.Clear();
        _message.Reset();
        _resources.Reset(_pair.MaxDestRdAtomic);
        _held = null;
    }

    public override void HandleAttributeChange() => _resources.Resize(_pair.MaxDestRdAtomic);

    public override DropReason HandleRequest(in PacketView packet, in Arrival arrival)
    {
        if (!_ends)
        {
            Handle(packet);
        }

        return DropReason.None;
    }

    public override BuildResult BuildNext(ref SuperPacket superPacket)
    {
        if (_pair.State is QueuePairState.Reset or QueuePairState.Init or QueuePairState.Error)
        {
            return BuildResult.Nothing;
        }

        return IsResponseNext ? BuildResponse(ref superPacket)
            : _answer.IsPending ? BuildAnswer(ref superPacket)
            : BuildResult.Nothing;
    }

    public override bool TrySettle(ref SuperPacket superPacket) =>
        _answer.IsPending && !IsResponseNext && _answer.Build(ref superPacket) == BuildResult.Built;

    // Responses leave in the order of their requests.
    private bool IsResponseNext => !_resources.IsEmpty
        && (!_answer.IsPending || Psn.Compare(_answer.Psn, _resources.Head.NextPsn) >= 0);

    public override bool SendsData => IsResponseNext && _resources.Head.Request.LengthBytes > 0;

    public override void Wake()
    {
        if (_answer.IsPending || !_resources.IsEmpty)
        {
            SendOrder.ScheduleResponses(_pair);
        }
    }

    public override void Flush()
    {
        _resources.Clear();
        _answer.Clear();
        _message.Reset();
        _held = null;
        _receives.Flush(_pair);
    }

    /// <summary>How many Middles of the open SEND or WRITE may come; 0 when none of that kind is open.</summary>
    // What is held is inside the message when its sender is wrong, and then has its turn between two of them.
    public int MiddlesToCome(Opcode opcode) =>
        _ends
            || _pair.AwaitsFirstPacket
            || _pair.FailAtPsn is not null
            || (opcode == Opcode.RcWriteMiddle && (_pair.Access & AccessFlags.RemoteWrite) == 0)
            ? 0
            : Math.Min(_message.MiddlesToCome(opcode), _held?.CountBefore(_expectedPsn) ?? int.MaxValue);

    /// <inheritdoc/>
    public int PlaceMiddles(ref PacketRun run)
    {
        Verdict verdict = _message.PlaceRun(_expectedPsn, ref run);
        if (run.Placed != 0)
        {
            _expectedPsn = Psn.Add(_expectedPsn, (uint)run.Placed);
            _awaitsExpected = false;
            _answer.ClearRefusal();
        }

        if (!verdict.IsAccepted)
        {
            _awaitsExpected = false;
            PacketView.TryParse(run.Packet, out PacketView refused);
            Refuse(refused, verdict);
            return run.Placed + 1;
        }

        if (run.Placed != 0 && _held is not null)
        {
            HandleHeld();
        }

        return run.Placed;
    }

    private void Handle(in PacketView packet)
    {
        int distance = Psn.Compare(packet.Psn, _expectedPsn);
        if (distance == 0)
        {
            HandleExpected(packet);
            if (_held is not null)
            {
                HandleHeld();
            }
        }
        else if (distance < 0)
        {
            HandleDuplicate(packet);
        }
        else if (!_awaitsExpected && !TryHold(packet))
        {
            // R1: once, then silence, or every packet behind the gap would be answered.
            _awaitsExpected = true;
            Answer(_expectedPsn, Aeth.NakPsnSequence);
        }
    }

    // Of a peer that sends Firsts ahead. Each is looked at only in its turn, as if it had come then.
    // What this end is behind its peer is in the window, and that is less than what may be ahead.
    private bool TryHold(in PacketView packet)
    {
        if (_pair.Profile.FirstsAhead <= 0
            || packet.Opcode != Opcode.RcWriteFirst
            || Psn.Distance(_expectedPsn, packet.Psn) > 2 * EarlyFirsts.PsnsMax)
        {
            return false;
        }

        if (!_port.Options.Defences.HoldsEarly && _pair.Device.FindRegion(packet.Reth.RKey) is { } region)
        {
            _port.Memory.Write(region, packet.Reth.Va, packet.Payload);
        }

        _held ??= new HeldPackets(
            Math.Min(_pair.Profile.FirstsAhead, PeerProfile.FirstsAheadMax),
            PayloadPacket.SizeOf(packet.Traits.HeaderBytes, _pair.MtuBytes));
        return _held.TryAdd(packet.Psn, packet.Bytes, _expectedPsn, out _);
    }

    private void HandleHeld()
    {
        while (!_ends && _held!.TryTake(_expectedPsn, out ReadOnlySpan<byte> bytes, out _)
            && PacketView.TryParse(bytes, out PacketView packet) == DropReason.None)
        {
            HandleExpected(packet);
        }
    }

    private void HandleExpected(in PacketView packet)
    {
        _awaitsExpected = false;
        if (_pair.FailAtPsn is { } psn && packet.Psn == psn)
        {
            _pair.FailAtPsn = null;
            End(packet, Aeth.NakRemoteOperation, WorkCompletionStatus.General);
            return;
        }

        OpcodeTraits traits = packet.Traits;
        if (!_message.IsInSequence(packet.Opcode, traits) || !RequestRules.MayPeer(packet, _pair.Access))
        {
            End(packet, Aeth.NakInvalidRequest, WorkCompletionStatus.RemoteInvalidRequest); // R3, R4
        }
        else if (RequestRules.IsAnswered(packet.Opcode))
        {
            HandleAnswered(packet);
        }
        else if (traits.ConsumesReceive && (_port.HidesReceive() || !_receives.TryReady()))
        {
            RefuseForNow(_pair.MinRnrTimer); // R6
        }
        else if (!traits.AllowsPayload(packet.PayloadBytes, _pair.MtuBytes) || !packet.HasProperPad)
        {
            End(packet, Aeth.NakInvalidRequest, WorkCompletionStatus.LocalLengthError); // R7
        }
        else
        {
            Verdict verdict = _message.Place(packet, traits);
            if (verdict.IsAccepted)
            {
                Finish(packet, traits);
            }
            else
            {
                Refuse(packet, verdict);
            }
        }
    }

    private void Finish(in PacketView packet, in OpcodeTraits traits)
    {
        if (traits.Has(ExtensionHeaders.Ieth) && _pair.Device.InvalidateWindow(_pair, packet.InvalidateKey) != 0)
        {
            // R11. rxe acknowledges and then ends; hfi1 says nothing at all.
            End(packet, Aeth.NakRemoteOperation, WorkCompletionStatus.RemoteInvalidRequest);
            return;
        }

        if (traits.CompletesReceive)
        {
            _receives.Complete(_pair, packet, _message.MessageBytes);
            _message.CloseReceive();
        }

        _expectedPsn = Psn.Next(_expectedPsn);
        if (traits.EndsMessage)
        {
            _msn = Psn.Next(_msn);
        }

        if (packet.AckRequest)
        {
            Answer(packet.Psn, Aeth.AckUnlimited); // R13
        }
        else
        {
            _answer.ClearRefusal(); // the packet it complained about has come
        }
    }

    private void HandleAnswered(in PacketView packet)
    {
        if (_resources.IsExhausted)
        {
            End(packet, Aeth.NakInvalidRequest, WorkCompletionStatus.RemoteInvalidRequest); // R5
            return;
        }

        Verdict verdict = Answered.Execute(packet, out StoredRequest request);
        if (!verdict.IsAccepted)
        {
            Refuse(packet, verdict);
            return;
        }

        // The MSN goes up at the start: all responses of a READ carry the raised one.
        _msn = Psn.Next(_msn);
        request.Msn = _msn;
        _resources.Add(request);
        _expectedPsn = Psn.Add(_expectedPsn, (uint)request.PacketCount);
        _answer.ClearRefusal();
        if (!request.IsRead)
        {
            _port.Urge(TransmitUrgency.Soon);
        }

        // Not urgent: READs that are in the socket already share super-packets with this one.
        SendOrder.ScheduleResponses(_pair);
    }

    private void HandleDuplicate(in PacketView packet)
    {
        _port.Counters.Duplicates++;
        if (RequestRules.IsAnswered(packet.Opcode))
        {
            if (!_port.Options.Defences.ReplaysAtomics && packet.Traits.Has(ExtensionHeaders.AtomicEth))
            {
                Answered.Execute(packet, out _);
            }

            if (_resources.TryRepeat(packet, _pair.MtuBytes, _msn))
            {
                SendOrder.ScheduleResponses(_pair);
            }

            return;
        }

        if (!_port.Options.Defences.RefusesDuplicates && packet.Traits.Has(ExtensionHeaders.Reth)
            && _pair.Device.FindRegion(packet.Reth.RKey) is { } region)
        {
            _port.Memory.Write(region, packet.Reth.Va, packet.Payload);
        }

        // A pending NAK acknowledges the same packets and says more.
        bool asks = packet.AckRequest || _pair.Profile.AcknowledgesEveryDuplicate;
        if (asks && !_answer.IsRefusal)
        {
            Answer(Psn.Add(_expectedPsn, uint.MaxValue), Aeth.AckUnlimited);
        }
    }

    private void Refuse(in PacketView packet, in Verdict verdict)
    {
        switch (verdict.Outcome)
        {
            case AccessOutcome.Done:
                End(packet, verdict.Syndrome, verdict.ReceiveStatus);
                break;
            case AccessOutcome.Faulted:
                _port.RegionFaults.Add(verdict.Region!, _pair);
                RefuseForNow(_port.Options.FaultRnrTimer);
                break;
            case AccessOutcome.Aborted:
                End(packet, Aeth.NakRemoteOperation, WorkCompletionStatus.LocalQpOperationError);
                break;
            default:
                RefuseAccess(packet, verdict);
                break;
        }
    }

    private void RefuseAccess(in PacketView packet, in Verdict verdict)
    {
        MemoryRegion? region = verdict.Region;
        _port.Counters.BytesRejected += packet.PayloadBytes;
        if (region is not null && verdict.Outcome == AccessOutcome.Dead)
        {
            region.BytesRejected += packet.PayloadBytes;
            region.FirstRejectedPsn ??= packet.Psn;
        }

        if (!_message.IsReceiveOpen && !packet.Traits.ConsumesReceive)
        {
            uint key = packet.Traits.Has(ExtensionHeaders.Reth) ? packet.Reth.RKey
                : packet.Traits.Has(ExtensionHeaders.AtomicEth) ? packet.AtomicEth.RKey
                : region?.Key ?? 0;
            _port.RaiseEvent(new AsyncEvent(AsyncEventType.QueuePairAccessError, _pair.QpNumber, key));
        }

        End(packet, Aeth.NakRemoteAccess, verdict.ReceiveStatus);
    }

    private void RefuseForNow(int timerCode)
    {
        _awaitsExpected = true;
        Answer(_expectedPsn, (byte)(Aeth.ReceiverNotReady | (timerCode & 31)));
    }

    // The last answer of this queue pair: it leaves before the pair enters ERR, and nothing after it does.
    private void End(in PacketView packet, byte syndrome, WorkCompletionStatus receiveStatus)
    {
        bool holdsReceive = _message.IsReceiveOpen || (packet.Traits.ConsumesReceive && !_receives.IsEmpty);
        if (holdsReceive)
        {
            _receives.Complete(_pair, receiveStatus);
            _message.CloseReceive();
        }
        else if (syndrome == Aeth.NakInvalidRequest)
        {
            _port.RaiseEvent(new AsyncEvent(AsyncEventType.QueuePairRequestError, _pair.QpNumber));
        }

        _ends = true;
        _port.Host.Trace("rdma.nak", _pair.Name, syndrome, packet.Psn);
        Answer(packet.Psn, syndrome);
    }

    private void Answer(uint psn, byte syndrome) => _answer.Set(psn, syndrome, _msn);

    private BuildResult BuildAnswer(ref SuperPacket superPacket)
    {
        BuildResult result = _answer.Build(ref superPacket);
        if (result == BuildResult.Built && _ends)
        {
            _pair.EnterError();
        }

        return result;
    }

    private BuildResult BuildResponse(ref SuperPacket superPacket)
    {
        EarlyResponses early = new(_pair, _resources, Builder);
        bool opens = superPacket.Count == 0;
        if (opens && early.TryOpen(ref superPacket))
        {
            return BuildResult.Built;
        }

        ref ActiveResponse response = ref _resources.Head;
        bool begins = response.Next == 0;
        BuildResult result = Builder.BuildNext(
            response, ref superPacket, out int built, out AccessOutcome outcome, out MemoryRegion? region);
        if (result == BuildResult.Built)
        {
            _resources.Advance(built);
            if (opens && begins)
            {
                early.Send(ref superPacket);
            }

            return result;
        }

        switch (outcome)
        {
            case AccessOutcome.Done:
                return result;
            case AccessOutcome.Faulted:
                // A READ is delayed, not refused: an RNR NAK is no answer to it (linux.md 5.7).
                _port.RegionFaults.Add(region!, _pair);
                _port.RegionFaults.Stall(_pair);
                return BuildResult.Nothing;
            default:
                return response.IsRepetition
                    ? RefuseRepetition(ref superPacket, response.NextPsn, outcome)
                    : EndRead(ref superPacket, response.NextPsn, outcome, response.Request.Key);
        }
    }

    // It was answered before, and whoever has that answer may since have seen to it that the memory is gone, by right:
    // that ends nothing here. A peer that did lose it hears why there is none; to one that has gone on the PSN is an
    // old one. The pending answer keeps its place, which is behind this one.
    private BuildResult RefuseRepetition(ref SuperPacket superPacket, uint psn, AccessOutcome outcome)
    {
        if (!_pair.Profile.RefusesRepetitions)
        {
            _resources.DropHead();
            return BuildNext(ref superPacket);
        }

        byte syndrome = SyndromeOf(outcome);
        BuildResult result = PendingAnswer.Build(_pair, psn, syndrome, _msn, ref superPacket);
        if (result == BuildResult.Built)
        {
            _port.Host.Trace("rdma.nak", _pair.Name, syndrome, psn);
            _resources.DropHead();
        }

        return result;
    }

    private static byte SyndromeOf(AccessOutcome outcome) =>
        outcome == AccessOutcome.Aborted ? Aeth.NakRemoteOperation : Aeth.NakRemoteAccess;

    private BuildResult EndRead(ref SuperPacket superPacket, uint psn, AccessOutcome outcome, uint key)
    {
        _resources.Clear();
        _ends = true;
        byte syndrome = SyndromeOf(outcome);
        if (syndrome == Aeth.NakRemoteAccess)
        {
            _port.RaiseEvent(new AsyncEvent(AsyncEventType.QueuePairAccessError, _pair.QpNumber, key));
        }

        _port.Host.Trace("rdma.nak", _pair.Name, syndrome, psn);
        Answer(psn, syndrome);
        return BuildAnswer(ref superPacket);
    }
}
