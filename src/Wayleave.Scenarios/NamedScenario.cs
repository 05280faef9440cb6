using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>A situation around shipped code whose orders are explored.</summary>
/// <param name="Name">
/// Lower case with hyphens, unique in the <see cref="ScenarioCatalog"/>: <c>revoke-two-importers</c>.
/// </param>
/// <param name="Description">One sentence: who does what, and what must hold.</param>
/// <param name="Build">Makes the scenario of one run, for <see cref="Explorer"/>.</param>
/// <param name="Broken">The same with one defence switched off: the explorer must find each.</param>
public sealed record NamedScenario(
    string Name, string Description, Func<Choices, Scenario> Build, IReadOnlyList<BrokenVariant> Broken)
{
    /// <summary>
    /// Whether its actors are threads, which need the interleaving points of the shipped code: the process runs with
    /// the runtime option <c>Wayleave.Interleave</c>.
    /// </summary>
    public bool UsesThreads { get; init; }

    /// <summary>Drawn orders of a scenario that has too many, when nobody says how many.</summary>
    public const int DrawnRuns = 1000;

    /// <summary>
    /// The public report of the fault that this is about: <c>ydb-platform/nbs#5708</c> on GitHub, or an address
    /// elsewhere. Empty for what is no known fault.
    /// </summary>
    public IReadOnlyList<string> Reports { get; init; } = [];

    /// <summary>What keeps it from going wrong here, in a few words.</summary>
    public string Defence { get; init; } = "";

    /// <summary>Counts what the defence costs, over every order; null where nothing is counted.</summary>
    public Func<IReadOnlyList<ScenarioCost>>? MeasureCosts { get; init; }

    /// <summary>Where its orders come from: every one when it is small enough.</summary>
    public OrderSource Orders { get; init; } = OrderSource.Exhaustive;

    /// <summary>Small enough for every order; otherwise orders are drawn by seed.</summary>
    public bool IsExhaustive => Orders == OrderSource.Exhaustive;

    /// <summary>Explores the scenario, or one of its broken variants.</summary>
    /// <param name="broken">One of <see cref="Broken"/> instead of the scenario itself.</param>
    /// <param name="seed">Where drawn orders start; run n takes seed + n.</param>
    /// <param name="runs">How many runs at most; null for every order, or <see cref="DrawnRuns"/>.</param>
    /// <param name="orders">Where they come from; null for what the scenario says.</param>
    /// <param name="options">The rest; null for what is usual.</param>
    /// <returns>How it ended; a run that went wrong says how to replay it.</returns>
    public ExplorationReport Explore(
        BrokenVariant? broken = null,
        ulong seed = 1,
        long? runs = null,
        OrderSource? orders = null,
        ExplorationOptions? options = null)
    {
        options ??= new ExplorationOptions();
        OrderSource source = orders ?? Orders;
        return Explorer.Explore(broken?.Build ?? Build, options with
        {
            Orders = source,
            Seed = seed,
            RunsMax = runs ?? (source == OrderSource.Exhaustive ? options.RunsMax : DrawnRuns),
        });
    }
}

/// <summary>A scenario with one defence switched off.</summary>
/// <param name="Name">Lower case with hyphens, unique within its scenario: <c>gate-stays-open</c>.</param>
/// <param name="Description">What is missing.</param>
/// <param name="Build">Makes the scenario of one run. Some order of it fails.</param>
public sealed record BrokenVariant(string Name, string Description, Func<Choices, Scenario> Build);
