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
    /// <summary>Small enough for every order; otherwise orders are drawn by seed.</summary>
    public bool IsExhaustive { get; init; } = true;

    /// <summary>Explores the orders: every one, or <paramref name="runs"/> by seed when there are too many.</summary>
    /// <param name="broken">One of <see cref="Broken"/> instead of the scenario itself.</param>
    /// <param name="seed">Where seeded orders start; run n takes seed + n.</param>
    /// <param name="runs">How many seeded orders.</param>
    /// <exception cref="InterleavingException">An order went wrong; it says how, and how to replay it.</exception>
    public Exploration Explore(BrokenVariant? broken = null, ulong seed = 1, int runs = 1000)
    {
        Func<Choices, Scenario> build = broken?.Build ?? Build;
        return IsExhaustive ? Explorer.Exhaustive(build) : Explorer.Seeded(build, seed, runs);
    }
}

/// <summary>A scenario with one defence switched off.</summary>
/// <param name="Name">Lower case with hyphens, unique within its scenario: <c>gate-stays-open</c>.</param>
/// <param name="Description">What is missing.</param>
/// <param name="Build">Makes the scenario of one run. Some order of it fails.</param>
public sealed record BrokenVariant(string Name, string Description, Func<Choices, Scenario> Build);
