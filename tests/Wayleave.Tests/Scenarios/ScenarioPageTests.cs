using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Wayleave.Scenarios;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Scenarios;

/// <summary>docs/scenarios.md is what the catalogue says and what the explorer finds.</summary>
public partial class ScenarioPageTests
{
    private const string Page = "docs/scenarios.md";

    private const string Head = """
        # Scenarios

        What `wayleave check` explores, generated from the catalogue by a test. Each scenario drives the shipped Core,
        and Devices where packets or engines are part of it; it holds in every order of its steps (or in all that were
        drawn, where there are too many), and with a defence taken away an order is found that goes wrong. The header of
        each file in [src/Wayleave.Scenarios](../src/Wayleave.Scenarios) says in what a scenario is faithful to its
        report and in what not.

        ```
        wayleave check run --all
        wayleave check run static-key --break one-key-for-all
        ```

        | Scenario | Report | Defence | Without it | What breaks |
        |---|---|---|---|---|

        """;

    private const string Costs = """

        ## What the ways out of the circle cost

        Counted over every order of the scenario: two jobs on two devices, the second of which reads one page that the
        kernel wants back.

        | Scenario | Defence | Costs |
        |---|---|---|

        """;

    [Fact]
    public void The_page_of_scenarios_is_that_of_the_catalogue()
    {
        StringBuilder page = new(Head);
        foreach (NamedScenario scenario in ScenarioCatalog.All)
        {
            string name = $"`{scenario.Name}`";
            string reports = string.Join("<br>", scenario.Reports.Select(Link));
            string defence = scenario.Defence;
            foreach (BrokenVariant broken in scenario.Broken)
            {
                string problem = scenario.Explore(broken).Failure!.Problem;
                string left = $"| {name} | {reports} | {defence}";
                page.Append(CultureInfo.InvariantCulture, $"{left} | `{broken.Name}` | {problem} |\n");
                (name, reports, defence) = ("", "", "");
            }
        }

        page.Append(Costs);
        foreach (NamedScenario scenario in ScenarioCatalog.All.Where(s => s.MeasureCosts is not null))
        {
            string costs = string.Join(", ", scenario.MeasureCosts!().Where(c => c.Most > 0));
            page.Append(CultureInfo.InvariantCulture, $"| `{scenario.Name}` | {scenario.Defence} | {costs} |\n");
        }

        Snapshot.MatchFile(page.ToString(), Page);
    }

    [Fact]
    public void Every_scenario_says_what_defends_it_and_what_breaks_it() => Assert.All(ScenarioCatalog.All, s =>
    {
        Assert.NotEmpty(s.Defence);
        Assert.NotEmpty(s.Broken);
        Assert.EndsWith(".", s.Description, StringComparison.Ordinal);
        Assert.All(s.Reports, r => Assert.Matches("^([A-Za-z0-9-]+/[A-Za-z0-9-]+#[0-9]+|https?://[^ ]+)$", r));
    });

    [Fact]
    public void A_file_of_the_corpus_cites_its_report_and_says_in_what_it_is_faithful()
    {
        string[] files = [.. SourceTree.Files
            .Where(f => f.StartsWith("src/Wayleave.Scenarios/Corpus/", StringComparison.Ordinal))
            .Where(f => SourceTree.Read(f).Contains("NamedScenario", StringComparison.Ordinal))];
        Assert.NotEmpty(files);
        Assert.All(files, f =>
        {
            string header = SourceTree.Read(f).Split("/// <summary>")[0];
            Assert.Matches("// Reports?: https?://", header);
            Assert.Contains("// Faithful: ", header, StringComparison.Ordinal);
            Assert.Contains("Not faithful: ", header, StringComparison.Ordinal);
        });
        IEnumerable<NamedScenario> corpus = ScenarioCatalog.All.SkipWhile(s => s.Name != "abort-under-write");
        Assert.All(corpus, s => Assert.NotEmpty(s.Reports));
    }

    [Fact]
    public void A_trail_in_a_document_replays()
    {
        string document = SourceTree.Read("docs/testing.md");
        MatchCollection trails = Replay().Matches(document);
        Assert.NotEmpty(trails);
        Assert.All(trails, match =>
        {
            NamedScenario scenario = ScenarioCatalog.Find(match.Groups["name"].Value)!;
            ScenarioTrail trail = ScenarioTrail.Parse(match.Groups["trail"].Value);
            BrokenVariant? broken = scenario.Broken.FirstOrDefault(b => b.Name == trail.Break);
            Assert.Equal(ScenarioTrail.VersionOf(scenario, broken), trail.Version);
            FailedRun failure = Explorer.TryReplay(broken?.Build ?? scenario.Build, trail.Decisions, out _)!;
            Assert.Contains($"\n{failure.Problem}\n", document, StringComparison.Ordinal);
        });
    }

    [GeneratedRegex("wayleave check replay (?<name>[a-z-]+) (?<trail>[a-z0-9:.-]+)")]
    private static partial Regex Replay();

    private static string Link(string report)
    {
        if (Uri.TryCreate(report, UriKind.Absolute, out Uri? address))
        {
            return $"[{address.Host}]({report})";
        }

        string[] parts = report.Split('#');
        return $"[{report}](https://github.com/{parts[0]}/issues/{parts[1]})";
    }
}
