using System.Globalization;
using System.Text;

namespace Wayleave.Simulation;

public sealed class InterleavingException : Exception
{
    public InterleavingException() { }

    public InterleavingException(string message) : base(message) { }

    public InterleavingException(string message, Exception inner) : base(message, inner) { }
}

public readonly record struct Exploration(long Runs, long Steps, long Pruned);

/// <summary>Runs a scenario under every order of its steps, under seeded random orders, or under one recorded order.</summary>
public static class Explorer
{
    public static Exploration Exhaustive(Func<Choices, Scenario> build, long runLimit = 5_000_000)
    {
        ArgumentNullException.ThrowIfNull(build);
        Choices choices = Choices.Exhaustive();
        HashSet<ulong> seen = [];
        long runs = 0, steps = 0, pruned = 0;
        do
        {
            if (runs++ == runLimit)
            {
                throw new InterleavingException(string.Create(CultureInfo.InvariantCulture, $"more than {runLimit} runs: make the scenario smaller or explore it with seeds"));
            }

            (long ran, bool cut) = Run(choices, build(choices), seen);
            steps += ran;
            pruned += cut ? 1 : 0;
        }
        while (choices.MoveNext());
        return new Exploration(runs, steps, pruned);
    }

    public static Exploration Seeded(Func<Choices, Scenario> build, ulong seed, int runs)
    {
        ArgumentNullException.ThrowIfNull(build);
        long steps = 0;
        for (int run = 0; run < runs; run++)
        {
            Choices choices = Choices.Seeded(seed + (ulong)run);
            steps += Run(choices, build(choices), seen: null).Steps;
        }

        return new Exploration(runs, steps, 0);
    }

    public static void Replay(Func<Choices, Scenario> build, string trail)
    {
        ArgumentNullException.ThrowIfNull(build);
        Choices choices = Choices.Replay(trail);
        Run(choices, build(choices), seen: null);
    }

    private static (long Steps, bool Cut) Run(Choices choices, Scenario scenario, HashSet<ulong>? seen)
    {
        List<string> log = [];
        try
        {
            for (long step = 0; ; step++)
            {
                Actor[] ready = [.. scenario.Actors.Where(a => a.IsReady)];
                if (ready.Length == 0)
                {
                    return scenario.Actors.All(a => a.IsFinished)
                        ? (step, false)
                        : throw new InvalidOperationException("deadlock: " + string.Join(", ", scenario.Actors.Where(a => !a.IsFinished).Select(a => $"{a.Name} waits at '{a.Next}'")));
                }

                bool known = choices.IsReplayingPrefix;
                Actor actor = ready[choices.Next(ready.Length)];
                log.Add($"{actor.Name}: {actor.Next}");
                actor.Advance();
                scenario.Invariant();

                if (!known && seen is not null && scenario.Fingerprint is not null && !seen.Add(Key(scenario)))
                {
                    return (step + 1, true);
                }
            }
        }
        catch (Exception e) when (e is not InterleavingException)
        {
            throw new InterleavingException(Describe(e, choices, log), e);
        }
    }

    private static ulong Key(Scenario scenario)
    {
        ulong key = scenario.Fingerprint!();
        foreach (Actor actor in scenario.Actors)
        {
            key = (key ^ (ulong)actor.Position) * 0x100000001B3;
        }

        return key;
    }

    private static string Describe(Exception e, Choices choices, List<string> log)
    {
        StringBuilder text = new();
        text.AppendLine(e.Message);
        for (int i = 0; i < log.Count; i++)
        {
            text.AppendLine(CultureInfo.InvariantCulture, $"{i + 1,4}  {log[i]}");
        }

        text.AppendLine(CultureInfo.InvariantCulture, $"replay with: Explorer.Replay(build, \"{choices}\")");
        return text.ToString();
    }
}
