namespace Wayleave.Core.Reservations;

/// <summary>
/// Who must wait for a fence of a buffer (<c>enum dma_resv_usage</c>, same numbers). Asking for one class returns every
/// fence whose class is the same or smaller.
/// </summary>
public enum ReservationUsage
{
    /// <summary>Moves and clears by memory management. Everybody waits, always, before touching the memory.</summary>
    Kernel = 0,

    /// <summary>Implicitly synchronised writers: implicit readers and writers wait.</summary>
    Write = 1,

    /// <summary>Implicitly synchronised readers: implicit writers wait.</summary>
    Read = 2,

    /// <summary>Everything else that still uses the memory: only move, free and revoke wait.</summary>
    Bookkeep = 3,
}

public static class ReservationUsages
{
    /// <summary>
    /// What an implicitly synchronised access waits for (<c>dma_resv_usage_rw</c>). It looks swapped and is not: a
    /// write waits for readers too, so it asks for READ; a read waits for writers.
    /// </summary>
    public static ReservationUsage ForAccess(bool isWrite) => isWrite ? ReservationUsage.Read : ReservationUsage.Write;
}
