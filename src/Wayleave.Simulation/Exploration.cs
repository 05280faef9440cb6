namespace Wayleave.Simulation;

/// <summary>What a search did, when it found nothing wrong.</summary>
/// <param name="Runs">Runs made, the cut ones included.</param>
/// <param name="Steps">Steps of all runs together.</param>
/// <param name="Pruned">Runs cut because they reached a known state.</param>
public readonly record struct Exploration(long Runs, long Steps, long Pruned);
