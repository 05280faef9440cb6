using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Read roce.md A6 first; rxe_req.c and rxe_comp.c are its longer form. SendProgress has the picture of the send queue.
// Each part calls those below it and none above; what ends the queue pair comes back as Flush.
//
//   Requester           what is sent next, and what an acknowledge packet says
//   ResponseIntake      what answers READs, atomics, ATOMIC WRITEs and FLUSHes
//   GoBackN             what is on its way: acknowledged, waited for, sent again
//   RequestBuilder      the packets of a request
//   ResponsePlacement   where an answer goes, and until when it is held
//   SendCompletions     how requests end
//   SendProgress        where in the queue all of them are

/// <summary>
/// The sending half of an RC queue pair: sends what is posted, and takes acknowledgements. Port token held by the
/// caller.
/// </summary>
internal sealed class Requester : SendSide
{
    private readonly QueuePair _pair;
    private readonly SendProgress _progress;
    private readonly SendCompletions _completions;
    private readonly RequestBuilder _builder;
    private readonly GoBackN _goBackN;

    public Requester(QueuePair pair, SendQueue queue, RdmaPort port)
    {
        _pair = pair;
        _progress = new SendProgress(pair, queue, port.Options);
        _completions = new SendCompletions(pair, _progress);
        _builder = new RequestBuilder(pair, queue, _progress);
        ResponsePlacement placement = new(pair, _progress);
        _goBackN = new GoBackN(pair, _progress, _completions, _builder, placement);
        Responses = new ResponseIntake(pair, _progress, _completions, placement, _goBackN);
    }

    /// <summary>What takes the answers to READs and their like, from whoever takes packets in.</summary>
    public ResponseIntake Responses { get; }

    /// <summary>How far it is in its message, for who sends next.</summary>
    public SendTurn Turn => new(_pair, _progress); // nothing of its own: there are many queue pairs

    public override TimeSpan Deadline => Timer.Deadline;

    public override uint OldestUnansweredPsn => _progress.AckPsn;

    private RetransmitTimer Timer => _goBackN.Timer;

    private SilenceProbe Probe => _goBackN.Probe;

    private bool IsInError => _pair.State == QueuePairState.Error;

    public override void Reset(uint firstPsn)
    {
        _goBackN.Reset(firstPsn);
        _completions.Reset();
    }

    /// <summary>Posted and not completed, started or not. Readable from any thread, a moment old.</summary>
    public int UncompletedCount => (int)(_pair.Sends.Tail - _progress.Head);

    public override BuildResult BuildNext(ref SuperPacket superPacket, TimeSpan now)
    {
        bool hasNone = _pair.State is not (QueuePairState.ReadyToSend or QueuePairState.SendQueueDrained)
            || Timer.IsWaitingForReceiver;
        if (!hasNone && Probe.IsDue)
        {
            return BuildProbe(ref superPacket, now);
        }

        hasNone = hasNone
            || Probe.IsOut
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
            _pair.Port.Timers.Arm(_pair, Timer.ArmIfStopped(now));
            _goBackN.Questions.NoteSent(psn, sent, isAnswered, now);
        }

        return outcome == AccessOutcome.Done ? result : HandleLocalRefusal(outcome, region);
    }

    public override void Wake()
    {
        if (IsInError)
        {
            Flush();
        }
        else if (Probe.IsDue)
        {
            SendOrder.ScheduleProbe(_pair); // held back until now; nothing else may be left to send
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
            if (aeth.Kind == AethKind.Acknowledge && Probe.TakeAnswer(psn) && !IsInError)
            {
                // One packet first: others may keep the buffer of the peer's socket full.
                Timer.NoteAnswer();
                _pair.Peer.Window.NoteLoss();
                _goBackN.GoBackAndSend();
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
                _pair.Port.Counters.RnrNaksReceived++;
                HandleReceiverNotReady(psn, aeth.Value, now);
                break;
            case AethKind.NegativeAcknowledge:
                _pair.Port.Counters.NaksReceived++;
                HandleNak(psn, aeth.Syndrome, now);
                break;
            default:
                break; // reserved syndromes are malformed: dropped
        }
    }

    public override void HandleTimeout(TimeSpan now)
    {
        if (Timer.TakeReceiverWait(now))
        {
            Wake();
        }

        if (Timer.TakeAcknowledgeTimeout(now))
        {
            _goBackN.HandleSilence(now);
        }
    }

    private BuildResult BuildProbe(ref SuperPacket superPacket, TimeSpan now)
    {
        BuildResult result = Probe.Build(ref superPacket, now);
        if (result == BuildResult.Built)
        {
            _pair.Port.Timers.Arm(_pair, Timer.ArmIfStopped(now));
        }

        return result;
    }

    public override void HandleDrain()
    {
        // Nothing will be sent behind packets for which no acknowledgement was asked: the time-out would have to.
        if (_progress.IsCursorNew && _progress.UnaskedBytes > 0)
        {
            _goBackN.GoBackAndSend();
        }

        _progress.Early.Forget();
        _completions.HandleDrain();
    }

    public override bool IsDrained => _progress.IsIdle;

    public override void HandlePathChange() => _goBackN.GoBack();

    public override void HandleAttributeChange() => Timer.HandleAttributeChange();

    public override void Flush()
    {
        _goBackN.End();
        _completions.Flush();
        _progress.Abandon();
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
            _pair.Port.RegionFaults.Add(region, _pair);
            _pair.Port.RegionFaults.Stall(_pair);
            return BuildResult.Nothing;
        }

        return FailAtCursor(WorkCompletionStatus.LocalProtectionError);
    }

    private void HandleAck(uint psn, TimeSpan now)
    {
        if (!_goBackN.TryAcknowledge(Psn.Next(psn), now) && !IsInError)
        {
            _goBackN.RestartRead(); // an ACK behind a READ: its responses were lost (implied NAK)
        }
    }

    private void HandleReceiverNotReady(uint psn, int timerCode, TimeSpan now)
    {
        if (!_goBackN.TryAcknowledge(psn, now))
        {
            _goBackN.RestartRead();
            return;
        }

        if (IsInError || Timer.IsWaitingForReceiver)
        {
            return;
        }

        _goBackN.GoBackAndSend();
        if (Timer.TryWaitForReceiver(now, timerCode, out TimeSpan deadline))
        {
            // A window full of packets would be refused with the first one, for as long as the memory moves.
            _builder.Probes = _pair.Profile.ProbesAfterRnr;
            _pair.Port.Timers.Arm(_pair, deadline);
        }
        else
        {
            _completions.FailHead(WorkCompletionStatus.RnrRetryExceeded);
        }
    }

    private void HandleNak(uint psn, byte syndrome, TimeSpan now)
    {
        // With a READ before it incomplete, a sequence error asks again from there; a fatal NAK ends the READ as well.
        if (!_goBackN.TryAcknowledge(psn, now) && syndrome == Aeth.NakPsnSequence)
        {
            _goBackN.RestartRead();
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
                _goBackN.GoBackAndSend();
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

    // It waits for those before it. Of these, those whose acknowledgement was not asked for are sent again, in the next
    // super-packet.
    private BuildResult FailAtCursor(WorkCompletionStatus status)
    {
        if (_completions.TryFailAtCursor(status) || _progress.UnaskedBytes <= 0)
        {
            return BuildResult.Nothing;
        }

        _goBackN.GoBack();
        return BuildResult.DoesNotFit;
    }
}
