namespace Wayleave.Core.Retirement;

public enum RevokeState
{
    /// <summary>Maps are refused; somebody else, a mover perhaps, holds the reservation.</summary>
    Locking,

    /// <summary>Everybody was told; BOOKKEEP fences are pending: writes that had started may still land.</summary>
    Draining,

    /// <summary>Nobody writes; a mapping is left, so somebody may still read.</summary>
    Unmapping,

    /// <summary>The proof satisfies the owner's policy.</summary>
    Retired,

    /// <summary>
    /// The time-out passed before that. The memory is not given out; the proof names what is missing, and evidence that
    /// comes late still retires it.
    /// </summary>
    Quarantined,
}

public enum RevokeEvent
{
    /// <summary>The reservation is locked, every importer has been told, the lock is released again.</summary>
    Locked,

    /// <summary>Every fence is signalled, by its owner or by force.</summary>
    FencesSignaled,

    /// <summary>What is known amounts to the grade that the policy asks for.</summary>
    Proven,

    /// <summary>All mappings have ended and all fences are signalled, yet it does not amount to that grade.</summary>
    Unproven,

    /// <summary>The owner stops waiting.</summary>
    TimedOut,
}

//   Locking --Locked--> Draining --FencesSignaled--> Unmapping --Proven--> Retired
//      |                   |  |                          |                  ^    ^
//      |                   |  +---Proven, at the time-out+------------------+    | Proven
//      +-----TimedOut------+------TimedOut, Unproven-----+--> Quarantined -------+
//
// In Quarantined all of it goes on: the lock, the drain, the unmaps, the end of work whose fence was forced, and the
// death of a user.

/// <summary>The transitions of a <see cref="RevokeOperation"/>.</summary>
public static class RevokeTransitions
{
    /// <summary>The state after an event, or null when the event does not apply.</summary>
    public static RevokeState? Next(this RevokeState state, RevokeEvent ev) => (state, ev) switch
    {
        (RevokeState.Locking, RevokeEvent.Locked) => RevokeState.Draining,
        (RevokeState.Draining, RevokeEvent.FencesSignaled) => RevokeState.Unmapping,
        (RevokeState.Draining or RevokeState.Unmapping or RevokeState.Quarantined, RevokeEvent.Proven) =>
            RevokeState.Retired,
        (RevokeState.Unmapping, RevokeEvent.Unproven) => RevokeState.Quarantined,
        (RevokeState.Locking or RevokeState.Draining or RevokeState.Unmapping, RevokeEvent.TimedOut) =>
            RevokeState.Quarantined,
        _ => null,
    };
}
