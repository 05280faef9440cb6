using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

// The acknowledge timer and the receiver-not-ready wait exclude each other: while the receiver is waited for, nothing
// is on its way.
//
//   stopped --sent--> acknowledge until T --progress--> stopped or acknowledge until T'
//                             |--RNR NAK--> receiver wait until T'' --passed--> stopped
//
// A silence is what the acknowledge timeout measures; only its end costs a retry. Within it a probe goes out now and
// then, each after twice the time of the one before: the last packets may be lost, or the one answer that the peer
// gives to a gap, and nothing else would make it speak. The answer of a probe that brings nothing new does not end the
// silence: a path that carries probes and no data runs out of retries like a dead one.

/// <summary>The timers and retry budgets of one requester (roce.md A6.3). A state with its deadline inside.</summary>
internal sealed class RetransmitTimer(QueuePair pair)
{
    private TimeSpan _acknowledgeAt = TimeSpan.MaxValue;
    private TimeSpan _receiverAt = TimeSpan.MaxValue;
    private TimeSpan _interval = TimeSpan.MaxValue;
    private TimeSpan _silenceEnds = TimeSpan.MaxValue;
    private TimeSpan _nextProbe = TimeSpan.MaxValue;
    private int _retryCount;
    private int _rnrRetryCount;
    private bool _retriesForever;
    private int _retriesLeft;
    private int _rnrRetriesLeft;

    /// <summary>When something is due; <see cref="TimeSpan.MaxValue"/> when nothing is.</summary>
    public TimeSpan Deadline => _acknowledgeAt < _receiverAt ? _acknowledgeAt : _receiverAt;

    public bool IsWaitingForReceiver => _receiverAt != TimeSpan.MaxValue;

    /// <summary>Takes the attributes of the queue pair over and stops.</summary>
    public void Reset()
    {
        Stop();
        TakeAttributes();
        NoteProgress();
    }

    /// <summary>
    /// The attributes may have changed: a wait that has begun ends when it would have, and a budget that is another one
    /// is full.
    /// </summary>
    public void HandleAttributeChange()
    {
        (int retries, int rnrRetries) = (_retryCount, _rnrRetryCount);
        TakeAttributes();
        _retriesLeft = retries == _retryCount ? _retriesLeft : _retryCount;
        _rnrRetriesLeft = rnrRetries == _rnrRetryCount ? _rnrRetriesLeft : _rnrRetryCount;
    }

    private void TakeAttributes()
    {
        _interval = Interval(pair.Timeout, pair.RetransmitFloor);
        _retryCount = pair.RetryCount;
        _rnrRetryCount = pair.RnrRetry;
        _retriesForever = pair.Profile.RetrySevenIsForever && pair.RetryCount == 7;
    }

    public void Stop() => _acknowledgeAt = _receiverAt = _silenceEnds = TimeSpan.MaxValue;

    public void StopAcknowledge() => _acknowledgeAt = TimeSpan.MaxValue;

    /// <summary>A packet was sent. Returns the deadline.</summary>
    public TimeSpan ArmIfStopped(TimeSpan now)
    {
        if (_acknowledgeAt == TimeSpan.MaxValue && _interval != TimeSpan.MaxValue)
        {
            if (_silenceEnds == TimeSpan.MaxValue || _silenceEnds <= now)
            {
                _silenceEnds = now + _interval;
            }

            TimeSpan left = _silenceEnds - now;
            _acknowledgeAt = now + (_nextProbe < left ? _nextProbe : left);
        }

        return _acknowledgeAt;
    }

    /// <summary>The peer acknowledged something. Returns the deadline.</summary>
    public TimeSpan Restart(TimeSpan now, bool isOutstanding)
    {
        _acknowledgeAt = TimeSpan.MaxValue;
        return isOutstanding ? ArmIfStopped(now) : _acknowledgeAt;
    }

    /// <summary>The budgets are per message in trouble: any progress restores them.</summary>
    public void NoteProgress()
    {
        _retriesLeft = _retryCount;
        _rnrRetriesLeft = _rnrRetryCount;
        _nextProbe = FirstProbe;
        _silenceEnds = TimeSpan.MaxValue;
    }

    /// <summary>
    /// The peer is there, though it has nothing new to say: it is asked again as soon as the first time. No retry is
    /// restored, and the acknowledge timeout runs on.
    /// </summary>
    public void NoteAnswer() => _nextProbe = FirstProbe;

    /// <summary>
    /// What was heard may be the answer of a probe, or come from before it; another one soon tells.
    /// </summary>
    public void ProbeSoon() => _nextProbe = pair.Peer.RoundTrip.ShortPatience;

    private TimeSpan FirstProbe => pair.HasPeer ? pair.Peer.RoundTrip.Patience : TimeSpan.MaxValue;

    public bool TakeAcknowledgeTimeout(TimeSpan now)
    {
        bool passed = _acknowledgeAt <= now;
        _acknowledgeAt = passed ? TimeSpan.MaxValue : _acknowledgeAt;
        return passed;
    }

    /// <summary>
    /// The silence was as long as the acknowledge timeout, and another begins; if not, what has passed was the time for
    /// a probe.
    /// </summary>
    public bool TakeSilence(TimeSpan now)
    {
        bool isOver = now >= _silenceEnds;
        _silenceEnds = isOver ? TimeSpan.MaxValue : _silenceEnds;
        return isOver;
    }

    /// <summary>A probe goes out now, the next one after twice the time.</summary>
    public void NoteProbe() => _nextProbe *= 2;

    /// <summary>
    /// It is too soon for a probe: another look then, or as late as one would follow. Returns the deadline.
    /// </summary>
    public TimeSpan LookAgain(TimeSpan now, TimeSpan then)
    {
        TimeSpan next = ArmIfStopped(now);
        _acknowledgeAt = then < next ? then : next;
        return _acknowledgeAt;
    }

    public bool TakeReceiverWait(TimeSpan now)
    {
        bool passed = _receiverAt <= now;
        _receiverAt = passed ? TimeSpan.MaxValue : _receiverAt;
        return passed;
    }

    /// <summary>False when the retries are used up.</summary>
    public bool TryConsumeRetry()
    {
        if (_retriesForever)
        {
            return true;
        }

        return _retriesLeft-- > 0;
    }

    /// <summary>Waits as the peer asked; false when the RNR retries are used up. 7 retries are endless.</summary>
    public bool TryWaitForReceiver(TimeSpan now, int timerCode, out TimeSpan deadline)
    {
        bool may = _rnrRetryCount == 7 || _rnrRetriesLeft-- > 0;
        if (may)
        {
            _acknowledgeAt = _silenceEnds = TimeSpan.MaxValue;
            _receiverAt = now + RnrTimer.Duration(timerCode);
        }

        deadline = _receiverAt;
        return may;
    }

    // IBTA: 4.096 us * 2^code, 0 waits for ever.
    private static TimeSpan Interval(int code, TimeSpan floor)
    {
        if (code == 0)
        {
            return TimeSpan.MaxValue;
        }

        TimeSpan interval = TimeSpan.FromTicks((long)(4.096 * TimeSpan.TicksPerMicrosecond * (1L << code)));
        return interval < floor ? floor : interval;
    }
}
