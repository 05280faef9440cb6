using Wayleave.Core.Checking;
using Wayleave.Core.Fences;

namespace Wayleave.Core.Reservations;

/// <summary>
/// The lock of a buffer and the fences of all work that still uses it (<c>dma_resv</c>). The lock is logical: an
/// <see cref="AcquireTicket"/> owns it, across waits if need be. Host lock held by the caller.
/// </summary>
public sealed class Reservation(HostContext host, string name) : IWaitNode
{
    private const int FirstCapacity = 4;

    private readonly List<LockWait> _queue = [];
    private Entry[] _entries = [];
    private int _count;
    private int _reserved; // how many entries AddFence may fill; void once unlocked
    private AcquireTicket? _owner;

    /// <summary>For people: that of its buffer.</summary>
    public string Name => name;

    /// <summary>Who holds the lock, or null.</summary>
    public AcquireTicket? Owner => _owner;

    public string Label { get; } = $"reservation of {name}";

    /// <summary>
    /// Changes whenever the list of fences is replaced, so that a walk without the lock begins again.
    /// </summary>
    internal int Generation { get; private set; }

    internal int Count => _count;

    internal (Fence Fence, ReservationUsage Usage) this[int index] => (_entries[index].Fence, _entries[index].Usage);

    /// <summary>Asks for the lock (<c>dma_resv_lock</c>). Never blocks.</summary>
    /// <remarks>
    /// After <see cref="LockOutcomeKind.Deadlock"/> the ticket unlocks all it holds, and asks again for this one first
    /// (<see cref="TryLockSlow"/>). <see cref="LockOperation"/> does that.
    /// </remarks>
    public LockOutcome TryLock(AcquireTicket ticket)
    {
        host.AssertHeld();
        if (ReferenceEquals(_owner, ticket))
        {
            return new LockOutcome(LockOutcomeKind.AlreadyHeld);
        }

        ticket.CheckBeforeLock(this);
        if (_owner is not null)
        {
            return Contend(ticket);
        }

        Grant(ticket);
        if (!ticket.TakesInjectedDeadlock())
        {
            return new LockOutcome(LockOutcomeKind.Acquired);
        }

        host.Trace("reservation.injected_deadlock", name, (long)ticket.Stamp);
        Unlock(ticket);
        return Refuse(ticket, null);
    }

    /// <summary>
    /// Asks for the lock that was contended, holding nothing (<c>dma_resv_lock_slow</c>): the ticket waits, however
    /// young it is. Holding something is a violation.
    /// </summary>
    public LockOutcome TryLockSlow(AcquireTicket ticket)
    {
        host.AssertHeld();
        if (ticket.HeldCount > 0)
        {
            host.Checker.Report(
                ViolationKind.Ticket, ticket.Label, $"locks {Label} slowly while it holds {ticket.HeldCount} others");
        }

        return TryLock(ticket);
    }

    /// <summary>Takes the lock if it is free, and never queues (<c>dma_resv_trylock</c>).</summary>
    public bool TryLockNow(AcquireTicket ticket)
    {
        host.AssertHeld();
        if (_owner is not null)
        {
            return false;
        }

        Grant(ticket); // a lock that cannot wait says nothing about order
        return true;
    }

    /// <summary>
    /// Takes a waiter out of the queue: its lock call was interrupted (-EINTR). False when it has completed already.
    /// </summary>
    public bool TryCancel(LockWait wait)
    {
        host.AssertHeld();
        if (!_queue.Remove(wait))
        {
            return false;
        }

        wait.Ticket.Party.EndWait(this);
        return true;
    }

    /// <summary>Releases the lock; the first waiter gets it. What was reserved and not used is void.</summary>
    public void Unlock(AcquireTicket ticket)
    {
        AssertLocked(ticket);
        _owner = null;
        _reserved = 0;
        ticket.HeldCount--;
        ticket.Activity?.Release(LockClass.Reservation);
        if (_queue.Count > 0)
        {
            LockWait next = _queue[0];
            _queue.RemoveAt(0);
            next.Ticket.Party.EndWait(this);
            Grant(next.Ticket);
            next.Complete(LockOutcomeKind.Acquired);
        }
    }

    /// <summary>
    /// Makes room for <paramref name="count"/> more fences, so that <see cref="AddFence"/> cannot fail
    /// (<c>dma_resv_reserve_fences</c>).
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> when <paramref name="count"/> is not positive, which is a violation.
    /// </returns>
    public Errno ReserveFences(AcquireTicket ticket, int count)
    {
        AssertLocked(ticket);
        if (count <= 0)
        {
            host.Checker.Report(ViolationKind.ReserveFences, name, $"{count} fence slots were asked for");
            return Errno.EINVAL;
        }

        ticket.Activity?.Allocate(mayReclaim: true, $"fence slots of {name}");
        host.Checker.MightReclaim("fence slots");
        DropEnded();
        int needed = _count + count;
        if (needed > _entries.Length)
        {
            Array.Resize(ref _entries, Math.Max(Math.Max(needed, FirstCapacity), 2 * _entries.Length));
            Generation++;
        }

        _reserved = Math.Max(_reserved, needed);
        return Errno.Success;
    }

    /// <summary>
    /// Adds a fence; room for it was reserved under this lock (<c>dma_resv_add_fence</c>). It replaces the first entry
    /// that has signalled, or that is of the same context, not stronger, and not later. An entry that was forced and
    /// has not ended stays. A container, and a fence that only a program signals in another class than BOOKKEEP, are
    /// violations.
    /// </summary>
    public void AddFence(AcquireTicket ticket, Fence fence, ReservationUsage usage)
    {
        AssertLocked(ticket);
        CheckFence(fence, usage);
        for (int i = 0; i < _count; i++)
        {
            _entries[i].Fence.CheckSignaled(); // a driver that is asked may know more than its fence
            ref Entry old = ref _entries[i];
            bool replaces = old.Fence.HasEnded
                || (old.Fence.Context == fence.Context && old.Usage >= usage && fence.IsLaterOrSame(old.Fence)
                    && ((!old.Fence.IsForced && !fence.HasEnded) || ReferenceEquals(old.Fence, fence)));
            if (replaces)
            {
                if (!old.Fence.HasEnded)
                {
                    fence.StandFor(old.Fence);
                }

                old = new Entry(fence, usage);
                return;
            }
        }

        if (_count >= _reserved)
        {
            throw new InvalidOperationException(
                $"no fence slot was reserved on {name}: call ReserveFences under this lock first");
        }

        _entries[_count++] = new Entry(fence, usage);
    }

    /// <summary>
    /// Puts <paramref name="fence"/> in the place of every fence of a context (<c>dma_resv_replace_fences</c>). Only
    /// right when the old work can no longer touch the memory once the new fence signals: an eviction fence that gives
    /// way to the one of the page-table update. A fence that was forced and has not ended stays; where only such are
    /// left, the new one takes a slot that was reserved.
    /// </summary>
    public void ReplaceFences(AcquireTicket ticket, ulong context, Fence fence, ReservationUsage usage)
    {
        AssertLocked(ticket);
        CheckFence(fence, usage);
        bool isThere = false, isKept = false;
        for (int i = 0; i < _count; i++)
        {
            ref Entry old = ref _entries[i];
            if (old.Fence.Context == context)
            {
                isKept |= old.Fence is { IsForced: true, HasEnded: false };
                if (old.Fence is not { IsForced: true, HasEnded: false })
                {
                    old = new Entry(fence, usage);
                    isThere = true;
                }
            }
        }

        if (isKept && !isThere)
        {
            AddFence(ticket, fence, usage);
        }
    }

    /// <summary>
    /// Forgets its own fences and takes those of <paramref name="source"/> that are not over, with their classes
    /// (<c>dma_resv_copy_fences</c>). Only this one is locked.
    /// </summary>
    public void CopyFences(AcquireTicket ticket, Reservation source)
    {
        AssertLocked(ticket);
        Entry[] entries = new Entry[source._count];
        int count = 0;
        for (int i = 0; i < source._count; i++)
        {
            Entry entry = source._entries[i];
            entry.Fence.CheckSignaled();
            if (!entry.Fence.HasEnded)
            {
                entries[count++] = entry;
            }
        }

        (_entries, _count, _reserved) = (entries, count, 0);
        Generation++;
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
        FenceCursor cursor = Iterate(usage);
        return cursor.MoveNext() ? cursor.Current : null;
    }

    /// <summary>
    /// The fences of a class and the stronger ones, in the order they were added; signalled ones may be among them.
    /// </summary>
    public IReadOnlyList<Fence> GetFences(ReservationUsage usage)
    {
        host.AssertHeld();
        List<Fence> fences = new(_count);
        for (int i = 0; i < _count; i++)
        {
            if (_entries[i].Usage <= usage)
            {
                fences.Add(_entries[i].Fence);
            }
        }

        return fences;
    }

    /// <summary>
    /// The fences of a class and the stronger ones that are not signalled (<c>dma_resv_get_fences</c>): a snapshot.
    /// </summary>
    public IReadOnlyList<Fence> GetPendingFences(ReservationUsage usage)
    {
        List<Fence> fences = new(_count);
        for (FenceCursor cursor = Iterate(usage); cursor.MoveNext();)
        {
            if (cursor.IsRestarted)
            {
                fences.Clear();
            }

            fences.Add(cursor.Current);
        }

        return fences;
    }

    /// <summary>
    /// One fence for all that is pending in a class and the stronger ones (<c>dma_resv_get_singleton</c>): null, the
    /// only one, or an array of a context of its own. An array does not go back into a reservation.
    /// </summary>
    public Fence? GetSingleton(ReservationUsage usage) => GetPendingFences(usage) switch
    {
        [] => null,
        [Fence only] => only,
        IReadOnlyList<Fence> fences => new FenceArray(host, fences),
    };

    /// <summary>
    /// Walks without the lock (<c>dma_resv_for_each_fence_unlocked</c>); see <see cref="FenceCursor"/>.
    /// </summary>
    public FenceCursor Iterate(ReservationUsage usage) => new(this, usage, isLocked: false);

    /// <summary>Walks with the lock held (<c>dma_resv_for_each_fence</c>).</summary>
    public FenceCursor IterateLocked(AcquireTicket ticket, ReservationUsage usage)
    {
        AssertLocked(ticket);
        return new FenceCursor(this, usage, isLocked: true);
    }

    /// <summary>Hands a hint on to every pending fence of a class (<c>dma_resv_set_deadline</c>).</summary>
    public void SetDeadline(ReservationUsage usage, TimeSpan deadline)
    {
        for (FenceCursor cursor = Iterate(usage); cursor.MoveNext();)
        {
            cursor.Current.SetDeadline(deadline);
        }
    }

    /// <summary>
    /// One line per fence, with its class: <c>WRITE gpu0 copy engine 4:7 pending</c>. In the kernel
    /// (<c>dma_resv_describe</c>) BOOKKEEP fences are left out; here a hang must be visible.
    /// </summary>
    public IEnumerable<string> Describe()
    {
        host.AssertHeld();
        return [.. _entries.Take(_count).Select(
            e => $"{e.Usage.ToString().ToUpperInvariant()} {e.Fence} {Word(e.Fence)}")];
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

    public void ListWaits(WaitEdges edges)
    {
        if (_owner is { } owner)
        {
            edges.Add("is held by", owner);
        }
    }

    internal void AssertReadable() => host.AssertHeld();

    private static string Word(Fence fence) =>
        !fence.IsSignaled ? "pending" : fence.HasEnded ? "signalled" : "forced";

    private LockOutcome Contend(AcquireTicket ticket)
    {
        // Wait-Die (ww_mutex.h): who holds a lock already waits only behind younger tickets.
        if (ticket.HeldCount > 0 && HasElder(ticket) && host.Has(CoreDefences.WaitDie))
        {
            return Refuse(ticket, null);
        }

        if (ticket.Party.TryBeginWait(this, out WaitCycle? cycle) != Errno.Success)
        {
            return Refuse(ticket, cycle);
        }

        LockWait wait = new(host, this, ticket);
        _queue.Insert(FindPlace(ticket), wait);
        KillYoungerHolders(ticket);

        // Who was told to give way may have let go of what the owner waited for.
        return wait.IsCompleted ? new LockOutcome(wait.Result) : new LockOutcome(LockOutcomeKind.Wait, wait);
    }

    private LockOutcome Refuse(AcquireTicket ticket, WaitCycle? cycle)
    {
        ticket.Contended = this;
        return new LockOutcome(LockOutcomeKind.Deadlock, Cycle: cycle);
    }

    private bool HasElder(AcquireTicket ticket) =>
        IsOlder(_owner!, ticket) || _queue.Exists(w => IsOlder(w.Ticket, ticket));

    // Among tickets by age; who comes without one keeps the place it has.
    private int FindPlace(AcquireTicket ticket)
    {
        int place = _queue.FindIndex(w => IsOlder(ticket, w.Ticket));
        return place < 0 ? _queue.Count : place;
    }

    private static bool IsOlder(AcquireTicket one, AcquireTicket other) =>
        !one.IsPlain && !other.IsPlain && one.Stamp < other.Stamp;

    private void Grant(AcquireTicket ticket)
    {
        _owner = ticket;
        ticket.HeldCount++;
        ticket.Activity?.NoteHeld(LockClass.Reservation, Label);
        KillYoungerHolders(ticket);
    }

    // A younger waiter that holds other locks must not wait behind an older ticket: it is woken with -EDEADLK. Whoever
    // is told may change the queue, so each is looked for anew.
    private void KillYoungerHolders(AcquireTicket older)
    {
        for (int i = 0; i < _queue.Count && host.Has(CoreDefences.WaitDie); i++)
        {
            LockWait wait = _queue[i];
            if (wait.Ticket.HeldCount > 0 && IsOlder(older, wait.Ticket))
            {
                _queue.RemoveAt(i);
                i = -1;
                wait.Ticket.Party.EndWait(this);
                wait.Ticket.Contended = this;
                wait.Complete(LockOutcomeKind.Deadlock);
            }
        }
    }

    // A fence that was forced stays until its work has ended: a revoke must find it.
    private void DropEnded()
    {
        int kept = 0;
        for (int i = 0; i < _count; i++)
        {
            _entries[i].Fence.CheckSignaled();
            if (!_entries[i].Fence.HasEnded)
            {
                _entries[kept++] = _entries[i];
            }
        }

        if (kept < _count)
        {
            Array.Clear(_entries, kept, _count - kept);
            _count = kept;
            Generation++;
        }
    }

    private void CheckFence(Fence fence, ReservationUsage usage)
    {
        if (fence.IsContainer)
        {
            host.Checker.Report(
                ViolationKind.FenceContainer, name, $"{fence} is a container; add the fences that it is made of");
        }

        if (!fence.IsUserControlled || usage == ReservationUsage.Bookkeep)
        {
            return;
        }

        if (host.Checker.Options.PermitsUserFences)
        {
            host.Checker.Taint();
            return;
        }

        host.Checker.Report(
            ViolationKind.IndefiniteFence, name,
            $"{fence} is signalled by a program, perhaps never; as {usage} others would wait for it unasked");
    }

    private readonly record struct Entry(Fence Fence, ReservationUsage Usage);
}
