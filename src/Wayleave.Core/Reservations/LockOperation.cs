using Wayleave.Core.Checking;

namespace Wayleave.Core.Reservations;

// lock one after the other; -EDEADLK: unlock all, lock the contended one slowly, go on with the rest; all locked: done
//
// Goes on by itself, inside the grant that it waited for, with the host lock held.

/// <summary>
/// Locks any number of reservations under one ticket, with automatic back-off (<c>drm_exec</c>). Host lock held by the
/// caller, unless a member says otherwise.
/// </summary>
public sealed class LockOperation
{
    private readonly HostContext _host;
    private readonly Reservation[] _wanted;
    private readonly HashSet<Reservation> _held = [];
    private readonly int _fenceSlots;
    private Reservation? _contended;
    private LockWait? _wait;
    private Action? _completed;
    private volatile bool _isCompleted;

    private LockOperation(HostContext host, AcquireTicket ticket, Reservation[] wanted, int fenceSlots) =>
        (_host, Ticket, _wanted, _fenceSlots) = (host, ticket, wanted, fenceSlots);

    public AcquireTicket Ticket { get; }

    /// <summary>
    /// Everything is locked, or nothing is and <see cref="Errno"/> says why. Readable without the lock.
    /// </summary>
    public bool IsCompleted => _isCompleted;

    /// <summary>
    /// 0 when all are locked; <see cref="Errno.EINTR"/> after <see cref="Cancel"/>; <see cref="Errno.EDEADLK"/> when
    /// the checker found that a lock would never be granted (<see cref="Cycle"/>), although nothing was held.
    /// </summary>
    public Errno Errno { get; private set; }

    /// <summary>The circle of that failure.</summary>
    public WaitCycle? Cycle { get; private set; }

    /// <summary>How many times all was unlocked because somebody older wanted one of them.</summary>
    public int BackOffCount { get; private set; }

    /// <summary>Starts to lock; it may be done on return.</summary>
    /// <param name="host">Of all reservations.</param>
    /// <param name="ticket">Holds none of them yet. Its <see cref="AcquireTicket.Done"/> is called at the end.</param>
    /// <param name="reservations">In any order; one that is named twice is locked once.</param>
    /// <param name="fenceSlots">How many fence slots are reserved on each, or none.</param>
    public static LockOperation Start(
        HostContext host, AcquireTicket ticket, IReadOnlyCollection<Reservation> reservations, int fenceSlots = 0)
    {
        host.AssertHeld();
        LockOperation operation = new(host, ticket, [.. reservations], fenceSlots);
        operation.Advance();
        return operation;
    }

    /// <summary>
    /// Runs <paramref name="callback"/> once at the end, after the host lock was released; false when it has ended and
    /// the callback was not kept.
    /// </summary>
    public bool TryAddCompletion(Action callback)
    {
        _host.AssertHeld();
        if (_isCompleted)
        {
            return false;
        }

        _completed += callback;
        return true;
    }

    /// <summary>Gives up while it waits (-EINTR): nothing is held afterwards. Nothing when it has ended.</summary>
    public void Cancel()
    {
        _host.AssertHeld();
        if (_isCompleted)
        {
            return;
        }

        _wait?.Reservation.TryCancel(_wait);
        ReleaseAll();
        Complete(Errno.EINTR);
    }

    /// <summary>Unlocks all that it locked, and ends the ticket.</summary>
    public void UnlockAll()
    {
        _host.AssertHeld();
        ReleaseAll();
        Ticket.Finish();
    }

    private void Advance()
    {
        while (Next() is { } next)
        {
            LockOutcome outcome = ReferenceEquals(next, _contended) ? next.TryLockSlow(Ticket) : next.TryLock(Ticket);
            _contended = null;
            switch (outcome.Kind)
            {
                case LockOutcomeKind.Wait:
                    _wait = outcome.Wait!;
                    _wait.Observe(HandleLockWait);
                    return;
                case LockOutcomeKind.Deadlock when outcome.Cycle is not null && _held.Count == 0:
                    Cycle = outcome.Cycle;
                    Complete(Errno.EDEADLK);
                    return;
                case LockOutcomeKind.Deadlock:
                    BackOff(next);
                    break;
                default:
                    Keep(next);
                    break;
            }
        }

        Ticket.Done();
        Complete(Errno.Success);
    }

    private Reservation? Next() => _contended ?? Array.Find(_wanted, r => !_held.Contains(r));

    private void HandleLockWait()
    {
        (LockWait wait, _wait) = (_wait!, null);
        if (wait.Result == LockOutcomeKind.Acquired)
        {
            Keep(wait.Reservation);
        }
        else
        {
            BackOff(wait.Reservation);
        }

        Advance();
    }

    private void Keep(Reservation reservation)
    {
        _held.Add(reservation);
        if (_fenceSlots > 0)
        {
            reservation.ReserveFences(Ticket, _fenceSlots);
        }
    }

    private void BackOff(Reservation contended)
    {
        BackOffCount++;
        ReleaseAll();
        _contended = contended;
    }

    private void ReleaseAll()
    {
        foreach (Reservation reservation in _wanted)
        {
            if (_held.Remove(reservation))
            {
                reservation.Unlock(Ticket);
            }
        }
    }

    private void Complete(Errno errno)
    {
        Errno = errno;
        _isCompleted = true;
        if (_completed is { } callback)
        {
            _host.Defer(callback);
        }
    }
}
