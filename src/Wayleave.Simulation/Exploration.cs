namespace Wayleave.Simulation;

/// <summary>What a search did.</summary>
/// <param name="Runs">Runs made, the cut ones included.</param>
/// <param name="Steps">Steps of all runs together.</param>
/// <param name="Pruned">Runs cut because they reached a known state.</param>
/// <param name="States">Different states that were kept to cut by; 0 when no run is cut.</param>
public readonly record struct Exploration(long Runs, long Steps, long Pruned, long States);

/// <summary>Why a search ended.</summary>
public enum ExplorationEnd
{
    /// <summary>There is no other order.</summary>
    EveryOrder,

    /// <summary>As many runs as it was allowed: there may be more orders.</summary>
    RunsMax,

    /// <summary>A run went wrong.</summary>
    Failed,

    /// <summary>It was told to stop.</summary>
    Canceled,
}

/// <summary>How a search ended, and what it did until then.</summary>
/// <param name="Counts">Without the runs that made a failing one shorter.</param>
/// <param name="End">Why it ended.</param>
/// <param name="Failure">The run that went wrong; null unless <paramref name="End"/> says so.</param>
public sealed record ExplorationReport(Exploration Counts, ExplorationEnd End, FailedRun? Failure);
