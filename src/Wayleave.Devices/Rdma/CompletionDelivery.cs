using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// The way of completions to their queues: at once, or late as a fault that is legal; and the events of queues that
/// moderate them. Port token held by the caller.
/// </summary>
internal sealed class CompletionDelivery(RdmaPort port)
{
    private readonly List<CompletionQueue> _moderated = []; // whose next event waits for time
    private LateCompletions? _late;

    /// <summary>Completions become visible so much later from now on; those that are held become visible now.</summary>
    public void UseDelay(TimeSpan delay)
    {
        while (_late is { } late && late.Deadline != TimeSpan.MaxValue)
        {
            Show(late.Take());
        }

        _late = delay > TimeSpan.Zero ? new LateCompletions(delay) : null;
    }

    public void Complete(
        CompletionQueue completions,
        in WorkCompletion completion,
        WorkQueue queue,
        uint freed,
        bool isSolicited,
        QueuePair pair)
    {
        if (_late is not { } late)
        {
            Push(completions, completion, queue, freed, isSolicited, pair);
            return;
        }

        if (late.IsFull)
        {
            Show(late.Take());
        }

        late.Add(completions, completion, queue, freed, isSolicited, pair, port.Now);
        port.NoteDeadline(late.Deadline);
    }

    /// <summary>A queue pair was reset: completions that are not visible yet never are.</summary>
    public void Forget(QueuePair pair) => _late?.Forget(pair);

    public void HandleTimeout(TimeSpan now)
    {
        if (_late is { } late)
        {
            while (late.Deadline <= now)
            {
                Show(late.Take());
            }

            port.NoteDeadline(late.Deadline);
        }

        for (int i = _moderated.Count - 1; i >= 0; i--)
        {
            CompletionQueue completions = _moderated[i];
            completions.HandleTimeout(now);
            if (completions.EventDeadline == TimeSpan.MaxValue)
            {
                _moderated.RemoveAt(i);
            }

            port.NoteDeadline(completions.EventDeadline);
        }
    }

    private void Show(in LateCompletions.Entry entry)
    {
        // What a queue pair that is gone, or was reset, had coming nobody sees.
        if (entry.Pair is { } pair
            && ReferenceEquals(port.FindQueuePair(pair.QpNumber) ?? pair.PortLink.ManagementPair, pair))
        {
            Push(entry.Completions, entry.Completion, entry.Queue, entry.Freed, entry.IsSolicited, pair);
        }
    }

    private void Push(
        CompletionQueue completions,
        in WorkCompletion completion,
        WorkQueue queue,
        uint freed,
        bool isSolicited,
        QueuePair pair)
    {
        bool hadOverflowed = completions.IsOverflowed;
        if (completions.TryPush(completion, queue, freed, isSolicited, port.Now))
        {
            NoteModerated(completions);
            return;
        }

        // A completion is lost, so no queue pair that completes here can be trusted any more (roce.md A9 rule 6). One
        // that comes later, when the event of the queue is long over, is told that its own work queue is lost.
        if (hadOverflowed)
        {
            if (pair.State is not (QueuePairState.Error or QueuePairState.Reset))
            {
                port.RaiseEvent(new AsyncEvent(AsyncEventType.QueuePairFatal, pair.QpNumber));
                pair.EnterError();
            }

            return;
        }

        port.RaiseEvent(
            new AsyncEvent(AsyncEventType.CompletionQueueError, pair.QpNumber, Completions: completions));
        foreach (QueuePair user in port.QueuePairs)
        {
            if (ReferenceEquals(user.SendCompletionQueue, completions)
                || ReferenceEquals(user.ReceiveCompletionQueue, completions))
            {
                user.EnterError();
            }
        }
    }

    private void NoteModerated(CompletionQueue completions)
    {
        if (completions.EventDeadline != TimeSpan.MaxValue && !_moderated.Contains(completions))
        {
            _moderated.Add(completions);
            port.NoteDeadline(completions.EventDeadline);
        }
    }
}
