using System.Numerics;
using Wayleave.Core;

namespace Wayleave.Devices.Rdma.Verbs;

// Whoever arms the queue looks at it once more, and the port looks whether it is armed behind each completion. Each
// writes its own word before it reads the other's, with a full barrier between (Dekker), so that one of the two sees
// the other:
//
//   the port (token)                       the application
//   TryPush: tail, a barrier               RequestNotify: armed, a barrier
//   reads armed                            Poll: reads tail

/// <summary>
/// Where work requests end (<c>struct ibv_cq</c>): a ring. Filled by the holder of the port token; polled
/// from any thread. When it is full the next completion is lost, the queue is in error for good, and its queue pairs go
/// to ERR (roce.md A9).
/// </summary>
public sealed class CompletionQueue
{
    private const int NotArmed = 0;
    private const int ArmedForSolicited = 1;
    private const int ArmedForAny = 2;

    private readonly bool _isFenced;
    private Entry[] _ring; // replaced under both the port token and _polling
    private int _depth; // port token, or _polling
    private SpinFlag _polling;
    private uint _tail; // written by the port, read by pollers
    private uint _head; // written by pollers under _polling, read by the port
    private int _armed;
    private int _events; // without a channel
    private int _waiting; // completions that share the next event; port token
    private EventModeration _moderation = EventModeration.None; // port token
    private volatile bool _overflowed;

    /// <param name="depth">As <see cref="Depth"/>.</param>
    /// <param name="channel">As <see cref="Channel"/>.</param>
    /// <param name="isFenced">Whether the barriers are there: the defence, which a test may leave out.</param>
    internal CompletionQueue(int depth, CompletionChannel? channel, bool isFenced = true)
    {
        (_depth, Channel, _isFenced) = (depth, channel, isFenced);
        _ring = new Entry[BitOperations.RoundUpToPowerOf2((uint)depth)];
    }

    /// <summary>The most completions that a queue may be made for (<c>max_cqe</c>).</summary>
    public const int DepthMax = 1 << 22;

    /// <summary>How many completions fit.</summary>
    public int Depth => Volatile.Read(ref _depth);

    /// <summary>Where its events go; null keeps them here.</summary>
    public CompletionChannel? Channel { get; }

    /// <summary>Guarded by the channel's flag.</summary>
    internal CompletionQueue? NextInChannel { get; set; }

    /// <summary>Guarded by the channel's flag.</summary>
    internal int EventsInChannel { get; set; }

    /// <summary>
    /// When an event comes at the latest; <see cref="TimeSpan.MaxValue"/> when none waits. Port token held.
    /// </summary>
    internal TimeSpan EventDeadline { get; private set; } = TimeSpan.MaxValue;

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

        if (_isFenced)
        {
            Interlocked.MemoryBarrier();
        }
    }

    /// <summary>
    /// Makes room for another number of completions (<c>ibv_resize_cq</c>); those that wait stay, in order. Port token
    /// held by the caller.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for less than 1, more than <see cref="DepthMax"/>, or fewer than wait at this moment;
    /// then nothing changed.
    /// </returns>
    public Errno TryResize(int depth)
    {
        if (depth is < 1 or > DepthMax)
        {
            return Errno.EINVAL;
        }

        _polling.Enter();
        uint tail = _tail; // the caller has the token: nothing is added
        bool fits = tail - _head <= (uint)depth;
        if (fits)
        {
            Entry[] ring = new Entry[BitOperations.RoundUpToPowerOf2((uint)depth)];
            for (uint position = _head; position != tail; position++)
            {
                ring[position & (uint)(ring.Length - 1)] = _ring[position & (uint)(_ring.Length - 1)];
            }

            _ring = ring;
            Volatile.Write(ref _depth, depth);
        }

        _polling.Exit();
        return fits ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>
    /// Lets completions share events (<c>ibv_modify_cq</c>). Port token held by the caller.
    /// </summary>
    public void SetModeration(EventModeration moderation)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(moderation.Count, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(moderation.Period, TimeSpan.Zero);
        _moderation = moderation;
    }

    /// <summary>
    /// Takes one event (<c>ibv_get_cq_event</c>, without the wait); false when there is none, or they go to a channel.
    /// Any thread.
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

    /// <summary>
    /// Takes the completions of one queue pair out and forgets them, as user-space drivers do when it is reset or
    /// destroyed (<c>mlx5_cq_clean</c> of rdma-core); those of others stay, in order. Port token held by the caller.
    /// </summary>
    public void Discard(uint qpNumber)
    {
        _polling.Enter();
        uint kept = _head;
        for (uint position = _head; position != _tail; position++)
        {
            ref Entry entry = ref _ring[position & (uint)(_ring.Length - 1)];
            if (entry.Completion.QpNumber == qpNumber)
            {
                entry.Queue?.Free(entry.Freed); // as if it had been polled
                continue;
            }

            _ring[kept++ & (uint)(_ring.Length - 1)] = entry;
        }

        Volatile.Write(ref _tail, kept);
        _polling.Exit();
    }

    /// <summary>Adds a completion. Port token held.</summary>
    /// <returns>False when it is lost, now or because the queue overflowed before.</returns>
    internal bool TryPush(
        in WorkCompletion completion, WorkQueue queue, uint freed, bool isSolicited, TimeSpan now)
    {
        uint tail = _tail;
        if (_overflowed || tail - Volatile.Read(ref _head) >= (uint)_depth)
        {
            _overflowed = true;
            return false;
        }

        ref Entry entry = ref _ring[tail & (uint)(_ring.Length - 1)];
        entry.Completion = completion;
        entry.Queue = queue;
        entry.Freed = freed;
        Volatile.Write(ref _tail, tail + 1);
        if (_isFenced)
        {
            Interlocked.MemoryBarrier();
        }

        int armed = Volatile.Read(ref _armed);
        if (armed != NotArmed)
        {
            bool isUrgent = isSolicited || completion.Status != WorkCompletionStatus.Success;
            if (isUrgent || (armed == ArmedForAny && ++_waiting >= _moderation.Count))
            {
                RaiseEvent();
            }
            else if (armed == ArmedForAny && _moderation.Period > TimeSpan.Zero
                && EventDeadline == TimeSpan.MaxValue)
            {
                EventDeadline = now + _moderation.Period;
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

    /// <summary>The event that completions share does not wait any longer. Port token held.</summary>
    internal void HandleTimeout(TimeSpan now)
    {
        if (EventDeadline <= now)
        {
            RaiseEvent();
        }
    }

    private void RaiseEvent()
    {
        (_waiting, EventDeadline) = (0, TimeSpan.MaxValue);
        if (Interlocked.Exchange(ref _armed, NotArmed) == NotArmed)
        {
            return;
        }

        if (Channel is { } channel)
        {
            channel.Raise(this);
        }
        else
        {
            Interlocked.Increment(ref _events);
        }
    }

    private struct Entry
    {
        public WorkCompletion Completion;
        public WorkQueue? Queue; // null once the queue was reset: its positions mean nothing any more
        public uint Freed;
    }
}
