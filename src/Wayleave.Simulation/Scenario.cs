namespace Wayleave.Simulation;

/// <summary>
/// What a test hands to the explorer: who acts, and what must hold. A scenario is made anew for each run.
/// </summary>
/// <param name="Actors">
/// In the order in which a trail numbers them. The explorer disposes them at the end of the run.
/// </param>
/// <param name="Invariant">Called after each step, between steps; throws when it does not hold.</param>
/// <param name="Fingerprint">
/// A number that differs whenever anything differs that a later step, a condition, the invariant or the end check can
/// see; where the actors stand and which of them are ready is added to it. Given one, an exhaustive search cuts a run
/// that reaches a state some run has already left from. Equal numbers for different states hide orders, so leave it out
/// when in doubt, and let <see cref="ExplorationOptions.AuditsFingerprint"/> look for what it leaves out.
/// </param>
/// <param name="AtEnd">
/// Called once after the last actor has finished; throws when the outcome is wrong. What must happen some time, and did
/// not, is found here.
/// </param>
/// <param name="Narrate">
/// What the last step did, for the story of a failing run, or null when the name of the step says it all. Called once
/// after each step, and only when a run is told.
/// </param>
public sealed record Scenario(
    IReadOnlyList<Actor> Actors,
    Action Invariant,
    Func<ulong>? Fingerprint = null,
    Action? AtEnd = null,
    Func<string?>? Narrate = null);
