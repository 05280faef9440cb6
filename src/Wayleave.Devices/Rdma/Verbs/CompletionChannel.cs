using System.Diagnostics.CodeAnalysis;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// Where several completion queues put their events, in order (<c>struct ibv_comp_channel</c>). Raising and taking are
/// a few moves under a flag that is spun on: for any thread, allocating nothing.
/// </summary>
/// <param name="wake">
/// Told when an event was put in: wakes whoever waits, and returns at once. Runs on the thread that drives the port,
/// under its token.
/// </param>
public sealed class CompletionChannel(Action? wake = null)
{
    private SpinFlag _flag;
    private CompletionQueue? _head; // linked through the queues: each is in the list once
    private CompletionQueue? _tail;

    /// <summary>Takes the oldest event (<c>ibv_get_cq_event</c>, without the wait).</summary>
    /// <param name="queue">Whose it is: ask it again for the next one, then poll it.</param>
    public bool TryTakeEvent([NotNullWhen(true)] out CompletionQueue? queue)
    {
        _flag.Enter();
        queue = _head;
        if (queue is not null)
        {
            _head = queue.NextInChannel;
            _tail = _head is null ? null : _tail;
            queue.NextInChannel = null;
            if (--queue.EventsInChannel > 0)
            {
                Append(queue);
            }
        }

        _flag.Exit();
        return queue is not null;
    }

    internal void Raise(CompletionQueue queue)
    {
        _flag.Enter();
        if (queue.EventsInChannel++ == 0)
        {
            Append(queue);
        }

        _flag.Exit();
        wake?.Invoke();
    }

    private void Append(CompletionQueue queue)
    {
        if (_tail is null)
        {
            _head = queue;
        }
        else
        {
            _tail.NextInChannel = queue;
        }

        _tail = queue;
    }
}
