using System.Globalization;

namespace Wayleave.Simulation;

/// <summary>
/// Runs a scenario under every order of its steps, under drawn orders, or under one recorded order. After each step it
/// checks the invariant; nobody ready and somebody unfinished is a deadlock.
/// </summary>
/// <remarks>
/// The same scenario and the same trail make the same run. A builder keeps nothing between its calls and takes what it
/// needs of chance from the <see cref="Choices"/> it is given.
/// </remarks>
public static class Explorer
{
    /// <summary>Steps after which a run counts as one that never ends.</summary>
    public const int DefaultStepLimit = 100_000;

    private const int FirstGuessOfSteps = 64;

    /// <summary>Explores, up to the first run that goes wrong, and says what was found.</summary>
    /// <param name="build">Makes the scenario of one run.</param>
    /// <param name="options">Null: every order.</param>
    /// <exception cref="ArgumentException">An option is out of its range.</exception>
    public static ExplorationReport Explore(Func<Choices, Scenario> build, ExplorationOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(build);
        options ??= new ExplorationOptions();
        options.Validate();
        bool isExhaustive = options.Orders == OrderSource.Exhaustive;
        RunDriver driver = new(build, options.StepsMax, options.Cancellation)
        {
            Seen = isExhaustive && options.CutsKnownStates && !options.AuditsFingerprint ? [] : null,
            Audit = options.AuditsFingerprint ? [] : null,
        };
        Choices choices = Choices.Exhaustive();
        Exploration counts = default;
        int longest = 0;
        for (long run = 0; run < options.RunsMax; run++)
        {
            if (!isExhaustive)
            {
                ulong seed = options.Seed + (ulong)run;
                choices = options.Orders == OrderSource.Random
                    ? Choices.Seeded(seed)
                    : Choices.Prioritized(seed, options.Depth, longest == 0 ? FirstGuessOfSteps : longest);
            }

            RunEnd end = driver.Run(choices);
            if (end == RunEnd.Canceled)
            {
                return new ExplorationReport(counts, ExplorationEnd.Canceled, Failure: null);
            }

            longest = Math.Max(longest, driver.Steps.Count);
            counts = new Exploration(
                counts.Runs + 1,
                counts.Steps + driver.Steps.Count,
                counts.Pruned + (end == RunEnd.Cut ? 1 : 0),
                driver.Seen?.Count ?? 0);
            options.Progress?.Invoke(counts);
            if (end == RunEnd.Failed)
            {
                FailedRun failure = Report(driver, choices, build, options, counts.Runs);
                return new ExplorationReport(counts, ExplorationEnd.Failed, failure);
            }

            if (isExhaustive && !choices.MoveNext())
            {
                return new ExplorationReport(counts, ExplorationEnd.EveryOrder, Failure: null);
            }
        }

        return new ExplorationReport(counts, ExplorationEnd.RunsMax, Failure: null);
    }

    /// <summary>Every order. Throws at the first run that goes wrong.</summary>
    /// <param name="build">Makes the scenario of one run.</param>
    /// <param name="runLimit">
    /// A search of more runs is given up: make the scenario smaller, or explore it with seeds.
    /// </param>
    /// <param name="stepLimit">A run of more steps is reported as one that never ends.</param>
    /// <exception cref="InterleavingException">A run went wrong, or a limit was reached.</exception>
    public static Exploration Exhaustive(
        Func<Choices, Scenario> build, long runLimit = 5_000_000, int stepLimit = DefaultStepLimit)
    {
        ExplorationReport report =
            Explore(build, new ExplorationOptions { RunsMax = runLimit, StepsMax = stepLimit });
        return report.End == ExplorationEnd.RunsMax
            ? throw new InterleavingException(string.Create(
                CultureInfo.InvariantCulture,
                $"more than {runLimit} runs: make the scenario smaller or explore it with seeds"))
            : CountsOf(report);
    }

    /// <summary>
    /// Random orders, run number n by the seed <paramref name="seed"/> + n. Throws at the first run that goes wrong.
    /// </summary>
    /// <exception cref="InterleavingException">A run went wrong.</exception>
    public static Exploration Seeded(
        Func<Choices, Scenario> build, ulong seed, int runs, int stepLimit = DefaultStepLimit) =>
        CountsOf(Explore(build, new ExplorationOptions
        {
            Orders = OrderSource.Random,
            Seed = seed,
            RunsMax = runs,
            StepsMax = stepLimit,
        }));

    /// <summary>One earlier run again.</summary>
    /// <exception cref="InterleavingException">It went wrong, as it did before.</exception>
    /// <exception cref="FormatException">The text is no trail.</exception>
    public static void Replay(Func<Choices, Scenario> build, string trail, int stepLimit = DefaultStepLimit)
    {
        if (TryReplay(build, trail, out _, stepLimit) is { } failure)
        {
            throw new InterleavingException(failure);
        }
    }

    /// <summary>One earlier run again, told step by step.</summary>
    /// <param name="build">Makes the scenario.</param>
    /// <param name="trail">Of that run.</param>
    /// <param name="steps">What happened, with what each step came to.</param>
    /// <param name="stepLimit">A run of more steps is reported as one that never ends.</param>
    /// <returns>What went wrong, or null when nothing did.</returns>
    /// <exception cref="FormatException">The text is no trail.</exception>
    public static FailedRun? TryReplay(
        Func<Choices, Scenario> build, string trail, out IReadOnlyList<RunStep> steps, int stepLimit = DefaultStepLimit)
    {
        ArgumentNullException.ThrowIfNull(build);
        Choices choices = Choices.Replay(trail);
        RunDriver driver = new(build, stepLimit) { Tells = true };
        RunEnd end = driver.Run(choices);
        steps = [.. driver.Steps];
        return end == RunEnd.Failed ? Describe(driver, choices) : null;
    }

    private static Exploration CountsOf(ExplorationReport report) =>
        report.Failure is { } failure ? throw new InterleavingException(failure) : report.Counts;

    // Shorter if possible, then once more and told. An audit compares runs with each other, so one alone says nothing.
    private static FailedRun Report(
        RunDriver driver, Choices choices, Func<Choices, Scenario> build, ExplorationOptions options, long run)
    {
        FailedRun found = Describe(driver, choices, run);
        if (driver.Kind is FailureKind.Fingerprint or FailureKind.Builder)
        {
            return found;
        }

        string signature = driver.Signature;
        ScriptStep[] script = driver.ToScript(choices);
        if (options.ShrinkRunsMax > 0 && driver.Kind is not (FailureKind.Endless or FailureKind.Trail))
        {
            RunDriver plain = new(build, options.StepsMax);
            script = new Shrinker(plain, options.ShrinkRunsMax, signature).Shrink(script);
        }

        RunDriver told = new(build, options.StepsMax) { Tells = true };
        Choices again = Choices.Follow(new Script(script));
        return told.Run(again) == RunEnd.Failed && told.Signature == signature
            ? Describe(told, again, run)
            : Describe(driver, choices, run, isReproducible: false);
    }

    private static FailedRun Describe(
        RunDriver driver, Choices choices, long run = 1, bool isReproducible = true) =>
        new(driver.Kind, driver.Problem, [.. driver.Steps], choices.Trail, driver.Cause)
        {
            Run = run,
            IsReproducible = isReproducible,
        };
}
