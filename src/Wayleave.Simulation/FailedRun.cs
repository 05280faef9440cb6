using System.Globalization;
using System.Text;

namespace Wayleave.Simulation;

/// <summary>What was wrong with a run.</summary>
public enum FailureKind
{
    /// <summary>The scenario could not be made: its builder threw.</summary>
    Builder,

    /// <summary>A step threw, or the condition of one, or the end of an actor.</summary>
    Actor,

    /// <summary>The invariant, or the fingerprint, threw after a step.</summary>
    Invariant,

    /// <summary>Everybody has finished, and the end check threw.</summary>
    End,

    /// <summary>Nobody is ready, and somebody has not finished.</summary>
    Deadlock,

    /// <summary>The run did not end within its steps.</summary>
    Endless,

    /// <summary>The trail that was to be replayed was made by another scenario.</summary>
    Trail,

    /// <summary>
    /// Two states of one fingerprint differ: the same step led from them to different ones. A search that relies on it
    /// may have missed orders.
    /// </summary>
    Fingerprint,
}

/// <summary>One step of a run that is told.</summary>
/// <param name="Actor">Who made it.</param>
/// <param name="Name">What it was to do.</param>
/// <param name="Note">What came of it, or null.</param>
public readonly record struct RunStep(string Actor, string Name, string? Note = null);

/// <summary>A run that went wrong, made as short as the explorer could.</summary>
public sealed class FailedRun
{
    internal FailedRun(FailureKind kind, string problem, IReadOnlyList<RunStep> steps, string trail, Exception? cause)
    {
        (Kind, Problem, Steps, Trail, Cause) = (kind, problem, steps, trail, cause);
    }

    public FailureKind Kind { get; }

    /// <summary>One line: what does not hold.</summary>
    public string Problem { get; }

    /// <summary>In order; the last is the one after which it did not hold.</summary>
    public IReadOnlyList<RunStep> Steps { get; }

    /// <summary>What <see cref="Explorer.Replay"/> takes to make this run again.</summary>
    public string Trail { get; }

    /// <summary>What was thrown; null where nothing was, as in a deadlock.</summary>
    public Exception? Cause { get; }

    /// <summary>The number of the run that failed first, from 1.</summary>
    public long Run { get; internal init; } = 1;

    /// <summary>
    /// False when the same trail led elsewhere: the scenario does not depend on its choices alone, and
    /// <see cref="Steps"/> are those of the run that failed.
    /// </summary>
    public bool IsReproducible { get; internal init; } = true;

    /// <summary>The problem, the steps in order, and how to make the run again.</summary>
    public override string ToString()
    {
        StringBuilder text = new();
        text.Append(Problem).Append('\n');
        for (int i = 0; i < Steps.Count; i++)
        {
            RunStep step = Steps[i];
            text.Append(CultureInfo.InvariantCulture, $"{i + 1,4}  {step.Actor}: {step.Name}");
            text.Append(step.Note is null ? "\n" : $" -> {step.Note}\n");
        }

        text.Append(IsReproducible ? "" : "it did not fail again: the scenario depends on more than its choices\n");
        text.Append(CultureInfo.InvariantCulture, $"replay with: Explorer.Replay(build, \"{Trail}\")\n");
        return text.ToString();
    }
}
