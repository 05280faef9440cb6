namespace Wayleave.Simulation;

/// <summary>
/// Defences of a <see cref="SimulatedMirror"/> that a scenario takes away, to see that their absence is noticed.
/// </summary>
public sealed record MirrorFaults
{
    /// <summary>Off leaves the sequence as it was when a range goes away.</summary>
    public bool SetsSequence { get; init; } = true;

    /// <summary>Off programs what it saw without asking whether it still holds.</summary>
    public bool AsksForRetry { get; init; } = true;

    /// <summary>Off keeps device entries of a range that goes away.</summary>
    public bool Zaps { get; init; } = true;

    /// <summary>Off says that it has stopped while an access is under way.</summary>
    public bool Drains { get; init; } = true;

    /// <summary>Off says that pages were copied while its engine has yet to begin.</summary>
    public bool WaitsForCopy { get; init; } = true;
}
