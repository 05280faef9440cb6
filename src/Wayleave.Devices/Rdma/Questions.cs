using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// A question is a packet for which an acknowledgement was asked. Two things are kept of those that are out:
//
//   timed      one at a time, and only what was never sent before: of two copies nobody knows which was answered
//   repeated   after a time-out: what was sent before may be in the socket of a peer that does not run, and be answered
//              twice

/// <summary>What a requester remembers of its questions. Port token held by the caller.</summary>
internal sealed class Questions(QueuePair pair, SendProgress progress, SilenceProbe probe)
{
    private readonly bool _skipsSecondAnswers = pair.Port.Options.Defences.SkipsSecondAnswers;
    private uint _timedPsn; // the last packet of the one that is timed
    private TimeSpan _timedAt = TimeSpan.MaxValue; // since when; MaxValue: none is
    private uint _repeatEnd; // where what was sent ended at the last time-out
    private bool _repeatsLeft; // and the cursor is before that

    public void Reset()
    {
        _timedAt = TimeSpan.MaxValue;
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
        if (asks && psn == sentBefore && _timedAt == TimeSpan.MaxValue)
        {
            (_timedPsn, _timedAt) = (Psn.Add(progress.CursorPsn, Psn.Mask), now);
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
    }

    /// <summary>What has no answer goes out again.</summary>
    public void GoBack() => _timedAt = TimeSpan.MaxValue;

    /// <summary>As <see cref="GoBack"/>, because of a time-out.</summary>
    public void HandleTimeout() => (_repeatEnd, _repeatsLeft) = (progress.SentPsn, true);
}
