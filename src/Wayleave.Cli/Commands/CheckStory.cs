using System.Globalization;
using Wayleave.Simulation;

namespace Wayleave.Cli.Commands;

/// <summary>An order, told in two columns: who, and what happened.</summary>
internal static class CheckStory
{
    private const string Actor = "actor";

    /// <summary>What went wrong, the steps that led there, and how to play them again.</summary>
    public static void Write(TextWriter output, CheckFailure failure)
    {
        output.WriteLine();
        output.WriteLine(failure.Problem);
        output.WriteLine();
        Write(output, failure.Steps);
        output.WriteLine();
        output.WriteLine(failure.Reproducible
            ? $"replay with: {failure.Replay}"
            : "it did not fail again: the scenario depends on more than its choices");
        output.WriteLine();
    }

    public static void Write(TextWriter output, IReadOnlyList<RunStep> steps)
    {
        int width = steps.Select(s => s.Actor.Length).Append(Actor.Length).Max();
        output.WriteLine($"      {Actor.PadRight(width)} | what happened");
        for (int i = 0; i < steps.Count; i++)
        {
            RunStep step = steps[i];
            string number = (i + 1).ToString(CultureInfo.InvariantCulture);
            output.WriteLine($"{number,4}  {step.Actor.PadRight(width)} | {step.Name}");
            foreach (string note in step.Note?.Split("; ") ?? [])
            {
                output.WriteLine($"      {"".PadRight(width)} |   {note}");
            }
        }
    }
}
