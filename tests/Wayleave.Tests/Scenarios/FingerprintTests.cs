using Wayleave.Scenarios;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Scenarios;

/// <summary>
/// A fingerprint that leaves something out hides orders, so each is compared with what its states lead to.
/// </summary>
public class FingerprintTests(ITestOutputHelper output)
{
    public static TheoryData<string> Names => new(ScenarioCatalog.All.Where(s => !s.UsesThreads).Select(s => s.Name));

    [Theory]
    [MemberData(nameof(Names))]
    public void No_step_leads_from_one_fingerprint_to_two(string name)
    {
        foreach (OrderSource orders in (OrderSource[])[OrderSource.Random, OrderSource.Priorities])
        {
            ExplorationReport report = Explorer.Explore(ScenarioCatalog.Find(name)!.Build, new ExplorationOptions
            {
                AuditsFingerprint = true,
                Orders = orders,
                RunsMax = 600,
            });
            output.WriteLine($"{orders}: {report.Counts}");
            output.WriteLine(report.Failure?.ToString() ?? "");
            Assert.Null(report.Failure?.ToString());
        }
    }
}
