using System.Globalization;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// The trail of one run of a catalogued scenario, as people pass it on: <c>[BREAK:]VERSION:DECISIONS</c>. The version
/// belongs to the scenario as it is now, so that a trail of another one, or of an older version, is refused and not
/// played as something else.
/// </summary>
/// <param name="Break">The broken variant, or null.</param>
/// <param name="Version">Eight hexadecimal digits.</param>
/// <param name="Decisions">What <see cref="Explorer.Replay"/> takes.</param>
public sealed record ScenarioTrail(string? Break, string Version, string Decisions)
{
    private const int VersionDigits = 8;

    /// <summary>The trail of a run of <paramref name="scenario"/>.</summary>
    public static ScenarioTrail Of(NamedScenario scenario, BrokenVariant? broken, FailedRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        return new ScenarioTrail(broken?.Name, VersionOf(scenario, broken), run.Trail);
    }

    /// <summary>
    /// A number for the scenario as it is: of its name, and of who does what in its first order. A change of the steps
    /// changes it; a change of what a step does need not.
    /// </summary>
    public static string VersionOf(NamedScenario scenario, BrokenVariant? broken)
    {
        ArgumentNullException.ThrowIfNull(scenario);
        Explorer.TryReplay(broken?.Build ?? scenario.Build, "0", out IReadOnlyList<RunStep> steps);
        StateHash hash = new();
        Add(ref hash, scenario.Name);
        Add(ref hash, broken?.Name ?? "");
        foreach (RunStep step in steps)
        {
            Add(ref hash, step.Actor);
            Add(ref hash, step.Name);
        }

        return ((uint)(hash.Value ^ (hash.Value >> 32))).ToString("x8", CultureInfo.InvariantCulture);
    }

    /// <summary>Reads what <see cref="ToString"/> wrote.</summary>
    /// <exception cref="FormatException">The text is no trail; the message says why.</exception>
    public static ScenarioTrail Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        string[] parts = text.Split(':');
        if (parts.Length is not (2 or 3)
            || parts[^2].Length != VersionDigits || !parts[^2].All(char.IsAsciiHexDigitLower)
            || parts is { Length: 3 } and ["", ..])
        {
            throw new FormatException($"'{text}' is no trail: it looks like [BREAK:]1f2e3d4c:0.2.1");
        }

        Choices.Replay(parts[^1].Length == 0 ? throw new FormatException($"'{text}' has no decisions") : parts[^1]);
        return new ScenarioTrail(parts.Length == 3 ? parts[0] : null, parts[^2], parts[^1]);
    }

    public override string ToString() => Break is null ? $"{Version}:{Decisions}" : $"{Break}:{Version}:{Decisions}";

    private static void Add(ref StateHash hash, string text)
    {
        foreach (char c in text)
        {
            hash.Add(c);
        }

        hash.Add(0x1_0000);
    }
}
