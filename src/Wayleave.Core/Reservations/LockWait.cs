using Wayleave.Core.Checking;

namespace Wayleave.Core.Reservations;

/// <summary>
/// A place in the queue of a reservation. It completes once, with the lock held by its ticket or with a deadlock, and
/// calls back after the host lock was released. Host lock held by the caller, unless a member says otherwise.
/// </summary>
public sealed class LockWait
{
    private readonly HostContext _host;
    private Action? _callback;
    private Action? _observer;

    internal LockWait(HostContext host, Reservation reservation, AcquireTicket ticket) =>
        (_host, Reservation, Ticket) = (host, reservation, ticket);

    public AcquireTicket Ticket { get; }

    /// <summary>What is waited for; <see cref="Reservation.TryCancel"/> ends it.</summary>
    public Reservation Reservation { get; }

    /// <summary>Readable without the lock.</summary>
    public bool IsCompleted => Result != LockOutcomeKind.Wait;

    /// <summary>
    /// <see cref="LockOutcomeKind.Acquired"/> or <see cref="LockOutcomeKind.Deadlock"/> once completed.
    /// </summary>
    public LockOutcomeKind Result { get; private set; } = LockOutcomeKind.Wait;

    /// <summary>
    /// Runs <paramref name="callback"/> after completion; false when it has completed already and was not kept.
    /// </summary>
    public bool TryAddCallback(Action callback)
    {
        _host.AssertHeld();
        if (IsCompleted)
        {
            return false;
        }

        _callback += callback;
        return true;
    }

    internal void Observe(Action observer) => _observer += observer;

    internal void Complete(LockOutcomeKind result)
    {
        Result = result;
        if (_observer is { } observer)
        {
            using SignalingSection suspended = SignalingSection.Suspend(); // the waiter goes on, not who let it
            observer();
        }

        if (_callback is { } callback)
        {
            _host.Defer(callback);
        }
    }
}
