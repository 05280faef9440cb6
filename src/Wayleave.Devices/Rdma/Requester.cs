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
    // A region up to this size is likely to be in a cache of the processor: to ask for its bytes ahead costs more than
    // it saves.
    private const ulong CachedBytes = 8 << 20;

    private readonly QueuePair _pair;
    private readonly SendQueue _queue;
    private readonly RdmaPort _port;
    private readonly SendProgress _progress;
    private int _superPacketPackets = 1; // of the path MTU that fit one super-packet
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
        Timer.Reset(_pair);
    }

    /// <summary>Adds the next packet to a super-packet.</summary>
    public BuildResult BuildNext(ref SuperPacket superPacket, TimeSpan now)
    {
        bool hasNone = _pair.State is not (QueuePairState.ReadyToSend or QueuePairState.SendQueueDrained)
            || Timer.IsWaitingForReceiver
            || !_progress.HasWork
            || (_probes && _progress.IsOutstanding)
            || (_failedStatus != WorkCompletionStatus.Success && _progress.Cursor == _failedPosition);
        if (hasNone)
        {
            return BuildResult.Nothing;
        }

        if (_progress.IsCursorNew && TryStart() is { } refusal)
        {
            return refusal;
        }

        return _progress.CursorSlot.IsRead ? BuildReadRequest(ref superPacket, now)
            : MustHoldBack(superPacket) ? BuildResult.WindowClosed
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
        // Nothing will be sent behind packets for which no acknowledgement was asked: the time-out would have to.
        if (_progress.IsCursorNew && _progress.UnaskedBytes > 0)
        {
            GoBackAndSend();
        }

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

    /// <summary>Gives the request at the cursor its PSNs, or says why it does not start now.</summary>
    private BuildResult? TryStart()
    {
        ref SendSlot slot = ref _progress.CursorSlot;
        bool mustWait = _pair.State == QueuePairState.SendQueueDrained
            || ((slot.Flags & SendFlags.Fence) != 0 && _progress.ReadsIncomplete > 0);
        if (mustWait)
        {
            return BuildResult.Nothing;
        }

        if (slot.IsRead && _pair.MaxRdAtomic == 0)
        {
            return FailAtCursor(WorkCompletionStatus.LocalQpOperationError);
        }

        _progress.Start();
        return null;
    }

    private BuildResult BuildData(ref SuperPacket superPacket, TimeSpan now)
    {
        ref SendSlot slot = ref _progress.CursorSlot;
        int mtu = _pair.MtuBytes;
        bool isLast = _progress.CursorPacket == slot.PacketCount - 1;
        uint offset = (uint)_progress.CursorPacket * (uint)mtu;
        int payloadBytes = (int)Math.Min((uint)mtu, slot.LengthBytes - offset);
        DestinationWindow window = _pair.Peer.Window;
        bool opens = superPacket.Count == 0;
        int charge = _progress.ChargeOf(payloadBytes);
        if (!window.Admits(charge + (opens ? window.SuperPacketChargeBytes : 0)))
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

        long unasked = _progress.UnaskedBytes + charge;
        bool asks = _probes || (isLast && !IsFollowed) || MustAsk(window.InFlightBytes + charge, unasked);
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
        NoteSent(_progress.NoteSent(1, charge, opens, asks ? 0 : unasked), now);
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
        bool opens = superPacket.Count == 0;
        int left = slot.PacketCount - 1 - first;
        int count = Math.Min(left, window.RoomFor(charge, opens ? window.SuperPacketChargeBytes : 0));
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
        MemoryHint? hint = region!.LengthBytes > CachedBytes ? _port.Options.WillRead : null;
        uint psn = _progress.CursorPsn;
        long unasked = _progress.UnaskedBytes;
        int built = 0;
        for (; built < count && (built == 0 || !translation.Gate.IsClosed); built++)
        {
            hint?.Invoke(bytes.Slice(Math.Min(built + 1, count - 1) * mtu, mtu));
            // The last one of the super-packet, unless the end of the message comes behind it and asks anyway.
            unasked += charge;
            bool asks = built == count - 1 && count < left
                && MustAsk(window.InFlightBytes + count * charge, unasked);
            superPacket.TryReserve(packetBytes, out Span<byte> packet);
            (bth with { AckRequest = asks, Psn = psn }).WriteTo(packet);
            uint icrc = Icrc.AppendBth(_pair.Peer.Outbound.Seed(packetBytes, (ushort)superPacket.Count), packet);
            icrc = Icrc.AppendCopy(icrc, bytes.Slice(built * mtu, mtu), packet.Slice(Bth.Size, mtu));
            Icrc.Finish(icrc, packet[^PacketView.IcrcSize..]);
            superPacket.Commit(packetBytes);
            psn = Psn.Next(psn);
            unasked = asks ? 0 : unasked;
        }

        _pair.Memory.Leave(translation);
        if (built == 0)
        {
            return BuildData(ref superPacket, now); // the packet lies in two pieces
        }

        NoteSent(_progress.NoteSent(built, built * charge, opens, unasked), now);
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
        int charge = _progress.ChargeOfRead(end, lengthBytes);
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
        NoteSent(_progress.NoteReadSent(end, charge), now);
        return BuildResult.Built;
    }

    // So many requests are queued behind the one at the cursor that one acknowledgement for some of them keeps nobody
    // waiting: there are three for each that it will speak for. Short ones share a super-packet and its answer anyway.
    private bool IsFollowed => !_pair.Profile.AsksAtEveryMessage
        && _progress.CursorPacket > 0
        && _pair.State == QueuePairState.ReadyToSend
        && _failedStatus == WorkCompletionStatus.Success
        && _queue.Tail - _progress.Cursor > 3 * (_progress.Cursor - _progress.AskedPosition + 1);

    // Besides the last packet of a message: the one behind which nothing worth sending fits the window, for nothing
    // more would ask, and one now and then.
    private bool MustAsk(long inFlightBytes, long unaskedBytes)
    {
        DestinationWindow window = _pair.Peer.Window;
        return inFlightBytes + Worthwhile(_superPacketPackets) > window.LimitBytes
            || unaskedBytes >= window.LimitBytes / _port.Options.AcknowledgeShare;
    }

    // A super-packet is opened when there is room for all that this request would put into it.
    private bool MustHoldBack(in SuperPacket superPacket)
    {
        if (superPacket.Count != 0)
        {
            return false;
        }

        ref SendSlot slot = ref _progress.CursorSlot;
        int left = slot.PacketCount - _progress.CursorPacket;
        if (left == 1 || _probes)
        {
            return false;
        }

        // First is longer than Middle, so the super-packet that it opens ends with the second packet: it is not worth a
        // start if the next one cannot follow.
        _superPacketPackets = superPacket.CapacityFor(PayloadPacket.SizeOf(Bth.Size, _pair.MtuBytes));
        int wanted = Math.Min(left, _superPacketPackets + (_progress.CursorPacket == 0 ? 2 : 0));
        return _pair.Peer.Window.IsWorthWaiting(Worthwhile(wanted));
    }

    private long Worthwhile(int packets)
    {
        DestinationWindow window = _pair.Peer.Window;
        int charge = _progress.ChargeOf(_pair.MtuBytes);
        long all = (long)packets * charge + window.SuperPacketChargeBytes;
        return Math.Clamp(all, charge, Math.Max(charge, window.WorthwhileBytes));
    }

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
            return BuildResult.Nothing;
        }

        return FailAtCursor(WorkCompletionStatus.LocalProtectionError);
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
            _port.Urge(TransmitUrgency.Now);
        }
    }

    private void GoBack()
    {
        _progress.GoBack();
        Timer.StopAcknowledge();
        _readRestartPsn = _progress.AckPsn;
    }

    private void GoBackAndSend()
    {
        GoBack();
        RdmaPort.ScheduleRequests(_pair);
    }

    // Completions come in order: a request that fails here waits until all before it are acknowledged. Those for which
    // that was not asked are sent again, in the next super-packet.
    private BuildResult FailAtCursor(WorkCompletionStatus status)
    {
        (_failedPosition, _failedStatus) = (_progress.Cursor, status);
        if (_progress.Head == _failedPosition)
        {
            FailHead(status);
        }
        else if (_progress.UnaskedBytes > 0)
        {
            GoBack();
            return BuildResult.DoesNotFit;
        }

        return BuildResult.Nothing;
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
