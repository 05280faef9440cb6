using Wayleave.Core.Checking;

namespace Wayleave.Core.Reservations;

/// <summary>What <see cref="Reservation.TryLock"/> came to.</summary>
public enum LockOutcomeKind
{
    /// <summary>The ticket holds the lock now.</summary>
    Acquired,

    /// <summary>The ticket held it before (-EALREADY); not counted twice.</summary>
    AlreadyHeld,

    /// <summary>-EDEADLK: release everything this ticket holds, then start again.</summary>
    Deadlock,

    /// <summary>The ticket is queued; <see cref="LockOutcome.Wait"/> completes later.</summary>
    Wait,
}

/// <summary>The result of asking for a reservation: what would block in the kernel is returned as a wait.</summary>
/// <param name="Kind">What it came to.</param>
/// <param name="Wait">Set for <see cref="LockOutcomeKind.Wait"/>.</param>
/// <param name="Cycle">
/// Set for a <see cref="LockOutcomeKind.Deadlock"/> that the checker found: nobody would ever have granted the lock.
/// Null when a younger ticket just gives way.
/// </param>
public readonly record struct LockOutcome(LockOutcomeKind Kind, LockWait? Wait = null, WaitCycle? Cycle = null);
