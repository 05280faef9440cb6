using System.Text.Json;
using System.Text.Json.Serialization;
using Wayleave.Scenarios;
using Wayleave.Simulation;

namespace Wayleave.Cli.Commands;

/// <summary>What <c>wayleave check list --json</c> prints.</summary>
internal sealed record CheckListDocument
{
    public string Schema { get; init; } = "wayleave.check_list.v1";

    public required IReadOnlyList<ListedScenario> Scenarios { get; init; }

    public static CheckListDocument Of(IReadOnlyList<NamedScenario> scenarios) => new()
    {
        Scenarios =
        [
            .. scenarios.Select(s => new ListedScenario(
                s.Name,
                s.Description,
                s.IsExhaustive,
                s.Defence,
                s.Reports,
                [.. s.Broken.Select(b => new ListedBreak(b.Name, b.Description))])),
        ],
    };
}

/// <summary>One scenario of the catalogue.</summary>
internal sealed record ListedScenario(
    string Name,
    string Description,
    bool Exhaustive,
    string Defence,
    IReadOnlyList<string> Reports,
    IReadOnlyList<ListedBreak> Breaks);

/// <summary>A defence that can be taken away.</summary>
internal sealed record ListedBreak(string Name, string Description);

/// <summary>What <c>wayleave check run --json</c> prints: one object at the end, complete or interrupted.</summary>
internal sealed record CheckRunDocument
{
    public string Schema { get; init; } = "wayleave.check_run.v1";

    public required ulong Seed { get; init; }

    /// <summary>Every scenario held, and every defence that was taken away was missed.</summary>
    public required bool Passed { get; init; }

    /// <summary>Ended by a signal: the last of the runs is not complete, others are missing.</summary>
    public required bool Interrupted { get; init; }

    public required IReadOnlyList<CheckedScenario> Runs { get; init; }
}

/// <summary>What was found about one scenario.</summary>
internal sealed record CheckedScenario
{
    public required string Scenario { get; init; }

    /// <summary>The defence that was taken away, or null.</summary>
    public string? Break { get; init; }

    /// <summary>Whether an order that goes wrong is what was looked for.</summary>
    [JsonIgnore]
    public bool MustFail { get; init; }

    /// <summary>holds, fails, found, not found, interrupted.</summary>
    public required string Result { get; init; }

    public required bool Passed { get; init; }

    /// <summary>It was not explored to the end, so that nothing is known of it.</summary>
    [JsonIgnore]
    public bool IsInterrupted { get; init; }

    /// <summary>random, priorities; null when every order was to be made.</summary>
    public string? Drawn { get; init; }

    /// <summary>every_order, runs_max, failed, canceled.</summary>
    public required string End { get; init; }

    public required long Orders { get; init; }

    public required long Steps { get; init; }

    /// <summary>Orders that were not made to their end, because their state had been left from before.</summary>
    public required long Cut { get; init; }

    /// <summary>Different states that orders were cut by; 0 when none were.</summary>
    public required long States { get; init; }

    public required double ElapsedS { get; init; }

    public CheckFailure? Failure { get; init; }

    /// <summary>What the defence costs, where it is counted.</summary>
    public IReadOnlyList<ScenarioCost>? Costs { get; init; }

    public static CheckedScenario Of(
        NamedScenario scenario, BrokenVariant? broken, bool mustFail, ExplorationReport report, TimeSpan elapsed)
    {
        bool failed = report.Failure is not null;

        // A scenario that is endless or broken by itself is never what was looked for.
        bool isFinding =
            report.Failure is { Kind: not (FailureKind.Endless or FailureKind.Builder or FailureKind.Trail) };
        bool isOver = report.End != ExplorationEnd.Canceled;
        bool passed = isOver && (mustFail ? isFinding : !failed);
        string result = (isOver, mustFail, failed) switch
        {
            (false, _, _) => "interrupted",
            (_, true, true) => isFinding ? "found" : "fails",
            (_, true, false) => "not found",
            (_, false, true) => "fails",
            _ => "holds",
        };
        return new CheckedScenario
        {
            Scenario = scenario.Name,
            Break = broken?.Name,
            MustFail = mustFail && isFinding,
            Result = result,
            Passed = passed,
            IsInterrupted = !isOver,
            End = Snake(report.End),
            Orders = report.Counts.Runs,
            Steps = report.Counts.Steps,
            Cut = report.Counts.Pruned,
            States = report.Counts.States,
            ElapsedS = elapsed.TotalSeconds,
            Failure = report.Failure is { } failure ? CheckFailure.Of(scenario, broken, failure) : null,
        };
    }

    internal static string Snake<T>(T value)
        where T : struct, Enum => JsonNamingPolicy.SnakeCaseLower.ConvertName(value.ToString());
}

/// <summary>An order that went wrong.</summary>
internal sealed record CheckFailure(
    string Kind, string Problem, bool Reproducible, IReadOnlyList<RunStep> Steps, string Trail, string Replay)
{
    public static CheckFailure Of(NamedScenario scenario, BrokenVariant? broken, FailedRun run)
    {
        string trail = ScenarioTrail.Of(scenario, broken, run).ToString();
        string kind = CheckedScenario.Snake(run.Kind);
        string replay = $"wayleave check replay {scenario.Name} {trail}";
        return new CheckFailure(kind, run.Problem, run.IsReproducible, run.Steps, trail, replay);
    }
}

/// <summary>What <c>wayleave check replay --json</c> prints.</summary>
internal sealed record CheckReplayDocument
{
    public string Schema { get; init; } = "wayleave.check_replay.v1";

    public required string Scenario { get; init; }

    public string? Break { get; init; }

    public required string Trail { get; init; }

    /// <summary>Whether the order went wrong, as it did when the trail was made.</summary>
    public required bool Failed { get; init; }

    public string? Problem { get; init; }

    public required IReadOnlyList<RunStep> Steps { get; init; }

    public static CheckReplayDocument Of(
        NamedScenario scenario,
        BrokenVariant? broken,
        string trail,
        IReadOnlyList<RunStep> steps,
        FailedRun? failure) => new()
        {
            Scenario = scenario.Name,
            Break = broken?.Name,
            Trail = trail,
            Failed = failure is not null,
            Problem = failure?.Problem,
            Steps = steps,
        };
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(CheckListDocument))]
[JsonSerializable(typeof(CheckRunDocument))]
[JsonSerializable(typeof(CheckReplayDocument))]
internal sealed partial class CheckJson : JsonSerializerContext;
