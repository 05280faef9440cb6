namespace Wayleave.Core.Retirement;

/// <summary>
/// Why memory is in quarantine: what the owner still has to hear. The first that applies, in this order.
/// </summary>
public enum QuarantineCause
{
    /// <summary>It is not: the proof is sufficient.</summary>
    None,

    /// <summary>Somebody kept the reservation, so that no importer has been told to stop.</summary>
    ReservationHeld,

    /// <summary>Somebody who cannot be made to stop still has a mapping: a pinned importer, or a process.</summary>
    UserCannotStop,

    /// <summary>Work that had started has not ended: its fence is pending.</summary>
    WorkPending,

    /// <summary>A fence was forced, and its owner has not said that the work has ended.</summary>
    FenceForced,

    /// <summary>An importer that was told to stop has not unmapped.</summary>
    StillMapped,

    /// <summary>Everything has ended, and yet somebody never showed that its gate is empty or its key dead.</summary>
    EvidenceMissing,
}
