using Wayleave.Core.Fences;

namespace Wayleave.Core.Reservations;

/// <summary>
/// The lock of a buffer and the fences of all work that still uses it (<c>dma_resv</c>). The lock is logical: an
/// <see cref="AcquireTicket"/> owns it, across waits if need be. Host lock held by the caller.
/// </summary>
public sealed class Reservation(HostContext host, string name)
{
    private readonly List<Entry> _entries = [];
    private readonly List<LockWait> _queue = [];
    private int _reserved; // how many entries AddFence may fill; void once unlocked
    private AcquireTicket? _owner;

    /// <summary>Who holds the lock, or null.</summary>
    public AcquireTicket? Owner => _owner;

    /// <summary>Asks for the lock (<c>dma_resv_lock</c>). Never blocks.</summary>
    public LockOutcome TryLock(AcquireTicket ticket)
    {
        host.AssertHeld();
        if (ReferenceEquals(_owner, ticket))
        {
            return new LockOutcome(LockOutcomeKind.AlreadyHeld);
        }

        if (_owner is null)
        {
            Grant(ticket);
            return new LockOutcome(LockOutcomeKind.Acquired);
        }

        // Wait-Die (ww_mutex.h): who holds a lock already waits only behind younger tickets.
        if (ticket.HeldCount > 0 && (_owner.Stamp < ticket.Stamp || _queue.Exists(w => w.Ticket.Stamp < ticket.Stamp)))
        {
            return new LockOutcome(LockOutcomeKind.Deadlock);
        }

        LockWait wait = new(host, ticket);
        int place = _queue.FindIndex(w => w.Ticket.Stamp > ticket.Stamp);
        _queue.Insert(place < 0 ? _queue.Count : place, wait);
        KillYoungerHolders(ticket);
        return new LockOutcome(LockOutcomeKind.Wait, wait);
    }

    /// <summary>Takes a waiter out of the queue; false when it has completed already.</summary>
    public bool TryCancel(LockWait wait)
    {
        host.AssertHeld();
        return _queue.Remove(wait);
    }

    /// <summary>Releases the lock; the oldest waiter gets it. What was reserved and not used is void.</summary>
    public void Unlock(AcquireTicket ticket)
    {
        AssertLocked(ticket);
        _owner = null;
        _reserved = 0;
        ticket.HeldCount--;
        if (_queue.Count > 0)
        {
            LockWait next = _queue[0];
            _queue.RemoveAt(0);
            Grant(next.Ticket);
            next.Complete(LockOutcomeKind.Acquired);
        }
    }

    /// <summary>
    /// Makes room for <paramref name="count"/> more fences, so that <see cref="AddFence"/> cannot fail
    /// (<c>dma_resv_reserve_fences</c>).
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> when <paramref name="count"/> is not positive, which the trace records as a
    /// violation.
    /// </returns>
    public Errno ReserveFences(AcquireTicket ticket, int count)
    {
        AssertLocked(ticket);
        if (count <= 0)
        {
            host.Trace("violation.reserve_fences", name, count);
            return Errno.EINVAL;
        }

        // A fence that was forced stays until its work has ended: a revoke must find it.
        _entries.RemoveAll(e => e.Fence.HasEnded);
        _entries.EnsureCapacity(_entries.Count + count);
        _reserved = Math.Max(_reserved, _entries.Count + count);
        return Errno.Success;
    }

    /// <summary>
    /// Adds a fence; room for it was reserved under this lock (<c>dma_resv_add_fence</c>). It replaces the first entry
    /// that has signalled, or that is of the same context, not stronger, and not later. An entry that was forced and
    /// has not ended stays.
    /// </summary>
    public void AddFence(AcquireTicket ticket, Fence fence, ReservationUsage usage)
    {
        AssertLocked(ticket);
        for (int i = 0; i < _entries.Count; i++)
        {
            Entry old = _entries[i];
            bool replaces = old.Fence.HasEnded
                || (old.Fence.Context == fence.Context && old.Usage >= usage && fence.Seqno >= old.Fence.Seqno
                    && (!old.Fence.IsForced || ReferenceEquals(old.Fence, fence)));
            if (replaces)
            {
                _entries[i] = new Entry(fence, usage);
                return;
            }
        }

        if (_entries.Count >= _reserved)
        {
            throw new InvalidOperationException(
                $"no fence slot was reserved on {name}: call ReserveFences under this lock first");
        }

        _entries.Add(new Entry(fence, usage));
    }

    /// <summary>
    /// Whether every fence of the class and the stronger ones has signalled (<c>dma_resv_test_signaled</c>).
    /// </summary>
    public bool TestSignaled(ReservationUsage usage) => FirstUnsignaled(usage) is null;

    /// <summary>
    /// One fence that somebody asking for this class must still wait for, or null. The edge waits and asks again.
    /// </summary>
    public Fence? FirstUnsignaled(ReservationUsage usage)
    {
        host.AssertHeld();
        foreach (Entry entry in _entries)
        {
            if (entry.Usage <= usage && !entry.Fence.IsSignaled)
            {
                return entry.Fence;
            }
        }

        return null;
    }

    /// <summary>
    /// The fences of a class and the stronger ones, in the order they were added; signalled ones may be among them.
    /// </summary>
    public IReadOnlyList<Fence> GetFences(ReservationUsage usage)
    {
        host.AssertHeld();
        return [.. _entries.Where(e => e.Usage <= usage).Select(e => e.Fence)];
    }

    /// <summary>Throws when the ticket does not hold the lock: a bug of the caller, in every build.</summary>
    public void AssertLocked(AcquireTicket ticket)
    {
        host.AssertHeld();
        if (!ReferenceEquals(_owner, ticket))
        {
            string holder = _owner is null ? "nobody does" : $"{_owner} does";
            throw new InvalidOperationException($"{ticket} does not hold the reservation of {name}; {holder}");
        }
    }

    private void Grant(AcquireTicket ticket)
    {
        _owner = ticket;
        ticket.HeldCount++;
        KillYoungerHolders(ticket);
    }

    // A younger waiter that holds other locks must not wait behind an older ticket: it is woken with -EDEADLK.
    private void KillYoungerHolders(AcquireTicket older)
    {
        LockWait[] killed = [.. _queue.Where(w => w.Ticket.Stamp > older.Stamp && w.Ticket.HeldCount > 0)];
        foreach (LockWait wait in killed)
        {
            // Whoever is told may already have changed the queue.
            if (_queue.Remove(wait))
            {
                wait.Complete(LockOutcomeKind.Deadlock);
            }
        }
    }

    private readonly record struct Entry(Fence Fence, ReservationUsage Usage);
}
