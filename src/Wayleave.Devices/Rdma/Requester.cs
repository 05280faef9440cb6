using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Read roce.md A6 first; rxe_req.c and rxe_comp.c are its longer form. SendProgress has the picture of the send queue.
// A READ is asked for in pieces that are multiples of the MTU, so a response is placed by its PSN alone, whatever piece
// or repetition it belongs to.

/// <summary>The sending half of an RC queue pair. Port token held by the caller.</summary>
internal sealed class Requester
{
    private readonly QueuePair _pair;
    private readonly SendQueue _queue;
    private readonly RdmaPort _port;
    private readonly SendProgress _progress;
    private long _chargedSinceAckRequest;
    private uint _readRestartPsn;
    private bool _readGapSeen;
    private bool _probes; // after an RNR NAK one packet at a time goes out, until one is taken
    private uint _failedPosition;
    private WorkCompletionStatus _failedStatus; // for _failedPosition, once it is the oldest; Success is none
    private bool _drainReported;

    public Requester(QueuePair pair, SendQueue queue, RdmaPort port)
    {
        _pair = pair;
        _queue = queue;
        _port = port;
        _progress = new SendProgress(pair, queue, port.Options);
    }

    public RetransmitTimer Timer { get; } = new();

    /// <summary>See <see cref="QueuePair.OldestUnansweredPsn"/>.</summary>
    public uint OldestUnansweredPsn => _progress.AckPsn;

    private bool IsInError => _pair.State == QueuePairState.Error;

    /// <summary>Forgets everything and starts at a PSN (RESET to RTS).</summary>
    public void Reset(uint firstPsn)
    {
        _progress.Reset(firstPsn);
        _readRestartPsn = firstPsn;
        _readGapSeen = _probes = false;
        _failedStatus = WorkCompletionStatus.Success;
        _drainReported = false;
        _chargedSinceAckRequest = 0;
        Timer.Reset(_pair);
    }

    /// <summary>Adds the next packet to a super-packet.</summary>
    public BuildResult BuildNext(ref SuperPacket superPacket, TimeSpan now)
    {
        bool hasNone = _pair.State is not (QueuePairState.ReadyToSend or QueuePairState.SendQueueDrained)
            || Timer.IsWaitingForReceiver
            || !_progress.HasWork
            || (_probes && _progress.IsOutstanding)
            || (_failedStatus != WorkCompletionStatus.Success && _progress.Cursor == _failedPosition)
            || (_progress.IsCursorNew && !TryStart());
        return hasNone ? BuildResult.Nothing
            : _progress.CursorSlot.IsRead ? BuildReadRequest(ref superPacket, now)
            : _probes ? BuildData(ref superPacket, now)
            : BuildMiddles(ref superPacket, now);
    }

    /// <summary>A doorbell, a modify or a mapped region: look again.</summary>
    public void Wake()
    {
        if (IsInError)
        {
            Flush();
        }
        else if (_progress.HasWork)
        {
            RdmaPort.ScheduleRequests(_pair);
        }
    }

    /// <summary>An acknowledge packet of any syndrome (roce.md A6.2).</summary>
    public void HandleAcknowledge(uint psn, Aeth aeth, TimeSpan now)
    {
        if (!_progress.IsOnTheWay(psn))
        {
            return;
        }

        switch (aeth.Kind)
        {
            case AethKind.Acknowledge:
                HandleAck(psn, now);
                break;
            case AethKind.ReceiverNotReady:
                _port.Counters.RnrNaksReceived++;
                HandleReceiverNotReady(psn, aeth.Value, now);
                break;
            case AethKind.NegativeAcknowledge:
                _port.Counters.NaksReceived++;
                HandleNak(psn, aeth.Syndrome, now);
                break;
            default:
                break; // reserved syndromes are malformed: dropped
        }
    }

    /// <summary>
    /// A READ response. Its place follows from its PSN alone, so both forms of a repetition are taken.
    /// </summary>
    public void HandleReadResponse(in PacketView packet, TimeSpan now)
    {
        uint psn = packet.Psn;
        if (!_progress.IsOnTheWay(psn) || !TryAcknowledgeBeforeRead(psn, now))
        {
            return;
        }

        ref SendSlot slot = ref _progress.HeadSlot;
        if (!slot.IsRead)
        {
            FailHead(WorkCompletionStatus.BadResponse);
            return;
        }

        if (psn != _progress.AckPsn)
        {
            // The answer to a later request says that this one was served (implied NAK), one of its own only that one
            // is late.
            if (_progress.IsInHead(psn))
            {
                HandleReadGap();
            }
            else
            {
                RestartRead();
            }

            return;
        }

        int index = Psn.Distance(slot.FirstPsn, psn);
        bool endsPiece = index == _progress.ReadPiece(slot, index).End - 1;
        if (!IsExpectedForm(packet.Opcode, index, psn, endsPiece))
        {
            FailHead(WorkCompletionStatus.BadResponse);
            return;
        }

        uint offset = (uint)index * (uint)_pair.MtuBytes;
        if ((uint)packet.PayloadBytes != Math.Min((uint)_pair.MtuBytes, slot.LengthBytes - offset))
        {
            FailHead(WorkCompletionStatus.LocalLengthError);
            return;
        }

        ReadOnlySpan<Sge> sges = _queue.Sges(_progress.Head);
        AccessOutcome outcome = _pair.Memory.Scatter(sges, offset, packet.Payload, out MemoryRegion? region);
        switch (outcome)
        {
            case AccessOutcome.Done:
                TakeReadPacket(packet.PayloadBytes, endsPiece, now);
                break;
            case AccessOutcome.Faulted:
                // Nothing is kept for later: it is asked for again once the region is mapped (linux.md 5.7).
                _port.Fault(region!, _pair);
                GoBack();
                _port.Stall(_pair);
                break;
            default:
                FailHead(WorkCompletionStatus.LocalProtectionError);
                break;
        }
    }

    public void HandleTimeout(TimeSpan now)
    {
        if (Timer.TakeReceiverWait(now))
        {
            Wake();
        }

        if (!Timer.TakeAcknowledgeTimeout(now))
        {
            return;
        }

        _port.Counters.Timeouts++;
        if (!Timer.TryConsumeRetry())
        {
            FailHead(WorkCompletionStatus.RetryExceeded);
            return;
        }

        GoBackAndSend();
    }

    /// <summary>SQD: what was started is finished, nothing new starts; the event says when (IBTA 10.3.1.5).</summary>
    public void HandleDrain()
    {
        _drainReported = false;
        ReportDrained();
    }

    /// <summary>The peer changes: what has no answer yet is sent again, to the new one.</summary>
    public void HandlePathChange() => GoBack();

    /// <summary>ERR: everything that has not completed is flushed, in order.</summary>
    public void Flush()
    {
        Timer.Stop();
        uint tail = _queue.Tail;
        while (_progress.Head != tail)
        {
            CompleteHead(WorkCompletionStatus.WorkRequestFlushed);
        }

        _progress.Abandon();
    }

    /// <summary>Gives the request at the cursor its PSNs, if it may start now.</summary>
    private bool TryStart()
    {
        ref SendSlot slot = ref _progress.CursorSlot;
        bool mustWait = _pair.State == QueuePairState.SendQueueDrained
            || ((slot.Flags & SendFlags.Fence) != 0 && _progress.ReadsIncomplete > 0);
        if (mustWait)
        {
            return false;
        }

        if (slot.IsRead && _pair.MaxRdAtomic == 0)
        {
            FailAtCursor(WorkCompletionStatus.LocalQpOperationError);
            return false;
        }

        _progress.Start();
        return true;
    }

    private BuildResult BuildData(ref SuperPacket superPacket, TimeSpan now)
    {
        ref SendSlot slot = ref _progress.CursorSlot;
        int mtu = _pair.MtuBytes;
        bool isLast = _progress.CursorPacket == slot.PacketCount - 1;
        uint offset = (uint)_progress.CursorPacket * (uint)mtu;
        int payloadBytes = (int)Math.Min((uint)mtu, slot.LengthBytes - offset);
        DestinationWindow window = _pair.Peer.Window;
        int charge = _progress.ChargeOf(payloadBytes);
        if (!window.Admits(charge))
        {
            return BuildResult.WindowClosed;
        }

        Opcode opcode = RequestHeaders.OpcodeOf(slot.Opcode, _progress.CursorPacket == 0, isLast);
        int headerBytes = OpcodeTraits.Of(opcode).HeaderBytes;
        int packetBytes = PayloadPacket.SizeOf(headerBytes, payloadBytes);
        if (!superPacket.TryReserve(packetBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        bool asks = isLast
            || _probes
            || MustAsk(window.LimitBytes, window.InFlightBytes, _chargedSinceAckRequest, charge);
        Bth bth = new()
        {
            Opcode = opcode,
            Solicited = isLast && (slot.Flags & SendFlags.Solicited) != 0 && slot.Opcode != WorkRequestOpcode.RdmaWrite,
            PadCount = -payloadBytes & 3,
            PKey = _port.Options.PKey,
            DestQp = _pair.DestQpNumber,
            AckRequest = asks,
            Psn = _progress.CursorPsn,
        };
        RequestHeaders.Write(packet, bth, slot);
        uint icrc = PayloadPacket.Begin(_pair.Peer.Outbound, superPacket.Count, packet, headerBytes);
        Span<byte> payload = packet.Slice(headerBytes, payloadBytes);
        AccessOutcome outcome = Gather(slot, offset, payload, ref icrc, out MemoryRegion? region);
        if (outcome != AccessOutcome.Done)
        {
            return HandleLocalRefusal(outcome, region);
        }

        PayloadPacket.End(icrc, packet, headerBytes, payloadBytes);
        superPacket.Commit(packetBytes);
        _chargedSinceAckRequest = asks ? 0 : _chargedSinceAckRequest + charge;
        NoteSent(_progress.NoteSent(1, charge), now);
        return BuildResult.Built;
    }

    /// <summary>
    /// As many packets from the middle of a message as fit, out of one piece of memory: they have the same size and
    /// almost the same headers, and the memory is looked up once. Anything else is left to <see cref="BuildData"/>.
    /// </summary>
    private BuildResult BuildMiddles(ref SuperPacket superPacket, TimeSpan now)
    {
        ref SendSlot slot = ref _progress.CursorSlot;
        int first = _progress.CursorPacket;
        int mtu = _pair.MtuBytes;
        int charge = _progress.ChargeOf(mtu);
        int packetBytes = PayloadPacket.SizeOf(Bth.Size, mtu);
        DestinationWindow window = _pair.Peer.Window;
        int count = Math.Min(slot.PacketCount - 1 - first, window.RoomFor(charge));
        count = Math.Min(count, superPacket.RoomFor(packetBytes));
        if (first == 0 || count < 2 || (slot.Flags & SendFlags.Inline) != 0)
        {
            return BuildData(ref superPacket, now);
        }

        AccessOutcome outcome = _pair.Memory.TryOpen(
            _queue.Sges(_progress.Cursor),
            (ulong)first * (ulong)mtu,
            count * mtu,
            out ReadOnlySpan<byte> bytes,
            out Translation? translation,
            out MemoryRegion? region);
        if (translation is null)
        {
            return HandleLocalRefusal(outcome, region);
        }

        count = Math.Min(count, bytes.Length / mtu);
        Bth bth = new()
        {
            Opcode = RequestHeaders.OpcodeOf(slot.Opcode, isFirst: false, isLast: false),
            PKey = _port.Options.PKey,
            DestQp = _pair.DestQpNumber,
        };
        uint psn = _progress.CursorPsn;
        long inFlight = window.InFlightBytes;
        long sinceAckRequest = _chargedSinceAckRequest;
        int built = 0;
        for (; built < count && (built == 0 || !translation.Gate.IsClosed); built++)
        {
            bool asks = MustAsk(window.LimitBytes, inFlight, sinceAckRequest, charge);
            superPacket.TryReserve(packetBytes, out Span<byte> packet);
            (bth with { AckRequest = asks, Psn = psn }).WriteTo(packet);
            uint icrc = Icrc.AppendBth(_pair.Peer.Outbound.Seed(packetBytes, (ushort)superPacket.Count), packet);
            icrc = Icrc.AppendCopy(icrc, bytes.Slice(built * mtu, mtu), packet.Slice(Bth.Size, mtu));
            Icrc.Finish(icrc, packet[^PacketView.IcrcSize..]);
            superPacket.Commit(packetBytes);
            psn = Psn.Next(psn);
            inFlight += charge;
            sinceAckRequest = asks ? 0 : sinceAckRequest + charge;
        }

        _pair.Memory.Leave(translation);
        if (built == 0)
        {
            return BuildData(ref superPacket, now); // the packet lies in two pieces
        }

        _chargedSinceAckRequest = sinceAckRequest;
        NoteSent(_progress.NoteSent(built, built * charge), now);
        return BuildResult.Built;
    }

    private BuildResult BuildReadRequest(ref SuperPacket superPacket, TimeSpan now)
    {
        if (_progress.ReadsOutstanding >= _pair.MaxRdAtomic)
        {
            return BuildResult.Nothing;
        }

        ref SendSlot slot = ref _progress.CursorSlot;
        (int end, uint lengthBytes) = _progress.ReadPiece(slot, _progress.CursorPacket);
        int charge = _progress.ChargeOfRead(lengthBytes, end - _progress.CursorPacket);
        if (!_pair.Peer.ReadWindow.Admits(charge))
        {
            return BuildResult.ReadWindowClosed;
        }

        if (!superPacket.TryReserve(RequestHeaders.ReadRequestBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        Bth bth = new()
        {
            Opcode = Opcode.RcReadRequest,
            PKey = _port.Options.PKey,
            DestQp = _pair.DestQpNumber,
            AckRequest = true,
            Psn = _progress.CursorPsn,
        };
        bth.WriteTo(packet);
        ulong address = slot.RemoteAddress + (uint)_progress.CursorPacket * (uint)_pair.MtuBytes;
        new Reth(address, slot.RKey, lengthBytes).WriteTo(packet[Bth.Size..]);
        Icrc.Seal(_pair.Peer.Outbound, (ushort)superPacket.Count, packet);
        superPacket.Commit(RequestHeaders.ReadRequestBytes);
        _chargedSinceAckRequest = 0;
        NoteSent(_progress.NoteReadSent(end, charge), now);
        return BuildResult.Built;
    }

    // Besides the last packet of a message: the one that closes the window, for nothing more would ask, and one now and
    // then.
    private bool MustAsk(long windowBytes, long inFlightBytes, long sinceAckRequestBytes, int charge) =>
        inFlightBytes + charge + _progress.ChargeOf(_pair.MtuBytes) > windowBytes
        || sinceAckRequestBytes + charge >= windowBytes / _port.Options.AcknowledgeShare;

    private AccessOutcome Gather(
        in SendSlot slot, uint offset, Span<byte> payload, ref uint icrc, out MemoryRegion? region)
    {
        uint position = _progress.Cursor;
        if ((slot.Flags & SendFlags.Inline) == 0)
        {
            return _pair.Memory.Gather(_queue.Sges(position), offset, payload, ref icrc, out region);
        }

        region = null;
        icrc = Icrc.AppendCopy(icrc, _queue.Inline(position).Slice((int)offset, payload.Length), payload);
        return AccessOutcome.Done;
    }

    private void NoteSent(int repeated, TimeSpan now)
    {
        _port.Counters.Retransmits += repeated;
        _port.NoteDeadline(Timer.ArmIfStopped(now));
    }

    private BuildResult HandleLocalRefusal(AccessOutcome outcome, MemoryRegion? region)
    {
        if (outcome == AccessOutcome.Faulted && region is not null)
        {
            _port.Fault(region, _pair);
            _port.Stall(_pair);
        }
        else
        {
            FailAtCursor(WorkCompletionStatus.LocalProtectionError);
        }

        return BuildResult.Nothing;
    }

    private void HandleAck(uint psn, TimeSpan now)
    {
        if (!TryAcknowledge(Psn.Next(psn), now) && !IsInError)
        {
            RestartRead(); // an ACK behind a READ: its responses were lost (implied NAK)
        }
    }

    private void HandleReceiverNotReady(uint psn, int timerCode, TimeSpan now)
    {
        if (!TryAcknowledge(psn, now))
        {
            RestartRead();
            return;
        }

        if (IsInError || Timer.IsWaitingForReceiver)
        {
            return;
        }

        GoBackAndSend();
        if (Timer.TryWaitForReceiver(now, timerCode, out TimeSpan deadline))
        {
            // A window full of packets would be refused with the first one, for as long as the memory moves.
            _probes = _pair.Profile.ProbesAfterRnr;
            _port.NoteDeadline(deadline);
        }
        else
        {
            FailHead(WorkCompletionStatus.RnrRetryExceeded);
        }
    }

    private void HandleNak(uint psn, byte syndrome, TimeSpan now)
    {
        // With a READ before it incomplete, a sequence error asks again from there; a fatal NAK ends the READ as well.
        if (!TryAcknowledge(psn, now) && syndrome == Aeth.NakPsnSequence)
        {
            RestartRead();
            return;
        }

        if (IsInError)
        {
            return;
        }

        switch (syndrome)
        {
            case Aeth.NakPsnSequence when Timer.TryConsumeRetry():
                GoBackAndSend();
                break;
            case Aeth.NakPsnSequence:
                FailHead(WorkCompletionStatus.RetryExceeded);
                break;
            case Aeth.NakInvalidRequest:
                FailHead(WorkCompletionStatus.RemoteInvalidRequest);
                break;
            case Aeth.NakRemoteAccess:
                FailHead(WorkCompletionStatus.RemoteAccessError);
                break;
            default:
                FailHead(WorkCompletionStatus.RemoteOperationError);
                break;
        }
    }

    /// <summary>
    /// Everything before <paramref name="end"/> is acknowledged. False when a READ stands in the way: its data was
    /// lost, since responses come in order.
    /// </summary>
    private bool TryAcknowledge(uint end, TimeSpan now)
    {
        uint start = _progress.AckPsn;
        while (_progress.AckPsn != end && !_progress.IsIdle && !_progress.HeadSlot.IsRead)
        {
            if (_progress.AcknowledgeHead(end))
            {
                CompleteHead(WorkCompletionStatus.Success);
            }
        }

        if (_progress.AckPsn != start)
        {
            HandleProgress(now);
        }

        return _progress.AckPsn == end;
    }

    // A response to a READ acknowledges the SENDs and WRITEs before it. True when the request at the head is the one it
    // answers, or a SEND or WRITE that it cannot answer: the caller calls that what it is.
    private bool TryAcknowledgeBeforeRead(uint psn, TimeSpan now)
    {
        while (!_progress.IsIdle && !_progress.HeadSlot.IsRead)
        {
            if (_progress.IsInHead(psn))
            {
                return true;
            }

            if (!TryAcknowledge(Psn.Next(_progress.HeadSlot.LastPsn), now) || IsInError)
            {
                return false;
            }
        }

        return !_progress.IsIdle;
    }

    private void TakeReadPacket(int payloadBytes, bool endsPiece, TimeSpan now)
    {
        if (_progress.TakeReadPacket(payloadBytes, endsPiece))
        {
            CompleteHead(WorkCompletionStatus.Success);
        }

        HandleProgress(now);
        RdmaPort.WakeReadWaiters(_pair.Peer);
    }

    private bool IsExpectedForm(Opcode opcode, int index, uint psn, bool endsPiece)
    {
        bool mayStart = _progress.StartsPiece(index) || psn == _readRestartPsn;
        return opcode switch
        {
            Opcode.RcReadResponseOnly => endsPiece && mayStart,
            Opcode.RcReadResponseFirst => !endsPiece && mayStart,
            Opcode.RcReadResponseMiddle => !endsPiece && !_progress.StartsPiece(index),
            _ => endsPiece && !_progress.StartsPiece(index),
        };
    }

    private void HandleReadGap()
    {
        if (_pair.Profile.ReadRestartsAtOnce)
        {
            RestartRead();
        }
    }

    private void RestartRead()
    {
        // Once per gap: the responses behind the lost one keep arriving and say nothing new.
        if (!_readGapSeen)
        {
            _readGapSeen = true;
            GoBackAndSend();
        }
    }

    private void HandleProgress(TimeSpan now)
    {
        if (IsInError)
        {
            return;
        }

        _progress.CatchUp();
        _readGapSeen = _probes = false;
        Timer.NoteProgress();
        _port.NoteDeadline(Timer.Restart(now, _progress.IsOutstanding));
        if (_failedStatus != WorkCompletionStatus.Success && _progress.Head == _failedPosition)
        {
            FailHead(_failedStatus);
            return;
        }

        ReportDrained();
        if (_progress.HasWork)
        {
            RdmaPort.ScheduleRequests(_pair);
        }
    }

    private void GoBack()
    {
        _progress.GoBack();
        Timer.StopAcknowledge();
        _readRestartPsn = _progress.AckPsn;
        _chargedSinceAckRequest = 0;
    }

    private void GoBackAndSend()
    {
        GoBack();
        RdmaPort.ScheduleRequests(_pair);
    }

    // Completions come in order: a request that fails here waits until all before it are acknowledged.
    private void FailAtCursor(WorkCompletionStatus status)
    {
        (_failedPosition, _failedStatus) = (_progress.Cursor, status);
        if (_progress.Head == _failedPosition)
        {
            FailHead(status);
        }
    }

    private void FailHead(WorkCompletionStatus status)
    {
        if (_progress.Head != _queue.Tail)
        {
            CompleteHead(status);
        }

        _pair.EnterError();
    }

    private void CompleteHead(WorkCompletionStatus status)
    {
        ref SendSlot slot = ref _progress.HeadSlot;
        _progress.RetireHead();
        if (status == WorkCompletionStatus.Success && (slot.Flags & SendFlags.Signaled) == 0)
        {
            return;
        }

        bool marksImmediate = _pair.Profile.CompletionsCarryRxeFlags
            && slot.Opcode is WorkRequestOpcode.SendWithImmediate or WorkRequestOpcode.RdmaWriteWithImmediate;
        WorkCompletion completion = new()
        {
            WrId = slot.WrId,
            Status = status,
            Opcode = RequestHeaders.CompletionOf(slot.Opcode),
            ByteLength = slot.LengthBytes,
            QpNumber = _pair.QpNumber,
            Flags = marksImmediate ? WorkCompletionFlags.WithImmediate : WorkCompletionFlags.None,
        };
        _port.Complete(_pair.SendCompletionQueue, completion, _queue, _progress.Head, isSolicited: false, _pair);
    }

    private void ReportDrained()
    {
        if (_pair.State == QueuePairState.SendQueueDrained && !_drainReported && _progress.IsIdle)
        {
            _drainReported = true;
            _port.RaiseEvent(new AsyncEvent(AsyncEventType.SendQueueDrained, _pair.QpNumber));
        }
    }
}
