using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Repository;

/// <summary>
/// docs/check-your-own.md: its importer is the sample's, which is compiled into this project, and it does what is said.
/// </summary>
public class CheckYourOwnTests
{
    private const string Page = "docs/check-your-own.md";
    private const string Sample = "samples/CheckYourOwn/OwnImporter.cs";

    [Fact]
    public void The_page_shows_the_file_that_is_compiled_and_it_has_forty_lines()
    {
        Assert.Equal(SourceTree.Read(Sample), Blocks("csharp").First());
        Assert.InRange(SourceTree.Lines(Sample).Count(l => l.Trim().Length > 0), 20, 40);
    }

    [Fact]
    public void It_holds_in_every_order_as_it_is()
    {
        ExplorationReport report = Explorer.Explore(_ => OwnImporter.Build(waits: true));
        Assert.Null(report.Failure?.ToString());
        Assert.Equal(ExplorationEnd.EveryOrder, report.End);
        Assert.True(report.Counts.Runs > 4, $"{report.Counts}");
    }

    [Fact]
    public void Its_mistake_is_found_and_told_as_the_page_has_it()
    {
        FailedRun failure = Explorer.Explore(_ => OwnImporter.Build(waits: false)).Failure!;
        Assert.Equal(Blocks("").Single(), failure.ToString());
        Explorer.Replay(_ => OwnImporter.Build(waits: true), failure.Trail);
    }

    // The blocks of the page in a language, each with the line feed at its end.
    private static List<string> Blocks(string language)
    {
        List<string> found = [];
        string[] pieces = SourceTree.Read(Page).Split("\n```");
        for (int i = 1; i < pieces.Length; i += 2)
        {
            string[] parts = pieces[i].Split('\n', 2);
            if (parts[0] == language)
            {
                found.Add(parts[1] + "\n");
            }
        }

        return found;
    }
}
