using Wayleave.Scenarios;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Scenarios;

public class ScenarioCatalogTests(ITestOutputHelper output)
{
    public static TheoryData<string> Names => new(ScenarioCatalog.All.Select(s => s.Name));

    public static TheoryData<string, string> Broken =>
        new(ScenarioCatalog.All.SelectMany(s => s.Broken.Select(b => (s.Name, b.Name))));

    [Theory]
    [MemberData(nameof(Names))]
    public void A_scenario_holds_in_every_order_or_in_many(string name)
    {
        NamedScenario scenario = ScenarioCatalog.Find(name)!;
        ExplorationReport report = scenario.Explore(runs: scenario.UsesThreads ? 300 : null); // a thread takes its time
        output.WriteLine($"{name}: {report}");
        Assert.Null(report.Failure?.ToString());
        bool isEvery = scenario is { IsExhaustive: true, UsesThreads: false };
        Assert.Equal(isEvery ? ExplorationEnd.EveryOrder : ExplorationEnd.RunsMax, report.End);
        Assert.True(report.Counts.Runs > 10, "fewer orders than there are");
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Seeded_orders_of_a_scenario_hold_without_cutting_equal_states(string name) =>
        Explorer.Seeded(ScenarioCatalog.Find(name)!.Build, seed: 1000, runs: 50);

    [Theory]
    [MemberData(nameof(Broken))]
    public void A_missing_defence_is_found_and_replays(string name, string broken)
    {
        NamedScenario scenario = ScenarioCatalog.Find(name)!;
        BrokenVariant variant = scenario.Broken.Single(b => b.Name == broken);
        FailedRun found = Assert.IsType<FailedRun>(scenario.Explore(variant).Failure);
        output.WriteLine(found.ToString());
        Assert.True(found.IsReproducible);
        Assert.DoesNotContain("instead of", found.Problem, StringComparison.Ordinal);
        InterleavingException again =
            Assert.Throws<InterleavingException>(() => Explorer.Replay(variant.Build, found.Trail));
        Assert.Equal(found.ToString(), again.Message);
    }

    [Fact]
    public void What_breaks_the_circle_of_fences_costs_what_is_said_of_it()
    {
        long Most(string name, string what)
        {
            IReadOnlyList<ScenarioCost> costs = ScenarioCatalog.Find(name)!.MeasureCosts!();
            return costs.Single(c => c.What == what).Most;
        }

        Assert.Equal(1, Most("fence-in-notifier-faults", "recoverable faults"));
        Assert.Equal(1, Most("fence-in-notifier-stall", "stalls of the processor"));
        Assert.Equal(1, Most("fence-in-notifier-stall", "jobs in flight at once"));
        Assert.Equal(4096, Most("fence-in-notifier-pinned", "bytes pinned"));
        Assert.Equal(0, Most("fence-in-notifier-pinned", "bytes that reclaim gets"));
        Assert.Equal(1, Most("fence-in-notifier", "waits refused"));
        string[] cheap = ["recoverable faults", "stalls of the processor", "bytes pinned", "waits refused"];
        Assert.All(cheap, what => Assert.Equal(0, Most("fence-in-notifier-rule", what)));
        Assert.Equal(2, Most("fence-in-notifier-rule", "jobs in flight at once"));
    }

    [Fact]
    public void Names_are_unique_and_typed_easily()
    {
        Assert.Equal(ScenarioCatalog.All.Count, ScenarioCatalog.All.DistinctBy(s => s.Name).Count());
        Assert.All(
            ScenarioCatalog.All.SelectMany(s => s.Broken.Select(b => b.Name).Append(s.Name)),
            n => Assert.Matches("^[a-z]+(-[a-z]+)*$", n));
        Assert.Null(ScenarioCatalog.Find("no-such-scenario"));
    }
}
