using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// A question is a packet for which an acknowledgement was asked. What is kept of those that are out:
//
//   oldest, newest
//              how long the peer has owed an answer: a queue pair that has asked nothing, and waits for its turn or for
//              room among others, is not kept waiting by the peer
//   timed      one at a time, and only what was never sent before: of two copies nobody knows which was answered
//   repeated   after a time-out: what was sent before may be in the socket of a peer that does not run, and be answered
//              twice

/// <summary>What a requester remembers of its questions. Port token held by the caller.</summary>
internal sealed class Questions(QueuePair pair, SendProgress progress, SilenceProbe probe)
{
    private readonly bool _skipsSecondAnswers = pair.Port.Options.Defences.SkipsSecondAnswers;
    private uint _oldestPsn;
    private uint _newestPsn;
    private TimeSpan _newestAt;
    private uint _timedPsn; // the last packet of the one that is timed
    private TimeSpan _timedAt = TimeSpan.MaxValue; // since when; MaxValue: none is
    private uint _repeatEnd; // where what was sent ended at the last time-out
    private bool _repeatsLeft; // and the cursor is before that

    /// <summary>
    /// Since when the peer has owed an answer; <see cref="TimeSpan.MaxValue"/> when nothing was asked. Of several
    /// questions the first, or after an answer to that one a later one.
    /// </summary>
    public TimeSpan OldestAt { get; private set; } = TimeSpan.MaxValue;

    public void Reset()
    {
        _timedAt = OldestAt = TimeSpan.MaxValue;
        _repeatsLeft = false;
    }

    /// <summary>Packets of one request were sent.</summary>
    /// <param name="psn">The first of them.</param>
    /// <param name="sentBefore">Where what was ever sent ended before.</param>
    /// <param name="isAnswered">It is a READ or its like, which is not acknowledged.</param>
    /// <param name="now">The time.</param>
    public void NoteSent(uint psn, uint sentBefore, bool isAnswered, TimeSpan now)
    {
        bool asks = progress.UnaskedBytes == 0;
        if (asks)
        {
            (_newestPsn, _newestAt) = (Psn.Add(progress.CursorPsn, Psn.Mask), now);
            if (OldestAt == TimeSpan.MaxValue)
            {
                (_oldestPsn, OldestAt) = (_newestPsn, now);
            }
        }

        if (asks && psn == sentBefore && _timedAt == TimeSpan.MaxValue)
        {
            (_timedPsn, _timedAt) = (_newestPsn, now);
        }

        _repeatsLeft = _repeatsLeft && Psn.Compare(psn, _repeatEnd) < 0;
        if (asks && _repeatsLeft && !isAnswered && _skipsSecondAnswers)
        {
            probe.NoteAskedTwice();
        }
    }

    /// <summary>The peer has answered something.</summary>
    public void NoteProgress(TimeSpan now)
    {
        if (_timedAt != TimeSpan.MaxValue && Psn.Compare(progress.AckPsn, _timedPsn) > 0)
        {
            pair.Peer.RoundTrip.Add(now - _timedAt);
            _timedAt = TimeSpan.MaxValue;
        }

        if (OldestAt != TimeSpan.MaxValue && Psn.Compare(progress.AckPsn, _oldestPsn) > 0)
        {
            bool isLast = Psn.Compare(progress.AckPsn, _newestPsn) > 0;
            pair.Peer.NoteHeard(isLast ? _newestAt : OldestAt);
            (_oldestPsn, OldestAt) = (_newestPsn, isLast ? TimeSpan.MaxValue : _newestAt);
        }
    }

    /// <summary>What has no answer goes out again.</summary>
    public void GoBack() => _timedAt = OldestAt = TimeSpan.MaxValue;

    /// <summary>As <see cref="GoBack"/>, because of a time-out.</summary>
    public void HandleTimeout() => (_repeatEnd, _repeatsLeft) = (progress.SentPsn, true);
}
