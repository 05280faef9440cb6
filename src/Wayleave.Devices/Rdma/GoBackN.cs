using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Read roce.md A6.2 and A6.3 first. What was sent and has no answer ends in one of two ways, and each changes all that
// is kept of it:
//
//   progress   an answer speaks for everything before it: that completes, the timers begin anew, more is sent
//   back       it is lost: everything from the oldest PSN without an answer on goes out again
//
//   GoBackN           which of the two, and what follows
//   RetransmitTimer   how long an answer is waited for, and how often
//   Questions         since when the peer owes one
//   SilenceProbe      what it is asked meanwhile

/// <summary>
/// What a requester does with what is on its way: takes it for acknowledged, or goes back to the oldest packet without
/// an answer. Told what the peer says by <see cref="Requester"/> and <see cref="ResponseIntake"/>, and when it says
/// nothing. Port token held by the caller.
/// </summary>
internal sealed class GoBackN
{
    private readonly QueuePair _pair;
    private readonly SendProgress _progress;
    private readonly SendCompletions _completions;
    private readonly RequestBuilder _builder;
    private readonly ResponsePlacement _placement;
    private bool _readGapSeen;

    public GoBackN(
        QueuePair pair,
        SendProgress progress,
        SendCompletions completions,
        RequestBuilder builder,
        ResponsePlacement placement)
    {
        _pair = pair;
        _progress = progress;
        _completions = completions;
        _builder = builder;
        _placement = placement;
        Timer = new RetransmitTimer(pair);
        Probe = new SilenceProbe(pair, progress);
        Questions = new Questions(pair, progress, Probe);
    }

    public RetransmitTimer Timer { get; }

    public SilenceProbe Probe { get; }

    public Questions Questions { get; }

    private bool IsInError => _pair.State == QueuePairState.Error;

    /// <summary>Forgets everything; the first packet has that PSN.</summary>
    public void Reset(uint firstPsn)
    {
        Probe.Reset();
        _progress.Reset(firstPsn);
        _placement.Reset(firstPsn);
        _readGapSeen = _builder.Probes = false;
        Timer.Reset();
        Questions.Reset();
    }

    /// <summary>ERR: no answer is waited for, and none will be taken.</summary>
    public void End()
    {
        Timer.Stop();
        Probe.End();
        _placement.End();
    }

    /// <summary>
    /// Everything before <paramref name="end"/> is acknowledged. False when a READ stands in the way: its data was
    /// lost, since responses come in order.
    /// </summary>
    public bool TryAcknowledge(uint end, TimeSpan now)
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
            _pair.Port.Urge(_progress.HasWork ? TransmitUrgency.Now : TransmitUrgency.None);
        }

        return _progress.AckPsn == end;
    }

    /// <summary>
    /// A response to a READ acknowledges the SENDs and WRITEs before it. True when the request at the head is the one
    /// it answers, or a SEND or WRITE that it cannot answer: the caller calls that what it is.
    /// </summary>
    public bool TryAcknowledgeBeforeRead(uint psn, TimeSpan now)
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

    /// <summary>The peer has answered something that had no answer.</summary>
    public void HandleProgress(TimeSpan now)
    {
        if (IsInError)
        {
            return;
        }

        bool wasSilent = Probe.IsOut;
        if (_progress.CatchUp())
        {
            _placement.Resume();
        }

        Probe.End();
        _readGapSeen = _builder.Probes = false;
        Questions.NoteProgress(now);
        Timer.NoteProgress();
        if (wasSilent)
        {
            Timer.ProbeSoon();
        }

        _pair.Port.Timers.Arm(_pair, Timer.Restart(now, _progress.IsOutstanding));
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

    /// <summary>
    /// The peer has said nothing for as long as the timer waits: goes back, or asks it something when that is not over
    /// (<see cref="RetransmitTimer.TakeSilence"/>).
    /// </summary>
    public void HandleSilence(TimeSpan now)
    {
        if (!Timer.TakeSilence(now))
        {
            AskMeanwhile(now);
            return;
        }

        _pair.Port.Counters.Timeouts++;
        _pair.Congestion?.HandleLoss(now);
        _pair.Peer.Window.NoteLoss();
        if (!Timer.TryConsumeRetry())
        {
            _completions.FailHead(WorkCompletionStatus.RetryExceeded);
            return;
        }

        Questions.HandleTimeout();
        GoBackAndSend();
    }

    private void AskMeanwhile(TimeSpan now)
    {
        PairTimers timers = _pair.Port.Timers;
        ResponderDefences defences = _pair.Port.Options.Defences;
        TimeSpan askedAt = defences.WaitsFromQuestions ? Questions.OldestAt : TimeSpan.Zero;
        TimeSpan patience = _pair.Peer.RoundTrip.Patience;
        bool isLate = Probe.IsOut || (askedAt < now && now - askedAt >= patience);
        if (!isLate)
        {
            TimeSpan then = askedAt == TimeSpan.MaxValue ? askedAt : askedAt + patience;
            timers.Arm(_pair, Timer.LookAgain(now, then));
            return;
        }

        Timer.NoteProbe();
        if (!defences.ProbesKeepCharges)
        {
            _pair.Port.Counters.Probes++;
            GoBackAndSend();
            _builder.Probes = true;
        }
        else if (Probe.TryArm(askedAt, now))
        {
            _readGapSeen = false; // what the answer says of a READ is news again
            SendOrder.ScheduleProbe(_pair);
        }
        else
        {
            timers.Arm(_pair, Timer.ArmIfStopped(now));
        }
    }

    /// <summary>A READ is asked for again from the oldest response that has not come.</summary>
    public void RestartRead()
    {
        // Once per gap: the responses behind the lost one keep arriving and say nothing new.
        if (!_readGapSeen)
        {
            _readGapSeen = true;
            GoBackAndSend();
        }
    }

    /// <summary>What has no answer goes out again when something is sent next.</summary>
    public void GoBack()
    {
        Questions.GoBack();
        Probe.End();
        _progress.GoBack();
        Timer.StopAcknowledge();
        _placement.Restart();
    }

    /// <summary>As <see cref="GoBack"/>, in the next turn.</summary>
    public void GoBackAndSend()
    {
        GoBack();
        SendOrder.ScheduleRequests(_pair);
    }
}
