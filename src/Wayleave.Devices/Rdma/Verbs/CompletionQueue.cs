using System.Numerics;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// Where work requests end (<c>struct ibv_cq</c>): a ring of fixed size. Filled by the holder of the port token; polled
/// from any thread. When it is full the next completion is lost, the queue is in error for good, and its queue pairs go
/// to ERR (roce.md A9).
/// </summary>
public sealed class CompletionQueue
{
    private const int NotArmed = 0;
    private const int ArmedForSolicited = 1;
    private const int ArmedForAny = 2;

    private readonly Entry[] _ring;
    private SpinFlag _polling;
    private uint _tail; // written by the port, read by pollers
    private uint _head; // written by pollers under _polling, read by the port
    private int _armed;
    private int _events;
    private volatile bool _overflowed;

    internal CompletionQueue(int depth)
    {
        Depth = depth;
        _ring = new Entry[BitOperations.RoundUpToPowerOf2((uint)depth)];
    }

    /// <summary>How many completions fit.</summary>
    public int Depth { get; }

    /// <summary>A completion was lost; nothing is added any more.</summary>
    public bool IsOverflowed => _overflowed;

    /// <summary>Completions waiting to be polled; exact only while nothing else happens.</summary>
    public int Count => (int)(Volatile.Read(ref _tail) - Volatile.Read(ref _head));

    /// <summary>
    /// Takes completions out, oldest first (<c>ibv_poll_cq</c>), and frees the slots of the requests they end. Any
    /// thread.
    /// </summary>
    /// <returns>How many entries of <paramref name="completions"/> were filled.</returns>
    public int Poll(Span<WorkCompletion> completions)
    {
        if (Volatile.Read(ref _tail) == Volatile.Read(ref _head))
        {
            return 0;
        }

        _polling.Enter();
        uint head = _head;
        int count = (int)Math.Min((uint)completions.Length, Volatile.Read(ref _tail) - head);
        for (int i = 0; i < count; i++)
        {
            ref Entry entry = ref _ring[(head + (uint)i) & (uint)(_ring.Length - 1)];
            completions[i] = entry.Completion;
            entry.Queue?.Free(entry.Freed);
        }

        Volatile.Write(ref _head, head + (uint)count);
        _polling.Exit();
        return count;
    }

    /// <summary>
    /// Asks for one event at the next completion, or only at the next solicited or failed one
    /// (<c>ibv_req_notify_cq</c>). Poll once more afterwards: a completion that came before makes no event. Any thread.
    /// </summary>
    public void RequestNotify(bool solicitedOnly)
    {
        // Asking for any completion is the wider request, and a narrower one does not take it back.
        if (solicitedOnly)
        {
            Interlocked.CompareExchange(ref _armed, ArmedForSolicited, NotArmed);
        }
        else
        {
            Volatile.Write(ref _armed, ArmedForAny);
        }
    }

    /// <summary>
    /// Takes one event (<c>ibv_get_cq_event</c>, without the wait); false when there is none. Any thread.
    /// </summary>
    public bool TryTakeEvent()
    {
        int events = Volatile.Read(ref _events);
        while (events > 0)
        {
            int before = Interlocked.CompareExchange(ref _events, events - 1, events);
            if (before == events)
            {
                return true;
            }

            events = before;
        }

        return false;
    }

    /// <summary>Adds a completion. Port token held.</summary>
    /// <returns>False when it is lost, now or because the queue overflowed before.</returns>
    internal bool TryPush(in WorkCompletion completion, WorkQueue queue, uint freed, bool isSolicited)
    {
        uint tail = _tail;
        if (_overflowed || tail - Volatile.Read(ref _head) >= (uint)Depth)
        {
            _overflowed = true;
            return false;
        }

        ref Entry entry = ref _ring[tail & (uint)(_ring.Length - 1)];
        entry.Completion = completion;
        entry.Queue = queue;
        entry.Freed = freed;
        Volatile.Write(ref _tail, tail + 1);

        int armed = Volatile.Read(ref _armed);
        if (armed != NotArmed)
        {
            bool counts = armed == ArmedForAny || isSolicited || completion.Status != WorkCompletionStatus.Success;
            if (counts && Interlocked.Exchange(ref _armed, NotArmed) != NotArmed)
            {
                Interlocked.Increment(ref _events);
            }
        }

        return true;
    }

    /// <summary>The completions of a queue that is reset free no slot when they are polled. Port token held.</summary>
    internal void Forget(WorkQueue queue)
    {
        _polling.Enter();
        for (uint position = _head; position != _tail; position++)
        {
            ref Entry entry = ref _ring[position & (uint)(_ring.Length - 1)];
            entry.Queue = ReferenceEquals(entry.Queue, queue) ? null : entry.Queue;
        }

        _polling.Exit();
    }

    private struct Entry
    {
        public WorkCompletion Completion;
        public WorkQueue? Queue; // null once the queue was reset: its positions mean nothing any more
        public uint Freed;
    }
}
