using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>A small situation around shipped code whose every order is explored.</summary>
/// <param name="Name">
/// Lower case with hyphens, unique in the <see cref="ScenarioCatalog"/>: <c>revoke-two-importers</c>.
/// </param>
/// <param name="Description">One sentence: who does what, and what must hold.</param>
/// <param name="Build">Makes the scenario of one run, for <see cref="Explorer"/>.</param>
/// <param name="Broken">The same with one defence switched off: the explorer must find each.</param>
public sealed record NamedScenario(
    string Name, string Description, Func<Choices, Scenario> Build, IReadOnlyList<BrokenVariant> Broken);

/// <summary>A scenario with one defence switched off.</summary>
/// <param name="Name">Lower case with hyphens, unique within its scenario: <c>gate-stays-open</c>.</param>
/// <param name="Description">What is missing.</param>
/// <param name="Build">Makes the scenario of one run. Some order of it fails.</param>
public sealed record BrokenVariant(string Name, string Description, Func<Choices, Scenario> Build);
