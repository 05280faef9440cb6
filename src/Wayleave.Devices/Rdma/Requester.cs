using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Read roce.md A6 first; rxe_req.c and rxe_comp.c are its longer form. SendProgress has the picture of the send queue.
// A READ is asked for in pieces that are multiples of the MTU, so a response is placed by its PSN alone, whatever piece
// or repetition it belongs to.

/// <summary>The sending half of an RC queue pair. Port token held by the caller.</summary>
internal sealed class Requester : SendSide, IMiddleTaker
{
    private readonly QueuePair _pair;
    private readonly SendQueue _queue;
    private readonly RdmaPort _port;
    private readonly SendProgress _progress;
    private readonly SendCompletions _completions;
    private readonly RequestBuilder _builder;
    private readonly ResponsePlacement _responses;
    private readonly SilenceProbe _probe;
    private readonly Questions _questions;
    private bool _readGapSeen;
    private HeldPackets? _held; // of a peer that answers ahead

    public Requester(QueuePair pair, SendQueue queue, RdmaPort port)
    {
        _pair = pair;
        _queue = queue;
        _port = port;
        _progress = new SendProgress(pair, queue, port.Options);
        _completions = new SendCompletions(pair, _progress);
        _builder = new RequestBuilder(pair, queue, port, _progress);
        _responses = new ResponsePlacement(pair, queue, _progress);
        Timer = new RetransmitTimer(pair);
        _probe = new SilenceProbe(pair, port, _progress);
        _questions = new Questions(pair, _progress, _probe);
    }

    public RetransmitTimer Timer { get; }

    /// <summary>How far it is in its message, for who sends next.</summary>
    public SendTurn Turn => new(_pair, _progress); // nothing of its own: there are many queue pairs

    public override TimeSpan Deadline => Timer.Deadline;

    public override uint OldestUnansweredPsn => _progress.AckPsn;

    private bool IsInError => _pair.State == QueuePairState.Error;

    public override void Reset(uint firstPsn)
    {
        _probe.Reset();
        _progress.Reset(firstPsn);
        _responses.RestartPsn = _responses.ResumePsn = firstPsn;
        _readGapSeen = _builder.Probes = false;
        _completions.Reset();
        _held = null;
        Timer.Reset();
        _questions.Reset();
    }

    /// <summary>Posted and not completed, started or not. Readable from any thread, a moment old.</summary>
    public int UncompletedCount => (int)(_queue.Tail - _progress.Head);

    public override BuildResult BuildNext(ref SuperPacket superPacket, TimeSpan now)
    {
        bool hasNone = _pair.State is not (QueuePairState.ReadyToSend or QueuePairState.SendQueueDrained)
            || Timer.IsWaitingForReceiver;
        if (!hasNone && _probe.IsDue)
        {
            return BuildProbe(ref superPacket, now);
        }

        hasNone = hasNone
            || _probe.IsOut
            || !_progress.HasWork
            || (_builder.Probes && _progress.IsOutstanding)
            || _completions.IsFailingAt(_progress.Cursor);
        if (hasNone)
        {
            return BuildResult.Nothing;
        }

        while (_progress.IsCursorNew)
        {
            if (!_progress.HasWork || MustWait())
            {
                return BuildResult.Nothing;
            }

            if (!_progress.CursorSlot.IsLocal)
            {
                if (TryStart() is { } refusal)
                {
                    return refusal;
                }

                break;
            }

            if (!TryExecute())
            {
                return BuildResult.Nothing;
            }
        }

        bool isAnswered = _progress.CursorSlot.IsAnswered;
        (uint psn, uint sent) = (_progress.CursorPsn, _progress.SentPsn);
        BuildResult result = _builder.Build(
            ref superPacket,
            isFailing: _completions.IsFailing,
            out AccessOutcome outcome,
            out MemoryRegion? region);
        if (result == BuildResult.Built)
        {
            _port.Timers.Arm(_pair, Timer.ArmIfStopped(now));
            _questions.NoteSent(psn, sent, isAnswered, now);
        }

        return outcome == AccessOutcome.Done ? result : HandleLocalRefusal(outcome, region);
    }

    public override void Wake()
    {
        if (IsInError)
        {
            Flush();
        }
        else if (_progress.HasWork)
        {
            SendOrder.ScheduleRequests(_pair);
        }
    }

    /// <summary>An acknowledge packet of any syndrome (roce.md A6.2).</summary>
    public void HandleAcknowledge(uint psn, Aeth aeth, TimeSpan now)
    {
        bool isEarly = psn == _progress.SentPsn && _progress.Early.WasSent(psn);
        if (isEarly && aeth.Kind == AethKind.Acknowledge)
        {
            // Nobody asked about that First: this answers a probe or a repetition, and speaks for what came in its
            // turn.
            (psn, isEarly) = (Psn.Add(psn, Psn.Mask), false);
        }

        if (!isEarly && !_progress.IsOnTheWay(psn))
        {
            if (aeth.Kind == AethKind.Acknowledge && _probe.TakeAnswer(psn) && !IsInError)
            {
                // One packet first: others may keep the buffer of the peer's socket full.
                Timer.NoteAnswer();
                _pair.Peer.Window.NoteLoss();
                GoBackAndSend();
                _builder.Probes = true;
            }

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
    /// What a READ, an atomic, an ATOMIC WRITE or a FLUSH is answered with. Its place follows from its PSN alone, so
    /// both forms of a repetition are taken.
    /// </summary>
    public void HandleResponse(in PacketView packet, TimeSpan now)
    {
        uint psn = packet.Psn;
        if (!_progress.IsOnTheWay(psn) || !TryAcknowledgeBeforeRead(psn, now))
        {
            return;
        }

        if (!_progress.HeadSlot.IsAnswered)
        {
            _completions.FailHead(WorkCompletionStatus.BadResponse);
            return;
        }

        if (psn != _progress.AckPsn)
        {
            if (TryHold(packet))
            {
                return;
            }

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

        TakeResponse(packet, now, freedBytes: 0);
        TakeHeld(now);
    }

    /// <summary>The next response has that PSN.</summary>
    public uint ExpectedPsn => _progress.AckPsn;

    /// <summary>How many Middles of the READ at the head may come before the last packet of its piece.</summary>
    // The answer of a probe is looked at by itself, since the one behind it says more.
    public int MiddlesToCome(Opcode opcode) =>
        _pair.State < QueuePairState.ReadyToSend || _probe.IsOut
            ? 0
            : Math.Min(_progress.MiddlesToCome, _held?.CountBefore(_progress.AckPsn) ?? int.MaxValue);

    /// <inheritdoc/>
    public int PlaceMiddles(ref PacketRun run)
    {
        TimeSpan now = _port.Now;
        WorkCompletionStatus status = _responses.PlaceRun(ref run, out MemoryRegion? faulted);
        for (int i = 0; i < run.Placed; i++)
        {
            _progress.TakeReadPacket(run.PayloadBytes, endsPiece: false, freedBytes: 0);
        }

        // What one packet brings about besides its bytes, several do no more than once.
        if (run.Placed != 0)
        {
            HandleProgress(now);
            _port.Peers.WakeReadWaiters();
        }

        if (faulted is not null || status != WorkCompletionStatus.Success)
        {
            RefuseResponse(status, faulted);
            return run.Placed + 1;
        }

        TakeHeld(now);
        return run.Placed;
    }

    private void TakeHeld(TimeSpan now)
    {
        while (_held is not null
            && _progress.IsOnTheWay(_progress.AckPsn)
            && _held.TryTake(_progress.AckPsn, out ReadOnlySpan<byte> bytes, out int freedBytes)
            && PacketView.TryParse(bytes, out PacketView held) == DropReason.None)
        {
            TakeResponse(held, now, freedBytes);
        }
    }

    // Of a peer that sends both ends of the next answers ahead. Each is looked at only in its turn, as if it had come
    // then. What comes when none can have been sent ahead, says that something is lost.
    private bool TryHold(in PacketView packet)
    {
        if (_pair.Profile.FirstsAhead <= 0
            || !_progress.AwaitsMiddle
            || _progress.AckPsn == _responses.RestartPsn
            || packet.Opcode is not (Opcode.RcReadResponseFirst or Opcode.RcReadResponseLast))
        {
            return false;
        }

        if (!_port.Options.Defences.HoldsEarly)
        {
            _responses.PlaceAhead(packet);
        }

        _held ??= new HeldPackets(
            EarlyResponses.PacketsMax(_pair.Profile),
            PayloadPacket.SizeOf(packet.Traits.HeaderBytes, _pair.MtuBytes));
        bool isHeld = _held.TryAdd(packet.Psn, packet.Bytes, _progress.AckPsn, out bool isNew);
        if (isNew)
        {
            _held.NoteFreed(packet.Psn, _progress.NoteHeld(packet.PayloadBytes));
            _port.Peers.WakeReadWaiters();
        }

        return isHeld;
    }

    // It has the oldest PSN without an answer.
    private void TakeResponse(in PacketView packet, TimeSpan now, int freedBytes)
    {
        if (!_progress.HeadSlot.IsAnswered)
        {
            _completions.FailHead(WorkCompletionStatus.BadResponse);
            return;
        }

        WorkCompletionStatus status = _responses.Place(packet, out bool endsPiece, out MemoryRegion? faulted);
        if (faulted is not null || status != WorkCompletionStatus.Success)
        {
            RefuseResponse(status, faulted);
        }
        else
        {
            TakeReadPacket(packet.PayloadBytes, endsPiece, freedBytes, now);
        }
    }

    private void RefuseResponse(WorkCompletionStatus status, MemoryRegion? faulted)
    {
        if (faulted is not null)
        {
            // Nothing is kept for later: it is asked for again once the region is mapped (linux.md 5.7).
            _port.RegionFaults.Add(faulted, _pair);
            GoBack();
            _port.RegionFaults.Stall(_pair);
        }
        else
        {
            _completions.FailHead(status);
        }
    }

    public override void HandleTimeout(TimeSpan now)
    {
        if (Timer.TakeReceiverWait(now))
        {
            Wake();
        }

        if (!Timer.TakeAcknowledgeTimeout(now))
        {
            return;
        }

        if (!Timer.TakeSilence(now))
        {
            HandleSilence(now);
            return;
        }

        _port.Counters.Timeouts++;
        _pair.Congestion?.HandleLoss(now);
        _pair.Peer.Window.NoteLoss();
        if (!Timer.TryConsumeRetry())
        {
            _completions.FailHead(WorkCompletionStatus.RetryExceeded);
            return;
        }

        _questions.HandleTimeout();
        GoBackAndSend();
    }

    private void HandleSilence(TimeSpan now)
    {
        TimeSpan askedAt = _port.Options.Defences.WaitsFromQuestions ? _questions.OldestAt : TimeSpan.Zero;
        TimeSpan patience = _pair.Peer.RoundTrip.Patience;
        bool isLate = _probe.IsOut || (askedAt < now && now - askedAt >= patience);
        if (!isLate)
        {
            TimeSpan then = askedAt == TimeSpan.MaxValue ? askedAt : askedAt + patience;
            _port.Timers.Arm(_pair, Timer.LookAgain(now, then));
            return;
        }

        Timer.NoteProbe();
        if (!_port.Options.Defences.ProbesKeepCharges)
        {
            _port.Counters.Probes++;
            GoBackAndSend();
            _builder.Probes = true;
        }
        else if (_probe.TryArm(askedAt, now))
        {
            _readGapSeen = false; // what the answer says of a READ is news again
            SendOrder.ScheduleProbe(_pair);
        }
        else
        {
            _port.Timers.Arm(_pair, Timer.ArmIfStopped(now));
        }
    }

    private BuildResult BuildProbe(ref SuperPacket superPacket, TimeSpan now)
    {
        BuildResult result = _probe.Build(ref superPacket, now);
        if (result == BuildResult.Built)
        {
            _port.Timers.Arm(_pair, Timer.ArmIfStopped(now));
        }

        return result;
    }

    public override void HandleDrain()
    {
        // Nothing will be sent behind packets for which no acknowledgement was asked: the time-out would have to.
        if (_progress.IsCursorNew && _progress.UnaskedBytes > 0)
        {
            GoBackAndSend();
        }

        _progress.Early.Forget();
        _completions.HandleDrain();
    }

    public override bool IsDrained => _progress.IsIdle;

    public override void HandlePathChange() => GoBack();

    public override void HandleAttributeChange() => Timer.HandleAttributeChange();

    public override void Flush()
    {
        Timer.Stop();
        _probe.End();
        _completions.Flush();
        _progress.Abandon();
        _held = null;
    }

    // A local request waits for everything before it (rxe_req.c), others only if they are fenced.
    private bool MustWait()
    {
        ref SendSlot slot = ref _progress.CursorSlot;
        return _pair.State == QueuePairState.SendQueueDrained
            || ((slot.Flags & SendFlags.Fence) != 0 && _progress.AnswersIncomplete > 0)
            || (slot.IsLocal && !_progress.IsIdle);
    }

    /// <summary>Gives the request at the cursor its PSNs, or says why it does not start.</summary>
    private BuildResult? TryStart()
    {
        if (_progress.CursorSlot.IsAnswered && _pair.MaxRdAtomic == 0)
        {
            return FailAtCursor(WorkCompletionStatus.LocalQpOperationError);
        }

        _progress.Start();
        return null;
    }

    /// <summary>Does what needs no peer. False when it failed, and with it the queue pair.</summary>
    private bool TryExecute()
    {
        ref SendSlot slot = ref _progress.CursorSlot;
        WorkCompletionStatus status = LocalRequests.Execute(_pair, slot);
        if (status != WorkCompletionStatus.Success)
        {
            _completions.FailHead(status);
            return false;
        }

        _progress.PassLocal();
        _completions.CompleteHead(WorkCompletionStatus.Success);
        return true;
    }

    private BuildResult HandleLocalRefusal(AccessOutcome outcome, MemoryRegion? region)
    {
        if (outcome == AccessOutcome.Faulted && region is not null)
        {
            _port.RegionFaults.Add(region, _pair);
            _port.RegionFaults.Stall(_pair);
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
            _builder.Probes = _pair.Profile.ProbesAfterRnr;
            _port.Timers.Arm(_pair, deadline);
        }
        else
        {
            _completions.FailHead(WorkCompletionStatus.RnrRetryExceeded);
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
                _pair.Congestion?.HandleLoss(now);
                _pair.Peer.Window.NoteLoss();
                GoBackAndSend();
                break;
            case Aeth.NakPsnSequence:
                _completions.FailHead(WorkCompletionStatus.RetryExceeded);
                break;
            case Aeth.NakInvalidRequest:
                _completions.FailHead(WorkCompletionStatus.RemoteInvalidRequest);
                break;
            case Aeth.NakRemoteAccess:
                _completions.FailHead(WorkCompletionStatus.RemoteAccessError);
                break;
            default:
                _completions.FailHead(WorkCompletionStatus.RemoteOperationError);
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
        while (_progress.AckPsn != end && !_progress.IsIdle && !_progress.HeadSlot.IsAnswered)
        {
            if (_progress.AcknowledgeHead(end))
            {
                _completions.CompleteHead(WorkCompletionStatus.Success);
            }
        }

        if (_progress.AckPsn != start)
        {
            HandleProgress(now);

            // Not so when the data of a READ comes: others are on their way, and the next few are asked for together.
            _port.Urge(_progress.HasWork ? TransmitUrgency.Now : TransmitUrgency.None);
        }

        return _progress.AckPsn == end;
    }

    // A response to a READ acknowledges the SENDs and WRITEs before it. True when the request at the head is the one it
    // answers, or a SEND or WRITE that it cannot answer: the caller calls that what it is.
    private bool TryAcknowledgeBeforeRead(uint psn, TimeSpan now)
    {
        while (!_progress.IsIdle && !_progress.HeadSlot.IsAnswered)
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

    private void TakeReadPacket(int payloadBytes, bool endsPiece, int freedBytes, TimeSpan now)
    {
        if (_progress.TakeReadPacket(payloadBytes, endsPiece, freedBytes))
        {
            _completions.CompleteHead(WorkCompletionStatus.Success);
        }

        HandleProgress(now);
        _port.Peers.WakeReadWaiters();
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

        bool wasSilent = _probe.IsOut;
        if (_progress.CatchUp())
        {
            _responses.ResumePsn = _progress.AckPsn;
        }

        _probe.End();
        _readGapSeen = _builder.Probes = false;
        _questions.NoteProgress(now);
        Timer.NoteProgress();
        if (wasSilent)
        {
            Timer.ProbeSoon();
        }

        _port.Timers.Arm(_pair, Timer.Restart(now, _progress.IsOutstanding));
        if (_completions.TryFailInTurn())
        {
            return;
        }

        _completions.ReportDrained();
        if (_progress.HasWork)
        {
            SendOrder.ScheduleRequests(_pair);
        }
    }

    private void GoBack()
    {
        _questions.GoBack();
        _probe.End();
        _progress.GoBack();
        if (_port.Options.Defences.ForgetsHeld)
        {
            _held?.Clear();
        }

        Timer.StopAcknowledge();
        _responses.RestartPsn = _responses.ResumePsn = _progress.AckPsn;
    }

    private void GoBackAndSend()
    {
        GoBack();
        SendOrder.ScheduleRequests(_pair);
    }

    // It waits for those before it. Of these, those whose acknowledgement was not asked for are sent again, in the next
    // super-packet.
    private BuildResult FailAtCursor(WorkCompletionStatus status)
    {
        if (_completions.TryFailAtCursor(status) || _progress.UnaskedBytes <= 0)
        {
            return BuildResult.Nothing;
        }

        GoBack();
        return BuildResult.DoesNotFit;
    }
}
