using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Queue pairs that wait for a time: those whose timers may run, and those that congestion control holds back. Port
/// token held by the caller.
/// </summary>
internal sealed class PairTimers(RdmaPort port)
{
    private readonly List<QueuePair> _armed = []; // in any order
    private readonly List<QueuePair> _delayed = [];

    /// <summary>
    /// The timer of the queue pair runs until then; <see cref="TimeSpan.MaxValue"/> when it does not.
    /// </summary>
    public void Arm(QueuePair pair, TimeSpan deadline)
    {
        if (deadline == TimeSpan.MaxValue)
        {
            return;
        }

        if (!pair.IsTimed)
        {
            pair.IsTimed = true;
            _armed.Add(pair);
        }

        port.NoteDeadline(deadline);
    }

    /// <summary>The queue pair may send again at that time.</summary>
    public void Delay(QueuePair pair, TimeSpan until)
    {
        if (!_delayed.Contains(pair))
        {
            _delayed.Add(pair);
        }

        port.NoteDeadline(until);
    }

    /// <summary>Lets those act whose time has come, and notes when the next one's does.</summary>
    public void HandleTimeout(TimeSpan now)
    {
        HandleDelayed(now);
        HandleArmed(now);
    }

    /// <summary>The queue pair has nothing to send any more.</summary>
    public void Forget(QueuePair pair) => _delayed.Remove(pair);

    /// <summary>The queue pair is no more.</summary>
    public void Remove(QueuePair pair)
    {
        _delayed.Remove(pair);
        _armed.Remove(pair);
    }

    private void HandleDelayed(TimeSpan now)
    {
        for (int i = _delayed.Count - 1; i >= 0; i--)
        {
            QueuePair pair = _delayed[i];
            TimeSpan until = pair.Congestion!.Rate.NextSend;
            if (until <= now)
            {
                _delayed.RemoveAt(i);
                pair.Wake();
            }
            else
            {
                port.NoteDeadline(until);
            }
        }
    }

    // Most of thousands of queue pairs are idle, and only so many are under way as a window has packets.
    private void HandleArmed(TimeSpan now)
    {
        for (int i = _armed.Count - 1; i >= 0; i--)
        {
            QueuePair pair = _armed[i];
            if (pair.Requester.Deadline <= now)
            {
                pair.Requester.HandleTimeout(now);
            }

            if (pair.Requester.Deadline == TimeSpan.MaxValue)
            {
                pair.IsTimed = false;
                _armed[i] = _armed[^1];
                _armed.RemoveAt(_armed.Count - 1);
            }
            else
            {
                port.NoteDeadline(pair.Requester.Deadline);
            }
        }
    }
}
