namespace Wayleave.Simulation;

/// <summary>Where the orders of a search come from.</summary>
public enum OrderSource
{
    /// <summary>Every order, each once.</summary>
    Exhaustive,

    /// <summary>Each step drawn among the actors that are ready.</summary>
    Random,

    /// <summary>
    /// Probabilistic concurrency testing (<see cref="Choices.Prioritized"/>): few switches at drawn places, which finds
    /// faults of a small depth in long runs that random orders hardly meet.
    /// </summary>
    Priorities,
}

/// <summary>How a scenario is explored. Immutable.</summary>
public sealed record ExplorationOptions
{
    public OrderSource Orders { get; init; } = OrderSource.Exhaustive;

    /// <summary>
    /// A search ends after so many runs, whether or not there are more. At least 1. An exhaustive search that is to be
    /// one has to be allowed enough of them: see <see cref="ExplorationReport.End"/>.
    /// </summary>
    public long RunsMax { get; init; } = 5_000_000;

    /// <summary>Of drawn orders; run number n, from 0, takes the seed plus n.</summary>
    public ulong Seed { get; init; } = 1;

    /// <summary>
    /// Orderings that a fault may need to be found by <see cref="OrderSource.Priorities"/>. At least 1.
    /// </summary>
    public int Depth { get; init; } = 3;

    /// <summary>A run of more steps is reported as one that never ends. At least 1.</summary>
    public int StepsMax { get; init; } = Explorer.DefaultStepLimit;

    /// <summary>
    /// Whether an exhaustive search cuts a run at a state that it has seen, where the scenario has a fingerprint. Off
    /// makes every order to its end.
    /// </summary>
    public bool CutsKnownStates { get; init; } = true;

    /// <summary>
    /// Cuts nothing and compares instead: a step that leads from two states of one fingerprint to different ones is a
    /// <see cref="FailureKind.Fingerprint"/>. It proves no fingerprint right, and names what it leaves out sooner or
    /// later. Keeps two words for each step of the search.
    /// </summary>
    public bool AuditsFingerprint { get; init; }

    /// <summary>
    /// Runs spent on making a failing run shorter, 0 for none. They stop early when they become too long altogether.
    /// </summary>
    public int ShrinkRunsMax { get; init; } = 1000;

    /// <summary>
    /// Ends the search after the present step; what was explored until then is in the report. Seen between steps: a
    /// step that never returns is not interrupted.
    /// </summary>
    public CancellationToken Cancellation { get; init; }

    /// <summary>Called after each run with what was done so far.</summary>
    public Action<Exploration>? Progress { get; init; }

    /// <summary>Throws one exception that names every option out of its range.</summary>
    /// <exception cref="ArgumentException">At least one is.</exception>
    public void Validate()
    {
        List<string> problems = [];
        AtLeast(RunsMax, 1, nameof(RunsMax));
        AtLeast(Depth, 1, nameof(Depth));
        AtLeast(StepsMax, 1, nameof(StepsMax));
        AtLeast(ShrinkRunsMax, 0, nameof(ShrinkRunsMax));
        if (!Enum.IsDefined(Orders))
        {
            problems.Add($"{nameof(Orders)} is {Orders}");
        }

        if (problems.Count > 0)
        {
            throw new ArgumentException("the exploration's options are wrong: " + string.Join("; ", problems));
        }

        void AtLeast(long value, long least, string name)
        {
            if (value < least)
            {
                problems.Add($"{name} is {value}, below {least}");
            }
        }
    }
}
