using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Xunit;

namespace Wayleave.Tests.Repository;

/// <summary>
/// Which cases of docs/cases.md have a test: read from the names of the tests of both projects and written to docs/conformance.md.
/// </summary>
public partial class ConformanceTests
{
    private const string Page = "docs/conformance.md";

    [Fact]
    public void The_page_of_covered_cases_is_that_of_the_test_names()
    {
        SortedDictionary<string, SortedSet<string>> tests = new(StringComparer.Ordinal);
        foreach (string file in SourceTree.WithExtension(".cs").Where(f => f.StartsWith("tests/", StringComparison.Ordinal)))
        {
            foreach (Match name in TestName().Matches(SourceTree.Read(file)))
            {
                foreach (Match id in Id().Matches(name.Groups["ids"].Value))
                {
                    string key = $"{id.Groups["family"].Value}-{id.Groups["number"].Value}";
                    string test = $"{Path.GetFileNameWithoutExtension(file)}.{name.Groups["name"].Value}";
                    tests.TryAdd(key, new SortedSet<string>(StringComparer.Ordinal));
                    tests[key].Add(test);
                }
            }
        }

        StringBuilder page = new();
        page.Append("# Conformance\n\nGenerated from the names of the tests; the cases themselves are in [cases.md](cases.md). ");
        page.Append(CultureInfo.InvariantCulture, $"{tests.Count} cases have a test.\n\n| Case | Tests |\n|---|---|\n");
        foreach ((string id, SortedSet<string> names) in tests)
        {
            page.Append(CultureInfo.InvariantCulture, $"| {id} | {string.Join("<br>", names.Select(n => $"`{n}`"))} |\n");
        }

        Snapshot.MatchFile(page.ToString(), Page);
    }

    [GeneratedRegex(@"public (?:async )?(?:void|Task|ValueTask) (?<name>(?<ids>(?:(?:DBUF|RESV|FENCE|MM|RDMA|P2P|DEVM|EXP|RSS|ROCE|H|TCP|F)_\d{2}_)+)\w+)\(")]
    private static partial Regex TestName();

    [GeneratedRegex(@"(?<family>[A-Z0-9]+)_(?<number>\d{2})_")]
    private static partial Regex Id();
}
