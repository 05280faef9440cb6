namespace Wayleave.Simulation;

/// <summary>
/// Defences of a <see cref="SimulatedImporter"/> that a scenario takes away, to see that their absence is noticed.
/// </summary>
public sealed record ImporterFaults
{
    /// <summary>Off leaves the old translation usable after an invalidation.</summary>
    public bool ClosesGate { get; init; } = true;

    /// <summary>Off says that it has drained while somebody is inside.</summary>
    public bool WaitsForDrain { get; init; } = true;

    /// <summary>Off uses a new place before the owner's copy has filled it.</summary>
    public bool WaitsForKernel { get; init; } = true;

    /// <summary>Off does nothing when it is told to stop, and says that it has.</summary>
    public bool ListensToInvalidation { get; init; } = true;

    /// <summary>Off never says that the last user has left.</summary>
    public bool ReportsDrain { get; init; } = true;

    /// <summary>
    /// Off takes the reservation to unmap before it says that the last user has left: whoever waits for that may hold
    /// it (linux.md 3.8).
    /// </summary>
    public bool UnmapsWithoutLock { get; init; } = true;
}
