using System.Globalization;
using System.Text;

namespace Wayleave.Simulation;

/// <summary>
/// Runs a scenario under every order of its steps, under seeded random orders, or under one recorded order. After each
/// step it checks the invariant; nobody ready and somebody unfinished is a deadlock.
/// </summary>
/// <remarks>
/// The same scenario and the same trail make the same run. A builder keeps nothing between its calls and takes what it
/// needs of chance from the <see cref="Choices"/> it is given.
/// </remarks>
public static class Explorer
{
    /// <summary>Steps after which a run counts as one that never ends.</summary>
    public const int DefaultStepLimit = 100_000;

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
        ArgumentNullException.ThrowIfNull(build);
        Choices choices = Choices.Exhaustive();
        HashSet<ulong> seen = [];
        long runs = 0, steps = 0, pruned = 0;
        do
        {
            if (runs++ == runLimit)
            {
                throw new InterleavingException(string.Create(
                    CultureInfo.InvariantCulture,
                    $"more than {runLimit} runs: make the scenario smaller or explore it with seeds"));
            }

            (long ran, bool cut) = Run(choices, build(choices), seen, stepLimit);
            steps += ran;
            pruned += cut ? 1 : 0;
        }
        while (choices.MoveNext());
        return new Exploration(runs, steps, pruned);
    }

    /// <summary>
    /// Random orders, run number n by the seed <paramref name="seed"/> + n. Throws at the first run that goes wrong.
    /// </summary>
    /// <exception cref="InterleavingException">A run went wrong; its trail names the seed of that one run.</exception>
    public static Exploration Seeded(
        Func<Choices, Scenario> build, ulong seed, int runs, int stepLimit = DefaultStepLimit)
    {
        ArgumentNullException.ThrowIfNull(build);
        long steps = 0;
        for (int run = 0; run < runs; run++)
        {
            Choices choices = Choices.Seeded(seed + (ulong)run);
            steps += Run(choices, build(choices), seen: null, stepLimit).Steps;
        }

        return new Exploration(runs, steps, Pruned: 0);
    }

    /// <summary>One earlier run again.</summary>
    /// <exception cref="InterleavingException">It went wrong, as it did before.</exception>
    public static void Replay(Func<Choices, Scenario> build, string trail, int stepLimit = DefaultStepLimit)
    {
        ArgumentNullException.ThrowIfNull(build);
        Choices choices = Choices.Replay(trail);
        Run(choices, build(choices), seen: null, stepLimit);
    }

    private static (long Steps, bool Cut) Run(Choices choices, Scenario scenario, HashSet<ulong>? seen, int stepLimit)
    {
        List<string> log = [];
        try
        {
            return Run(choices, scenario, seen, stepLimit, log);
        }
        catch (Exception e) when (e is not InterleavingException)
        {
            string trail = choices.ToString();
            throw new InterleavingException(Describe(e, trail, log), trail, e);
        }
        finally
        {
            foreach (Actor actor in scenario.Actors)
            {
                actor.Dispose();
            }
        }
    }

    private static (long Steps, bool Cut) Run(
        Choices choices, Scenario scenario, HashSet<ulong>? seen, int stepLimit, List<string> log)
    {
        List<Actor> ready = new(scenario.Actors.Count);
        for (int step = 0; step < stepLimit; step++)
        {
            ready.Clear();
            ready.AddRange(scenario.Actors.Where(a => a.IsReady));
            if (ready.Count == 0)
            {
                AssertFinished(scenario);
                scenario.AtEnd?.Invoke();
                return (step, false);
            }

            Actor actor = ready[choices.Next(ready.Count)];
            log.Add($"{actor.Name}: {actor.Next}");
            actor.Advance();
            scenario.Invariant();

            // A state within the repeated prefix is known by definition: an earlier run passed it on its way elsewhere.
            if (seen is not null && scenario.Fingerprint is not null && !choices.IsReplayingPrefix
                && !seen.Add(Key(scenario)))
            {
                return (step + 1, true);
            }
        }

        throw new InvalidOperationException(string.Create(
            CultureInfo.InvariantCulture,
            $"no end after {stepLimit} steps: a livelock, or a step limit that is too low"));
    }

    private static void AssertFinished(Scenario scenario)
    {
        Actor[] waiting = [.. scenario.Actors.Where(a => !a.IsFinished)];
        if (waiting.Length > 0)
        {
            throw new InvalidOperationException(
                "deadlock: " + string.Join(", ", waiting.Select(a => $"{a.Name} waits at '{a.Next}'")));
        }
    }

    // Where an actor stands is part of the state: how many steps it made, and at which point it stopped (code with
    // branches makes as many steps on either side). FNV-1a, because string.GetHashCode differs from process to process.
    private static ulong Key(Scenario scenario)
    {
        const ulong Prime = 0x100000001B3;
        ulong key = scenario.Fingerprint!();
        foreach (Actor actor in scenario.Actors)
        {
            key = (key ^ (ulong)actor.Position) * Prime;
            foreach (char c in actor.Next)
            {
                key = (key ^ c) * Prime;
            }
        }

        return key;
    }

    private static string Describe(Exception e, string trail, List<string> log)
    {
        StringBuilder text = new();
        text.Append(e.Message).Append('\n');
        for (int i = 0; i < log.Count; i++)
        {
            text.Append(CultureInfo.InvariantCulture, $"{i + 1,4}  {log[i]}\n");
        }

        text.Append(CultureInfo.InvariantCulture, $"replay with: Explorer.Replay(build, \"{trail}\")\n");
        return text.ToString();
    }
}
