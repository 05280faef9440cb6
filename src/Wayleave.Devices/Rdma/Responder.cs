using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Read roce.md A5 first; rxe_resp.c is its longer form. The order of the checks R1 to R13 is the specification's, and
// each step says which it is. Nothing is sent from here: a check leaves one pending answer, and BuildNext sends it when
// its turn comes.

/// <summary>The receiving half of an RC queue pair. Port token held by the caller.</summary>
internal sealed class Responder
{
    private readonly QueuePair _pair;
    private readonly ReceiveQueue _receives;
    private readonly RdmaPort _port;
    private readonly PendingAnswer _answer;
    private readonly ReadResponses _reads = new();
    private readonly ReadResponseBuilder _readBuilder;
    private uint _expectedPsn;
    private uint _msn;
    private OpenMessage _message;
    private bool _awaitsExpected; // a NAK or RNR NAK is out: silence until the expected packet comes
    private bool _ends; // the pending answer is the last one
    private MemoryRegion? _region; // of the open WRITE, or the last one used
    private ulong _address;
    private uint _remainingBytes;
    private uint _messageBytes;
    private bool _receiveOpen;
    private ulong _receiveOffset;

    public Responder(QueuePair pair, ReceiveQueue receives, RdmaPort port)
    {
        _pair = pair;
        _receives = receives;
        _port = port;
        _answer = new PendingAnswer(pair, port);
        _readBuilder = new ReadResponseBuilder(pair, port);
    }

    private enum OpenMessage
    {
        None,
        Send,
        Write,
    }

    /// <summary>PSN of the next packet in order.</summary>
    public uint ExpectedPsn => _expectedPsn;

    /// <summary>24-bit count of completed messages.</summary>
    public uint Msn => _msn;

    public void Reset(uint firstPsn)
    {
        _expectedPsn = firstPsn;
        _msn = 0;
        _message = OpenMessage.None;
        _awaitsExpected = _ends = _receiveOpen = false;
        _answer.Clear();
        _region = null;
        _reads.Reset(_pair.MaxDestRdAtomic);
    }

    /// <summary>A request packet that passed D1 to D8.</summary>
    public void HandleRequest(in PacketView packet)
    {
        if (_ends)
        {
            return;
        }

        int distance = Psn.Compare(packet.Psn, _expectedPsn);
        if (distance == 0)
        {
            HandleExpected(packet);
        }
        else if (distance < 0)
        {
            HandleDuplicate(packet);
        }
        else if (!_awaitsExpected)
        {
            // R1: once, then silence, or every packet behind the gap would be answered.
            _awaitsExpected = true;
            Answer(_expectedPsn, Aeth.NakPsnSequence);
        }
    }

    /// <summary>Adds the next response packet to a super-packet.</summary>
    public BuildResult BuildNext(ref SuperPacket superPacket)
    {
        if (_pair.State is QueuePairState.Reset or QueuePairState.Init or QueuePairState.Error)
        {
            return BuildResult.Nothing;
        }

        // Responses leave in the order of their requests.
        if (!_reads.IsEmpty && (!_answer.IsPending || Psn.Compare(_answer.Psn, _reads.Head.NextPsn) >= 0))
        {
            return BuildReadResponse(ref superPacket);
        }

        return _answer.IsPending ? BuildAnswer(ref superPacket) : BuildResult.Nothing;
    }

    /// <summary>A region was mapped, or died: look again.</summary>
    public void Wake()
    {
        if (_answer.IsPending || !_reads.IsEmpty)
        {
            SendOrder.ScheduleResponses(_pair);
        }
    }

    /// <summary>ERR: every receive is flushed, in order.</summary>
    public void Flush()
    {
        _reads.Clear();
        _answer.Clear();
        _receiveOpen = false;
        _message = OpenMessage.None;
        while (!_receives.IsEmpty)
        {
            CompleteReceive(WorkCompletionStatus.WorkRequestFlushed);
        }
    }

    private void HandleExpected(in PacketView packet)
    {
        _awaitsExpected = false;
        OpcodeTraits traits = packet.Traits;
        if (!IsInSequence(packet.Opcode, traits) || !RequestRules.IsSupported(packet.Opcode))
        {
            End(packet, Aeth.NakInvalidRequest, WorkCompletionStatus.RemoteInvalidRequest); // R3
            return;
        }

        if (!RequestRules.MayPeer(packet.Opcode, _pair.Access))
        {
            End(packet, Aeth.NakInvalidRequest, WorkCompletionStatus.RemoteInvalidRequest); // R4
            return;
        }

        if (packet.Opcode == Opcode.RcReadRequest)
        {
            HandleRead(packet);
            return;
        }

        if (traits.ConsumesReceive && _receives.IsEmpty)
        {
            RefuseForNow(_pair.MinRnrTimer); // R6
            return;
        }

        if (!traits.AllowsPayload(packet.PayloadBytes, _pair.MtuBytes) || !packet.HasProperPad)
        {
            End(packet, Aeth.NakInvalidRequest, WorkCompletionStatus.LocalLengthError); // R7
            return;
        }

        bool isWrite = RequestRules.IsWrite(packet.Opcode);
        if (isWrite ? PlaceWrite(packet, traits) : PlaceSend(packet, traits))
        {
            Finish(packet, traits, isWrite);
        }
    }

    // R3. A message is First, Middle..., Last of one kind, or an Only; nothing else may come inside it.
    private bool IsInSequence(Opcode opcode, in OpcodeTraits traits)
    {
        if (traits.StartsMessage)
        {
            return _message == OpenMessage.None;
        }

        return _message == (RequestRules.IsWrite(opcode) ? OpenMessage.Write : OpenMessage.Send);
    }

    private bool PlaceSend(in PacketView packet, in OpcodeTraits traits)
    {
        if (traits.StartsMessage)
        {
            (_receiveOpen, _receiveOffset) = (true, 0);
        }

        ref ReceiveSlot receive = ref _receives[_receives.Head];
        if (_receiveOffset + (ulong)packet.PayloadBytes > receive.LengthBytes)
        {
            // R7; rxe calls the receiver's shortage an operational error (Q7).
            bool isOperational = _pair.Profile.ReceiveTooSmallIsOperationError;
            End(
                packet,
                isOperational ? Aeth.NakRemoteOperation : Aeth.NakInvalidRequest,
                isOperational ? WorkCompletionStatus.LocalQpOperationError : WorkCompletionStatus.LocalLengthError);
            return false;
        }

        AccessOutcome outcome = _pair.Memory.Scatter(
            _receives.Sges(_receives.Head), _receiveOffset, packet.Payload, out MemoryRegion? region);
        if (outcome == AccessOutcome.Done)
        {
            _receiveOffset += (ulong)packet.PayloadBytes;
            _message = traits.EndsMessage ? OpenMessage.None : OpenMessage.Send;
            return true;
        }

        if (outcome == AccessOutcome.Faulted)
        {
            _receiveOpen &= !traits.StartsMessage;
            Fault(region!);
            return false;
        }

        End(packet, Aeth.NakRemoteOperation, WorkCompletionStatus.LocalProtectionError); // R10
        return false;
    }

    private bool PlaceWrite(in PacketView packet, in OpcodeTraits traits)
    {
        int payloadBytes = packet.PayloadBytes;
        if (traits.StartsMessage)
        {
            Reth reth = packet.Reth;
            bool fits = reth.Length <= Reth.LengthMax
                && (traits.EndsMessage ? reth.Length == (uint)payloadBytes : reth.Length > (uint)payloadBytes);
            if (!fits)
            {
                End(packet, Aeth.NakInvalidRequest, WorkCompletionStatus.RemoteInvalidRequest); // R7
                return false;
            }

            // R8, for the whole message before its first byte; a message without bytes needs no key.
            MemoryRegion? region = null;
            if (reth.Length != 0 && !TryFindRemote(packet, reth, AccessFlags.RemoteWrite, out region))
            {
                return false;
            }

            (_region, _address, _remainingBytes, _messageBytes) = (region, reth.Va, reth.Length, reth.Length);
        }
        else if (traits.EndsMessage ? (uint)payloadBytes != _remainingBytes : (uint)payloadBytes >= _remainingBytes)
        {
            End(packet, Aeth.NakInvalidRequest, WorkCompletionStatus.RemoteInvalidRequest); // R7
            return false;
        }

        if (payloadBytes != 0)
        {
            AccessOutcome outcome = _port.Memory.Write(_region!, _address, packet.Payload);
            if (outcome != AccessOutcome.Done)
            {
                Refuse(packet, _region!, outcome);
                return false;
            }

            _region!.BytesPlaced += payloadBytes;
            _region.LastPlacedPsn = packet.Psn;
            _port.Counters.BytesPlaced += payloadBytes;
        }

        _address += (ulong)payloadBytes;
        _remainingBytes -= (uint)payloadBytes;
        _message = traits.EndsMessage ? OpenMessage.None : OpenMessage.Write;
        return true;
    }

    private void Finish(in PacketView packet, in OpcodeTraits traits, bool isWrite)
    {
        if (traits.CompletesReceive)
        {
            bool hasImmediate = traits.Has(ExtensionHeaders.ImmDt);
            CompleteReceive(
                new WorkCompletion
                {
                    Status = WorkCompletionStatus.Success,
                    Opcode = isWrite ? WorkCompletionOpcode.ReceiveRdmaWithImmediate : WorkCompletionOpcode.Receive,
                    ByteLength = isWrite ? _messageBytes : (uint)_receiveOffset,
                    Immediate = hasImmediate ? packet.Immediate : 0,
                    Flags = (hasImmediate ? WorkCompletionFlags.WithImmediate : WorkCompletionFlags.None)
                        | (_pair.Profile.CompletionsCarryRxeFlags ? WorkCompletionFlags.Grh : WorkCompletionFlags.None),
                },
                packet.Solicited);
            _receiveOpen = false;
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

    private void HandleRead(in PacketView packet)
    {
        Reth reth = packet.Reth;
        if (_reads.Granted == 0 || reth.Length > Reth.LengthMax || packet.PayloadBytes != 0)
        {
            End(packet, Aeth.NakInvalidRequest, WorkCompletionStatus.RemoteInvalidRequest); // R5, R7
            return;
        }

        if (reth.Length != 0 && !TryFindRemote(packet, reth, AccessFlags.RemoteRead, out _))
        {
            return;
        }

        int packets = Math.Max(1, (int)((reth.Length + (uint)_pair.MtuBytes - 1) / (uint)_pair.MtuBytes));
        ReadOperation operation = new()
        {
            FirstPsn = packet.Psn,
            PacketCount = packets,
            Address = reth.Va,
            LengthBytes = reth.Length,
            Key = reth.RKey,
            Msn = Psn.Next(_msn),
        };
        if (!_reads.TryAdd(operation))
        {
            End(packet, Aeth.NakInvalidRequest, WorkCompletionStatus.RemoteInvalidRequest); // R5
            return;
        }

        // The MSN goes up at the start: all responses of this READ carry the raised one.
        _msn = operation.Msn;
        _expectedPsn = Psn.Add(_expectedPsn, (uint)packets);
        _answer.ClearRefusal();

        // Not urgent: READs that are in the socket already share super-packets with this one.
        SendOrder.ScheduleResponses(_pair);
    }

    private void HandleDuplicate(in PacketView packet)
    {
        _port.Counters.Duplicates++;
        if (packet.Opcode == Opcode.RcReadRequest)
        {
            if (_reads.TryRepeat(packet.Psn, packet.Reth, _pair.MtuBytes, _msn))
            {
                SendOrder.ScheduleResponses(_pair);
            }

            return;
        }

        if (!_port.Options.Defences.RefusesDuplicates && packet.Traits.Has(ExtensionHeaders.Reth))
        {
            MemoryRegion? region = _pair.Device.FindRegion(packet.Reth.RKey);
            if (region is not null)
            {
                _port.Memory.Write(region, packet.Reth.Va, packet.Payload);
            }
        }

        // A pending NAK acknowledges the same packets and says more.
        bool asks = packet.AckRequest || _pair.Profile.AcknowledgesEveryDuplicate;
        if (asks && !_answer.IsRefusal)
        {
            Answer(Psn.Add(_expectedPsn, uint.MaxValue), Aeth.AckUnlimited);
        }
    }

    private bool TryFindRemote(in PacketView packet, in Reth reth, AccessFlags need, out MemoryRegion? region)
    {
        region = _region is { } last && last.Key == reth.RKey && last.State != MemoryRegionState.Dead
            ? last
            : _pair.Device.FindRegion(reth.RKey);
        if (region is null)
        {
            Refuse(packet, null, AccessOutcome.Dead);
            return false;
        }

        if (_port.Memory.IsDead(region) || !_port.Memory.Permits(region, _pair.Domain, need, reth.Va, reth.Length))
        {
            Refuse(packet, region, _port.Memory.IsDead(region) ? AccessOutcome.Dead : AccessOutcome.Refused);
            return false;
        }

        return true;
    }

    private void Refuse(in PacketView packet, MemoryRegion? region, AccessOutcome outcome)
    {
        if (outcome == AccessOutcome.Faulted)
        {
            Fault(region!);
            return;
        }

        if (outcome == AccessOutcome.Aborted)
        {
            End(packet, Aeth.NakRemoteOperation, WorkCompletionStatus.LocalQpOperationError);
            return;
        }

        _port.Counters.BytesRejected += packet.PayloadBytes;
        if (region is not null && outcome == AccessOutcome.Dead)
        {
            region.BytesRejected += packet.PayloadBytes;
            region.FirstRejectedPsn ??= packet.Psn;
        }

        if (!_receiveOpen && !packet.Traits.ConsumesReceive)
        {
            uint key = region?.Key ?? (packet.Traits.Has(ExtensionHeaders.Reth) ? packet.Reth.RKey : 0);
            _port.RaiseEvent(new AsyncEvent(AsyncEventType.QueuePairAccessError, _pair.QpNumber, key));
        }

        End(packet, Aeth.NakRemoteAccess, WorkCompletionStatus.LocalAccessError);
    }

    private void Fault(MemoryRegion region)
    {
        _port.Fault(region, _pair);
        RefuseForNow(_port.Options.FaultRnrTimer);
    }

    private void RefuseForNow(int timerCode)
    {
        _awaitsExpected = true;
        Answer(_expectedPsn, (byte)(Aeth.ReceiverNotReady | (timerCode & 31)));
    }

    // The last answer of this queue pair: it leaves before the pair enters ERR, and nothing after it does.
    private void End(in PacketView packet, byte syndrome, WorkCompletionStatus receiveStatus)
    {
        bool holdsReceive = _receiveOpen || (packet.Traits.ConsumesReceive && !_receives.IsEmpty);
        if (holdsReceive)
        {
            CompleteReceive(receiveStatus);
            _receiveOpen = false;
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

    private void CompleteReceive(WorkCompletionStatus failure) =>
        CompleteReceive(new WorkCompletion { Status = failure }, isSolicited: false);

    private void CompleteReceive(WorkCompletion completion, bool isSolicited)
    {
        WorkCompletion whole = completion with { WrId = _receives[_receives.Head].WrId, QpNumber = _pair.QpNumber };
        _receives.Advance();
        _port.Complete(_pair.ReceiveCompletionQueue, whole, _receives, _receives.Head, isSolicited, _pair);
    }

    private BuildResult BuildAnswer(ref SuperPacket superPacket)
    {
        BuildResult result = _answer.Build(ref superPacket);
        if (result == BuildResult.Built && _ends)
        {
            _pair.EnterError();
        }

        return result;
    }

    private BuildResult BuildReadResponse(ref SuperPacket superPacket)
    {
        ref ActiveRead read = ref _reads.Head;
        BuildResult result = _readBuilder.Build(
            read, ref superPacket, out AccessOutcome outcome, out MemoryRegion? region);
        if (result == BuildResult.Built)
        {
            _reads.Advance();
            return result;
        }

        switch (outcome)
        {
            case AccessOutcome.Done:
                return result;
            case AccessOutcome.Faulted:
                // A READ is delayed, not refused: an RNR NAK is no answer to it (linux.md 5.7).
                _port.Fault(region!, _pair);
                _port.Stall(_pair);
                return BuildResult.Nothing;
            default:
                return EndRead(ref superPacket, read.NextPsn, outcome, region);
        }
    }

    private BuildResult EndRead(ref SuperPacket superPacket, uint psn, AccessOutcome outcome, MemoryRegion? region)
    {
        _reads.Clear();
        _ends = true;
        bool isAccess = outcome != AccessOutcome.Aborted;
        if (isAccess)
        {
            _port.RaiseEvent(new AsyncEvent(AsyncEventType.QueuePairAccessError, _pair.QpNumber, region?.Key ?? 0));
        }

        byte syndrome = isAccess ? Aeth.NakRemoteAccess : Aeth.NakRemoteOperation;
        _port.Host.Trace("rdma.nak", _pair.Name, syndrome, psn);
        Answer(psn, syndrome);
        return BuildAnswer(ref superPacket);
    }
}
