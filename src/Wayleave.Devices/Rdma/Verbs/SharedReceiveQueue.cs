using Wayleave.Core;

namespace Wayleave.Devices.Rdma.Verbs;

// The limit is an application's number until the port takes it:
//
//   0 --SetLimit(n)--> n --a receive is taken, fewer than n are left--> 0, one event
//
// SetLimit is any thread's, taking is the port's. The port puts the 0 in with a compare-exchange on the n that it
// compared with: a limit that was set meanwhile is compared for itself.

/// <summary>
/// Receives that several queue pairs take from (<c>struct ibv_srq</c>). Posting is for any thread; taking is the
/// port's. A receive that a queue pair has taken is that queue pair's, and its slot is free.
/// </summary>
public sealed class SharedReceiveQueue
{
    private readonly ReceiveQueue _queue;
    private readonly RdmaPort _port;
    private int _limit;

    internal SharedReceiveQueue(RdmaPort port, ProtectionDomain domain, int maxWr, int maxSge, uint number)
    {
        _port = port;
        _queue = new ReceiveQueue(maxWr, maxSge, shared: null);
        (Domain, Number) = (domain, number);
    }

    public ProtectionDomain Domain { get; }

    /// <summary>Its number in events.</summary>
    public uint Number { get; }

    /// <summary>Receives that may be queued.</summary>
    public int MaxWr => _queue.Capacity;

    /// <summary>Pieces of memory that a receive may have.</summary>
    public int MaxSge => _queue.SgeMax;

    /// <summary>See <see cref="SetLimit"/>; 0 when no event is wanted, or it has been raised.</summary>
    public int Limit => Volatile.Read(ref _limit);

    /// <summary>Receives queued; exact only while nothing else happens.</summary>
    public int Count => (int)(_queue.Tail - _queue.Head);

    /// <summary>How many queue pairs take from it. Port token held.</summary>
    internal int Users { get; set; }

    /// <summary>Queues a receive (<c>ibv_post_srq_recv</c>). Its memory belongs to it until its completion.</summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for too many pieces, <see cref="Errno.ENOMEM"/> when the queue is full.
    /// </returns>
    public Errno PostReceive(in ReceiveWorkRequest request, ReadOnlySpan<Sge> sges) => _queue.TryPost(request, sges);

    /// <summary>As the other form, with one piece of memory.</summary>
    public Errno PostReceive(in ReceiveWorkRequest request, in Sge sge) =>
        PostReceive(request, new ReadOnlySpan<Sge>(in sge));

    /// <summary>
    /// Asks for one <see cref="AsyncEventType.SharedReceiveQueueLimit"/> when a receive is taken and fewer than that
    /// are left (<c>ibv_modify_srq</c> with IBV_SRQ_LIMIT); 0 takes that back. Any thread.
    /// </summary>
    /// <returns><see cref="Errno.EINVAL"/> for a limit that is negative or beyond <see cref="MaxWr"/>.</returns>
    public Errno SetLimit(int limit)
    {
        if (limit < 0 || limit > MaxWr)
        {
            return Errno.EINVAL;
        }

        Interlocked.Exchange(ref _limit, limit);
        return Errno.Success;
    }

    /// <summary>
    /// Makes room for another number of receives (<c>ibv_modify_srq</c> with IBV_SRQ_MAX_WR), rounded up to a power of
    /// two; those that wait stay, in order. Port token held by the caller.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for less than 1, more than <see cref="RdmaDevice.MaxSharedReceives"/>, less than the
    /// limit, or fewer than wait at this moment; then nothing changed (<c>rxe_srq_chk_attr</c>).
    /// </returns>
    public Errno TryResize(int maxWr)
    {
        _port.AssertHeld();
        bool isSane = maxWr is >= 1 and <= RdmaDevice.MaxSharedReceives && maxWr >= Limit;
        return isSane && _queue.TryResize(maxWr) ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>Moves the oldest receive to a queue pair; false when there is none. Port token held.</summary>
    internal bool TryTake(ReceiveQueue into)
    {
        if (_queue.IsEmpty)
        {
            return false;
        }

        into.Take(_queue[_queue.Head], _queue.Sges(_queue.Head));
        _queue.Advance();
        _queue.Free(_queue.Head);
        CheckLimit();
        return true;
    }

    private void CheckLimit()
    {
        int limit = Volatile.Read(ref _limit);
        while (limit > 0 && Count < limit)
        {
            Interleave.Point("srq: limit read");
            int before = _port.Options.Defences.TakesLimitOnce
                ? Interlocked.CompareExchange(ref _limit, 0, limit)
                : Interlocked.Exchange(ref _limit, 0);
            if (before == limit || !_port.Options.Defences.TakesLimitOnce)
            {
                _port.RaiseEvent(new AsyncEvent(AsyncEventType.SharedReceiveQueueLimit, 0, SrqNumber: Number));
                return;
            }

            limit = before;
        }
    }
}
