namespace Wayleave.Simulation;

/// <summary>What a test hands to the explorer: who acts, and what must hold after every step.</summary>
public sealed record Scenario(IReadOnlyList<Actor> Actors, Action Invariant, Func<ulong>? Fingerprint = null);
