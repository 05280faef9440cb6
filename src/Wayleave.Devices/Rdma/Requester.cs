using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Read roce.md A6 first; rxe_req.c and rxe_comp.c are its longer form. Positions in the send queue:
//
//   completed | head ......... cursor ......... started ........ tail
//               acked up to    sent up to       has PSNs         posted
//               _ackPsn        CursorPsn        _nextPsn
//
// Going back moves the cursor to _ackPsn; _sentPsn, the end of everything ever sent, stays. A READ is asked for in pieces that are
// multiples of the MTU, so a response is placed by its PSN alone, whatever piece or repetition it belongs to.

/// <summary>The sending half of an RC queue pair. Port token held by the caller.</summary>
internal sealed class Requester
{
    private const int HeaderBytesMax = 60; // IPv4, UDP, BTH, RETH and ICRC: what a packet costs on the wire besides its payload

    private readonly QueuePair _pair;
    private readonly SendQueue _queue;
    private readonly RdmaPort _port;
    private uint _head;
    private uint _cursor;
    private int _cursorPacket;
    private uint _started;
    private uint _ackPsn;
    private uint _nextPsn;
    private uint _sentPsn;
    private long _chargedBytes;
    private long _chargedSinceAckRequest;
    private long _readChargedBytes;
    private int _readsOutstanding; // READ requests on the wire, in pieces
    private int _readsIncomplete; // READ work requests started and not completed
    private uint _readRestartPsn;
    private bool _readGapSeen;
    private uint _failedPosition;
    private WorkCompletionStatus _failedStatus; // of the request at _failedPosition, once it is the oldest; Success is none
    private bool _drainReported;

    public Requester(QueuePair pair, SendQueue queue, RdmaPort port)
    {
        _pair = pair;
        _queue = queue;
        _port = port;
        Timer = new RetransmitTimer();
    }

    public RetransmitTimer Timer { get; }

    /// <summary>Whether a request that was sent is not acknowledged.</summary>
    private bool IsOutstanding => CursorPsn != _ackPsn;

    private uint CursorPsn => _cursor == _started ? _nextPsn : Psn.Add(_queue[_cursor].FirstPsn, (uint)_cursorPacket);

    /// <summary>Forgets everything and starts at a PSN (RESET to RTS).</summary>
    public void Reset(uint firstPsn)
    {
        ReleaseCharges();
        _head = _cursor = _started = 0;
        _cursorPacket = 0;
        _ackPsn = _nextPsn = _sentPsn = _readRestartPsn = firstPsn;
        _readsIncomplete = 0;
        _failedStatus = WorkCompletionStatus.Success;
        _drainReported = false;
        _chargedSinceAckRequest = 0;
        Timer.Reset(_pair);
    }

    /// <summary>Whether <see cref="BuildNext"/> has a reason to be called.</summary>
    public bool HasWork => _cursor != _queue.Tail;

    /// <summary>Adds the next packet to a super-packet.</summary>
    public BuildResult BuildNext(ref SuperPacket superPacket, TimeSpan now)
    {
        if (_pair.State is not (QueuePairState.ReadyToSend or QueuePairState.SendQueueDrained)
            || Timer.IsWaitingForReceiver
            || _cursor == _queue.Tail
            || (_failedStatus != WorkCompletionStatus.Success && _cursor == _failedPosition))
        {
            return BuildResult.Nothing;
        }

        ref SendSlot slot = ref _queue[_cursor];
        if (_cursor == _started && !TryStart(ref slot))
        {
            return BuildResult.Nothing;
        }

        return slot.IsRead ? BuildReadRequest(ref slot, ref superPacket, now) : BuildData(ref slot, ref superPacket, now);
    }

    /// <summary>A doorbell, a modify or a mapped region: look again.</summary>
    public void Wake()
    {
        if (_pair.State == QueuePairState.Error)
        {
            Flush();
        }
        else if (HasWork)
        {
            RdmaPort.ScheduleRequests(_pair);
        }
    }

    /// <summary>An acknowledge packet of any syndrome (roce.md A6.2).</summary>
    public void HandleAcknowledge(uint psn, Aeth aeth, TimeSpan now)
    {
        if (!IsOnTheWay(psn))
        {
            return;
        }

        switch (aeth.Kind)
        {
            case AethKind.Acknowledge:
                AcknowledgeThrough(Psn.Next(psn), now);
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

    /// <summary>A READ response. Its place follows from its PSN alone, so both forms of a repetition are taken.</summary>
    public void HandleReadResponse(in PacketView packet, TimeSpan now)
    {
        uint psn = packet.Psn;
        if (!IsOnTheWay(psn) || !TryAcknowledgeBefore(psn, now))
        {
            return;
        }

        ref SendSlot slot = ref _queue[_head];
        if (!slot.IsRead)
        {
            FailHead(WorkCompletionStatus.BadResponse);
            return;
        }

        if (psn != _ackPsn)
        {
            // The answer to a later READ says that this one was served (implied NAK), one of its own only that one is late.
            if (Psn.Compare(psn, slot.LastPsn) > 0)
            {
                RestartRead();
            }
            else
            {
                HandleReadGap();
            }

            return;
        }

        int index = Psn.Distance(slot.FirstPsn, psn);
        (int end, _) = ReadPiece(slot, index);
        bool isEnd = index == end - 1;
        if (!IsExpectedForm(packet.Opcode, index, psn, isEnd))
        {
            FailHead(WorkCompletionStatus.BadResponse);
            return;
        }

        uint offset = (uint)index * (uint)_pair.MtuBytes;
        uint expectedBytes = Math.Min((uint)_pair.MtuBytes, slot.LengthBytes - offset);
        if ((uint)packet.PayloadBytes != expectedBytes)
        {
            FailHead(WorkCompletionStatus.LocalLengthError);
            return;
        }

        AccessOutcome outcome = _pair.Memory.Scatter(_queue.Sges(_head), offset, packet.Payload, out MemoryRegion? region);
        if (outcome == AccessOutcome.Faulted)
        {
            // Nothing is kept for later: the piece is asked for again once the region is mapped (linux.md 5.7).
            _port.Fault(region!, _pair);
            ReleaseCharges();
            MoveCursorToAck();
            _readRestartPsn = _ackPsn;
            Timer.StopAcknowledge();
            _port.Stall(_pair);
            return;
        }

        if (outcome != AccessOutcome.Done)
        {
            FailHead(WorkCompletionStatus.LocalProtectionError);
            return;
        }

        TakeReadPacket(ref slot, index, (int)expectedBytes, isEnd, now);
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

        GoBack();
    }

    /// <summary>SQD: what was started is finished, nothing new starts; the event says when (IBTA 10.3.1.5).</summary>
    public void HandleDrain()
    {
        _drainReported = false;
        ReportDrained();
    }

    /// <summary>ERR: everything that has not completed is flushed, in order.</summary>
    public void Flush()
    {
        ReleaseCharges();
        Timer.Stop();
        uint tail = _queue.Tail;
        while (_head != tail)
        {
            Complete(WorkCompletionStatus.WorkRequestFlushed);
        }

        _cursor = _started = _head;
        _cursorPacket = 0;
        _readsIncomplete = 0;
    }

    /// <summary>Gives the first packet of a request its PSN, if it may start now.</summary>
    private bool TryStart(ref SendSlot slot)
    {
        bool mustWait = _pair.State == QueuePairState.SendQueueDrained
            || ((slot.Flags & SendFlags.Fence) != 0 && _readsIncomplete > 0);
        if (mustWait)
        {
            return false;
        }

        if (slot.IsRead && _pair.MaxRdAtomic == 0)
        {
            FailAtCursor(WorkCompletionStatus.LocalQpOperationError);
            return false;
        }

        slot.FirstPsn = _nextPsn;
        slot.PacketCount = Math.Max(1, (int)((slot.LengthBytes + (uint)_pair.MtuBytes - 1) / (uint)_pair.MtuBytes));
        _nextPsn = Psn.Add(_nextPsn, (uint)slot.PacketCount);
        _readsIncomplete += slot.IsRead ? 1 : 0;
        _started++;
        return true;
    }

    private BuildResult BuildData(ref SendSlot slot, ref SuperPacket superPacket, TimeSpan now)
    {
        int mtu = _pair.MtuBytes;
        bool isFirst = _cursorPacket == 0;
        bool isLast = _cursorPacket == slot.PacketCount - 1;
        uint offset = (uint)_cursorPacket * (uint)mtu;
        int payloadBytes = (int)Math.Min((uint)mtu, slot.LengthBytes - offset);
        DestinationWindow window = _pair.Peer.Window;
        int charge = payloadBytes + HeaderBytesMax + _port.Options.DatagramChargeBytes;
        if (!window.Admits(charge))
        {
            return BuildResult.WindowClosed;
        }

        Opcode opcode = RequestOpcodes.Of(slot.Opcode, isFirst, isLast);
        int headerBytes = OpcodeTraits.Of(opcode).HeaderBytes;
        int padBytes = -payloadBytes & 3;
        int packetBytes = headerBytes + payloadBytes + padBytes + PacketView.IcrcSize;
        if (!superPacket.TryReserve(packetBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        int full = mtu + HeaderBytesMax + _port.Options.DatagramChargeBytes;
        bool closesWindow = window.InFlightBytes + charge + full > window.LimitBytes;
        bool isDue = _chargedSinceAckRequest + charge >= window.LimitBytes / _port.Options.AcknowledgeShare;
        bool asks = isLast || isDue || closesWindow;
        uint psn = Psn.Add(slot.FirstPsn, (uint)_cursorPacket);
        WriteHeaders(packet, slot, opcode, psn, padBytes, asks, isFirst, isLast);
        uint icrc = _pair.Peer.Outbound.Seed(packetBytes, (ushort)superPacket.Count);
        icrc = Icrc.AppendBth(icrc, packet);
        icrc = Icrc.Append(icrc, packet[Bth.Size..headerBytes]);
        Span<byte> payload = packet.Slice(headerBytes, payloadBytes);
        AccessOutcome outcome = Gather(slot, offset, payload, ref icrc, out MemoryRegion? region);
        if (outcome != AccessOutcome.Done)
        {
            return HandleLocalRefusal(outcome, region);
        }

        // Whatever the buffer held before must not leave in the pad (H-13).
        Span<byte> pad = packet.Slice(headerBytes + payloadBytes, padBytes);
        pad.Clear();
        Icrc.Finish(Icrc.Append(icrc, pad), packet[^PacketView.IcrcSize..]);
        superPacket.Commit(packetBytes);
        window.Charge(charge);
        _chargedBytes += charge;
        _chargedSinceAckRequest = asks ? 0 : _chargedSinceAckRequest + charge;
        AdvanceCursor(psn, slot.PacketCount, _cursorPacket + 1, now);
        return BuildResult.Built;
    }

    private BuildResult BuildReadRequest(ref SendSlot slot, ref SuperPacket superPacket, TimeSpan now)
    {
        if (_readsOutstanding >= _pair.MaxRdAtomic)
        {
            return BuildResult.Nothing;
        }

        (int end, uint lengthBytes) = ReadPiece(slot, _cursorPacket);
        int packets = end - _cursorPacket;
        int charge = (int)lengthBytes + packets * (HeaderBytesMax + _port.Options.DatagramChargeBytes);
        if (!_pair.Peer.ReadWindow.Admits(charge))
        {
            return BuildResult.ReadWindowClosed;
        }

        const int PacketBytes = Bth.Size + Reth.Size + PacketView.IcrcSize;
        if (!superPacket.TryReserve(PacketBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        uint psn = Psn.Add(slot.FirstPsn, (uint)_cursorPacket);
        Bth bth = new()
        {
            Opcode = Opcode.RcReadRequest,
            PKey = _port.Options.PKey,
            DestQp = _pair.DestQpNumber,
            AckRequest = true,
            Psn = psn,
        };
        bth.WriteTo(packet);
        uint offset = (uint)_cursorPacket * (uint)_pair.MtuBytes;
        new Reth(slot.RemoteAddress + offset, slot.RKey, lengthBytes).WriteTo(packet[Bth.Size..]);
        Icrc.Seal(_pair.Peer.Outbound, (ushort)superPacket.Count, packet);
        superPacket.Commit(PacketBytes);
        _pair.Peer.ReadWindow.Charge(charge);
        _readChargedBytes += charge;
        _readsOutstanding++;
        _chargedSinceAckRequest = 0;
        AdvanceCursor(psn, slot.PacketCount, end, now);
        return BuildResult.Built;
    }

    private void WriteHeaders(
        Span<byte> packet, in SendSlot slot, Opcode opcode, uint psn, int padBytes, bool asks, bool isFirst, bool isLast)
    {
        Bth bth = new()
        {
            Opcode = opcode,
            Solicited = isLast && (slot.Flags & SendFlags.Solicited) != 0 && slot.Opcode != WorkRequestOpcode.RdmaWrite,
            PadCount = padBytes,
            PKey = _port.Options.PKey,
            DestQp = _pair.DestQpNumber,
            AckRequest = asks,
            Psn = psn,
        };
        bth.WriteTo(packet);
        int at = Bth.Size;
        if (isFirst && slot.Opcode is WorkRequestOpcode.RdmaWrite or WorkRequestOpcode.RdmaWriteWithImmediate)
        {
            new Reth(slot.RemoteAddress, slot.RKey, slot.LengthBytes).WriteTo(packet[at..]);
            at += Reth.Size;
        }

        if (isLast && slot.Opcode is WorkRequestOpcode.RdmaWriteWithImmediate or WorkRequestOpcode.SendWithImmediate)
        {
            new ImmDt(slot.Immediate).WriteTo(packet[at..]);
        }
    }

    private AccessOutcome Gather(in SendSlot slot, uint offset, Span<byte> payload, ref uint icrc, out MemoryRegion? region)
    {
        if ((slot.Flags & SendFlags.Inline) == 0)
        {
            return _pair.Memory.Gather(_queue.Sges(_cursor), offset, payload, ref icrc, out region);
        }

        region = null;
        icrc = Icrc.AppendCopy(icrc, _queue.Inline(_cursor).Slice((int)offset, payload.Length), payload);
        return AccessOutcome.Done;
    }

    private void AdvanceCursor(uint psn, int packetCount, int nextPacket, TimeSpan now)
    {
        uint end = Psn.Add(psn, (uint)(nextPacket - _cursorPacket));
        if (Psn.Compare(psn, _sentPsn) < 0)
        {
            _port.Counters.Retransmits++;
        }

        if (Psn.Compare(end, _sentPsn) > 0)
        {
            _sentPsn = end;
        }

        bool isDone = nextPacket == packetCount;
        _cursor += isDone ? 1u : 0;
        _cursorPacket = isDone ? 0 : nextPacket;
        _port.NoteDeadline(Timer.ArmIfStopped(now));
    }

    /// <summary>Which packets a READ request sent now asks for: up to the end of the piece that the packet is in.</summary>
    private (int End, uint LengthBytes) ReadPiece(in SendSlot slot, int packet)
    {
        int piece = PiecePackets;
        int end = Math.Min((packet / piece + 1) * piece, slot.PacketCount);
        uint from = (uint)packet * (uint)_pair.MtuBytes;
        uint to = (uint)Math.Min((ulong)end * (uint)_pair.MtuBytes, slot.LengthBytes);
        return (end, to - from);
    }

    private int PiecePackets => Math.Max(1, _port.Options.ReadRequestBytes / _pair.MtuBytes);

    /// <summary>Everything from the oldest unacknowledged packet on is sent again.</summary>
    private void GoBack()
    {
        ReleaseCharges();
        Timer.StopAcknowledge();
        MoveCursorToAck();
        _readRestartPsn = _ackPsn;
        _chargedSinceAckRequest = 0;
        RdmaPort.ScheduleRequests(_pair);
    }

    private void MoveCursorToAck()
    {
        _cursor = _head;
        _cursorPacket = _head == _started ? 0 : Psn.Distance(_queue[_head].FirstPsn, _ackPsn);
    }

    private void ReleaseCharges()
    {
        if (_pair.HasPeer)
        {
            _pair.Peer.Window.Release(_chargedBytes);
            _pair.Peer.ReadWindow.Release(_readChargedBytes);
            RdmaPort.WakeReadWaiters(_pair.Peer);
        }

        _chargedBytes = _readChargedBytes = 0;
        _readsOutstanding = 0;
    }

    private BuildResult HandleLocalRefusal(AccessOutcome outcome, MemoryRegion? region)
    {
        if (outcome == AccessOutcome.Faulted && region is not null)
        {
            _port.Fault(region, _pair);
            _port.Stall(_pair);
            return BuildResult.Nothing;
        }

        FailAtCursor(WorkCompletionStatus.LocalProtectionError);
        return BuildResult.Nothing;
    }

    /// <summary>Whether a response to that PSN can exist: sent, and not acknowledged. Everything else is ignored (H-06, H-11).</summary>
    private bool IsOnTheWay(uint psn) =>
        ((psn - _ackPsn) & Psn.Mask) < ((_sentPsn - _ackPsn) & Psn.Mask) && _pair.State != QueuePairState.Error;

    /// <summary>
    /// Everything before <paramref name="end"/> is acknowledged. False when a READ stands in the way: its data was lost, since
    /// responses come in order.
    /// </summary>
    private bool TryAdvance(uint end, TimeSpan now)
    {
        uint start = _ackPsn;
        while (_ackPsn != end && _head != _started)
        {
            ref SendSlot slot = ref _queue[_head];
            if (slot.IsRead)
            {
                break;
            }

            int from = Psn.Distance(slot.FirstPsn, _ackPsn);
            uint left = (end - _ackPsn) & Psn.Mask;
            int to = (int)Math.Min((uint)slot.PacketCount, (uint)from + left);
            Release(slot, from, to);
            _ackPsn = Psn.Add(slot.FirstPsn, (uint)to);
            if (to == slot.PacketCount)
            {
                Complete(WorkCompletionStatus.Success);
            }
        }

        if (_ackPsn != start)
        {
            NoteProgress(now);
        }

        return _ackPsn == end;
    }

    private void AcknowledgeThrough(uint end, TimeSpan now)
    {
        if (!TryAdvance(end, now) && _pair.State != QueuePairState.Error)
        {
            RestartRead(); // an ACK behind a READ: its responses were lost (implied NAK)
        }
    }

    private bool TryAcknowledgeBefore(uint psn, TimeSpan now)
    {
        // A response to a later request acknowledges SENDs and WRITEs before it, up to the READ it may belong to.
        while (_head != _started && !_queue[_head].IsRead)
        {
            ref SendSlot slot = ref _queue[_head];
            uint end = Psn.Add(slot.FirstPsn, (uint)slot.PacketCount);
            if (((psn - _ackPsn) & Psn.Mask) < ((end - _ackPsn) & Psn.Mask))
            {
                return true; // inside a SEND or WRITE: the caller calls it what it is
            }

            if (!TryAdvance(end, now) || _pair.State == QueuePairState.Error)
            {
                return false;
            }
        }

        return _head != _started;
    }

    private void Release(in SendSlot slot, int fromPacket, int toPacket)
    {
        ulong mtu = (ulong)_pair.MtuBytes;
        ulong bytes = Math.Min((ulong)toPacket * mtu, slot.LengthBytes) - Math.Min((ulong)fromPacket * mtu, slot.LengthBytes);
        long charge = (long)bytes + (long)(toPacket - fromPacket) * (HeaderBytesMax + _port.Options.DatagramChargeBytes);

        // After a step back the peer may acknowledge what it had already got and we have not sent again.
        charge = Math.Min(charge, _chargedBytes);
        _chargedBytes -= charge;
        _pair.Peer.Window.Release(charge);
    }

    private void NoteProgress(TimeSpan now)
    {
        if (((CursorPsn - _ackPsn) & Psn.Mask) > ((_sentPsn - _ackPsn) & Psn.Mask))
        {
            // The acknowledgement overtook a repetition: go on behind it.
            long charged = _chargedBytes;
            _chargedBytes = 0;
            _pair.Peer.Window.Release(charged);
            MoveCursorToAck();
        }

        _readGapSeen = false;
        Timer.NoteProgress();
        _port.NoteDeadline(Timer.Restart(now, IsOutstanding));
        if (_failedStatus != WorkCompletionStatus.Success && _head == _failedPosition)
        {
            FailHead(_failedStatus);
            return;
        }

        ReportDrained();
        if (HasWork)
        {
            RdmaPort.ScheduleRequests(_pair);
        }
    }

    private void TakeReadPacket(ref SendSlot slot, int index, int payloadBytes, bool isEnd, TimeSpan now)
    {
        long charge = Math.Min(payloadBytes + HeaderBytesMax + _port.Options.DatagramChargeBytes, _readChargedBytes);
        _readChargedBytes -= charge;
        _pair.Peer.ReadWindow.Release(charge);
        _readsOutstanding -= isEnd && _readsOutstanding > 0 ? 1 : 0;
        _ackPsn = Psn.Next(_ackPsn);
        if (index == slot.PacketCount - 1)
        {
            _readsIncomplete--;
            Complete(WorkCompletionStatus.Success);
        }

        NoteProgress(now);
        RdmaPort.WakeReadWaiters(_pair.Peer);
    }

    private bool IsExpectedForm(Opcode opcode, int index, uint psn, bool isEnd)
    {
        bool startsRequest = index % PiecePackets == 0;
        return opcode switch
        {
            Opcode.RcReadResponseOnly => isEnd && (startsRequest || psn == _readRestartPsn),
            Opcode.RcReadResponseFirst => !isEnd && (startsRequest || psn == _readRestartPsn),
            Opcode.RcReadResponseMiddle => !isEnd && !startsRequest,
            _ => isEnd && !startsRequest,
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
            GoBack();
        }
    }

    private void HandleReceiverNotReady(uint psn, int timerCode, TimeSpan now)
    {
        if (!TryAdvance(psn, now))
        {
            RestartRead();
            return;
        }

        if (_pair.State == QueuePairState.Error || Timer.IsWaitingForReceiver)
        {
            return;
        }

        GoBack();
        if (Timer.TryWaitForReceiver(now, timerCode, out TimeSpan deadline))
        {
            _port.NoteDeadline(deadline);
        }
        else
        {
            FailHead(WorkCompletionStatus.RnrRetryExceeded);
        }
    }

    private void HandleNak(uint psn, byte syndrome, TimeSpan now)
    {
        if (!TryAdvance(psn, now))
        {
            // A READ before it is incomplete: for a sequence error ask again from there; a fatal NAK ends the READ as well.
            if (syndrome == Aeth.NakPsnSequence)
            {
                RestartRead();
                return;
            }
        }

        if (_pair.State == QueuePairState.Error)
        {
            return;
        }

        switch (syndrome)
        {
            case Aeth.NakPsnSequence when Timer.TryConsumeRetry():
                GoBack();
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

    // Completions come in order: a request that fails here waits until all before it are acknowledged.
    private void FailAtCursor(WorkCompletionStatus status)
    {
        (_failedPosition, _failedStatus) = (_cursor, status);
        if (_head == _cursor)
        {
            FailHead(status);
        }
    }

    private void FailHead(WorkCompletionStatus status)
    {
        if (_head != _queue.Tail)
        {
            Complete(status);
        }

        _pair.EnterError();
    }

    private void Complete(WorkCompletionStatus status)
    {
        ref SendSlot slot = ref _queue[_head];
        _head++;
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
            Opcode = RequestOpcodes.CompletionOf(slot.Opcode),
            ByteLength = slot.LengthBytes,
            QpNumber = _pair.QpNumber,
            Flags = marksImmediate ? WorkCompletionFlags.WithImmediate : WorkCompletionFlags.None,
        };
        _port.Complete(_pair.SendCompletionQueue, completion, _queue, _head, isSolicited: false, _pair);
    }

    private void ReportDrained()
    {
        if (_pair.State == QueuePairState.SendQueueDrained && !_drainReported && _head == _started)
        {
            _drainReported = true;
            _port.RaiseEvent(new AsyncEvent(AsyncEventType.SendQueueDrained, _pair.QpNumber));
        }
    }
}

/// <summary>What <see cref="Requester.BuildNext"/> and its twin of the responder came to.</summary>
internal enum BuildResult
{
    /// <summary>A packet was added.</summary>
    Built,

    /// <summary>There is one, but this super-packet cannot take it.</summary>
    DoesNotFit,

    /// <summary>Nothing to send until something happens that schedules the queue pair again.</summary>
    Nothing,

    /// <summary>The destination's window is closed; an acknowledgement opens it.</summary>
    WindowClosed,

    /// <summary>A READ waits until the responses of others have arrived.</summary>
    ReadWindowClosed,
}
