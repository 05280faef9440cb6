namespace Wayleave.Simulation;

/// <summary>
/// What a test hands to the explorer: who acts, and what must hold. A scenario is made anew for each run.
/// </summary>
/// <param name="Actors">
/// In the order in which a trail numbers them. The explorer disposes them at the end of the run.
/// </param>
/// <param name="Invariant">Called after each step, between steps; throws when it does not hold.</param>
/// <param name="Fingerprint">
/// A number that differs whenever anything differs that a later step or the invariant can see, the places of the actors
/// apart: those are added. Given one, an exhaustive search cuts a run that reaches a state some run has already left
/// from. Equal numbers for different states hide orders, so leave it out when in doubt.
/// </param>
/// <param name="AtEnd">Called once after the last actor has finished; throws when the outcome is wrong.</param>
public sealed record Scenario(
    IReadOnlyList<Actor> Actors,
    Action Invariant,
    Func<ulong>? Fingerprint = null,
    Action? AtEnd = null);
