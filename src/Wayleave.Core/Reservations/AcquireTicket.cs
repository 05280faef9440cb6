using Wayleave.Core.Checking;

namespace Wayleave.Core.Reservations;

// new, or Renew --> lock ... --> Done --> unlock all --> Finish
//                    |    ^
//       -EDEADLK: unlock all, lock the contended one slowly
//
// Done and Finish are promises that the checker looks at; an operation that locks one reservation needs neither.

/// <summary>
/// Who locks reservations (<c>ww_acquire_ctx</c>). Its stamp is drawn once and kept over every back-off: the older
/// ticket wins under Wait-Die, so it gets on in the end. A ticket belongs to an operation, not to a thread, and may be
/// held across waits. Host lock held by the caller.
/// </summary>
public sealed class AcquireTicket : Waiter
{
    private bool _isDone;
    private ulong _injectInterval = 1;
    private ulong _injectCountdown;

    /// <param name="host">The host of the reservations.</param>
    /// <param name="owner">Who locks, for messages: <c>revoke of kv-cache</c>.</param>
    /// <param name="activity">
    /// The course of events that this ticket is a part of: what it locks is compared with what else that holds.
    /// </param>
    public AcquireTicket(HostContext host, string owner, Activity? activity = null)
        : this(host, owner, activity, isPlain: false)
    {
    }

    private AcquireTicket(HostContext host, string owner, Activity? activity, bool isPlain)
        : base(host)
    {
        (Owner, Activity, IsPlain) = (owner, activity, isPlain);
        DrawStamp();
    }

    /// <summary>Age: the smaller, the older.</summary>
    public ulong Stamp { get; private set; }

    /// <summary>Who locks, for messages: <c>revoke of kv-cache</c>.</summary>
    public string Owner { get; }

    public Activity? Activity { get; }

    /// <summary>
    /// Locks as a plain mutex does (a NULL context): in the order of the calls, and nobody dies. For one reservation at
    /// a time; who holds one and asks for a second is on its own, but for the checker.
    /// </summary>
    public bool IsPlain { get; }

    /// <summary>How many reservations this ticket holds.</summary>
    public int HeldCount { get; internal set; }

    /// <summary>
    /// The reservation that this ticket was refused with -EDEADLK: the one to lock first, slowly, once all others are
    /// released. Null otherwise.
    /// </summary>
    public Reservation? Contended { get; internal set; }

    public override string Label => IsPlain ? $"{Owner} (no ticket)" : $"{Owner} (ticket {Stamp})";

    /// <summary>Who the checker says is waiting: the activity that this is a part of, if there is one.</summary>
    internal Waiter Party => (Waiter?)Activity ?? this;

    /// <summary>A ticket without an order: see <see cref="IsPlain"/>.</summary>
    public static AcquireTicket CreatePlain(HostContext host, string owner, Activity? activity = null) =>
        new(host, owner, activity, isPlain: true);

    /// <summary>
    /// Everything is locked; a lock after this is a violation (<c>ww_acquire_done</c>).
    /// </summary>
    public void Done()
    {
        Host.AssertHeld();
        _isDone = true;
    }

    /// <summary>
    /// The operation is over (<c>ww_acquire_fini</c>); a reservation that is still held is a violation.
    /// </summary>
    public void Finish()
    {
        Host.AssertHeld();
        if (HeldCount > 0)
        {
            Host.Checker.Report(ViolationKind.Ticket, Label, $"ends while it holds {HeldCount} reservations");
        }
    }

    /// <summary>
    /// Starts another operation with a stamp of its own, in the same object (<c>ww_acquire_init</c>): so an owner of
    /// many operations need not make a ticket for each.
    /// </summary>
    /// <exception cref="InvalidOperationException">The last operation still holds a reservation or waits.</exception>
    public void Renew()
    {
        Host.AssertHeld();
        if (HeldCount > 0 || IsWaiting)
        {
            throw new InvalidOperationException($"{this} still holds {HeldCount} reservations, or waits for one");
        }

        (_isDone, Contended) = (false, null);
        DrawStamp();
    }

    public override void ListWaits(WaitEdges edges)
    {
        base.ListWaits(edges);
        if (Activity is { } activity)
        {
            edges.Add("belongs to", activity);
        }
    }

    /// <summary>What must be so before a lock is asked for.</summary>
    internal void CheckBeforeLock(Reservation reservation)
    {
        if (_isDone)
        {
            Host.Checker.Report(
                ViolationKind.Ticket, Label, $"locks {reservation.Label} after it said that it had locked all");
        }

        if (Contended is not null)
        {
            if (HeldCount > 0)
            {
                Host.Checker.Report(
                    ViolationKind.Ticket, Label,
                    $"locks {reservation.Label} after -EDEADLK while it holds {HeldCount}; release all of them first");
            }

            Contended = null;
        }

        Activity?.Touch(LockClass.Reservation, reservation.Label);
        Host.Checker.MightLock(LockClass.Reservation, reservation.Label);
    }

    /// <summary>Whether this lock, just granted, is to be given back as if somebody older had wanted it.</summary>
    internal bool TakesInjectedDeadlock()
    {
        // kernel/locking/ww_mutex.h, ww_mutex_deadlock_injection: intervals grow by a factor of 3.5.
        if (!Host.Checker.Options.InjectsLockDeadlocks || IsPlain || HeldCount < 2 || _injectCountdown-- != 0)
        {
            return false;
        }

        _injectInterval = _injectInterval > uint.MaxValue / 4 ? uint.MaxValue : _injectInterval * 7 / 2;
        _injectCountdown = _injectInterval;
        return true;
    }

    private void DrawStamp()
    {
        Stamp = Host.AllocateId();
        _injectInterval = 1;
        _injectCountdown = Stamp & 0xf;
    }
}
