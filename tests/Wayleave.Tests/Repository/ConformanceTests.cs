using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Wayleave.Tests.Recorded;
using Xunit;

namespace Wayleave.Tests.Repository;

// docs/cases.md says what must hold, the names of the tests of both projects say what is shown, not-applicable.txt says
// what cannot be shown in user space and why. docs/conformance.md is made of these three and of nothing else.

/// <summary>Which cases of docs/cases.md are shown, by which tests, and which cannot be.</summary>
public partial class ConformanceTests
{
    private const string Cases = "docs/cases.md";
    private const string Page = "docs/conformance.md";
    private const string NotApplicable = "tests/Wayleave.Tests/Repository/not-applicable.txt";

    // In these families no case is open: each has a test or a reason. A family that got there goes into this list.
    private static readonly string[] s_completeFamilies = ["DBUF", "RESV", "FENCE", "MM", "RDMA"];

    [Fact]
    public void The_page_of_covered_cases_is_that_of_the_test_names() => Snapshot.MatchFile(MakePage(), Page);

    [Fact]
    public void Every_id_in_the_name_of_a_test_is_a_case() =>
        Assert.Empty(ReadTests().Keys.Except(ReadCases().Select(c => c.Id)));

    [Fact]
    public void What_cannot_apply_is_a_case_has_a_reason_and_has_no_test()
    {
        string[] ids = [.. ReadReasons().Select(r => r.Id)];
        Assert.Empty(ids.Except(ReadCases().Select(c => c.Id)));
        Assert.Empty(ids.Intersect(ReadTests().Keys));
        Assert.Equal(ids.Distinct().Order(StringComparer.Ordinal), ids);
        Assert.All(ReadReasons(), r => Assert.True(r.Reason.Length >= 20, $"{r.Id}: \"{r.Reason}\" is no reason"));
    }

    [Fact]
    public void A_family_that_was_complete_stays_complete()
    {
        HashSet<string> closed = [.. ReadTests().Keys, .. ReadReasons().Select(r => r.Id)];
        Assert.Empty(ReadCases().Select(c => c.Id).Where(id => s_completeFamilies.Contains(Family(id)))
            .Except(closed));
    }

    [Fact]
    public void Where_we_differ_from_the_kernel_the_page_says_why() => Assert.All(
        HeldTable.Rows().Where(r => !r.IsSame),
        r => Assert.True(r.Note.Length >= 20, $"{r.Question}: {r.Ours}, the kernel {r.Kernel}"));

    private static string MakePage()
    {
        SortedDictionary<string, SortedSet<TestName>> tests = ReadTests();
        Dictionary<string, string> reasons = ReadReasons().ToDictionary(r => r.Id, r => r.Reason);
        List<Row> rows = [.. ReadCases().Select(c => MakeRow(c, tests.GetValueOrDefault(c.Id), reasons))];
        StringBuilder page = new();
        page.Append("# Conformance\n\nGenerated from [cases.md](cases.md), the names of the tests, and a list of what");
        page.Append(" cannot apply.\n\n*exact*: a test shows the case as it stands. *approximate*: Wayleave differs");
        page.Append(" on purpose, and the page says in what.\n*not applicable*: it cannot occur in user space, with");
        page.Append(" the reason. *open*: no test shows it.\n\n| Family | Cases | Exact | Approximate |");
        page.Append(" Not applicable | Open |\n|---|---|---|---|---|---|\n");
        foreach (IGrouping<string, Row> family in rows.GroupBy(r => Family(r.Id)))
        {
            AppendCounts(page, family.Key, [.. family]);
        }

        AppendCounts(page, "all", rows);
        foreach (IGrouping<string, Row> family in rows.GroupBy(r => Family(r.Id)))
        {
            page.Append(CultureInfo.InvariantCulture, $"\n## {family.Key}\n\n");
            page.Append("| Case | What must hold | Status | Shown by |\n|---|---|---|---|\n");
            foreach (Row row in family)
            {
                page.Append(CultureInfo.InvariantCulture, $"| {row.Id} | {row.Text} | {row.Note} | {row.Tests} |\n");
            }
        }

        HeldTable.Append(page);
        return page.ToString();
    }

    private static Row MakeRow(Case c, SortedSet<TestName>? tests, Dictionary<string, string> reasons)
    {
        string names = string.Join("<br>", (tests ?? []).Select(t => $"`{t.Class}.{t.Method}`"));
        if (tests is null)
        {
            return reasons.TryGetValue(c.Id, out string? reason)
                ? new Row(c.Id, c.Text, "not applicable", $"not applicable: {reason}", names)
                : new Row(c.Id, c.Text, "open", "open", names);
        }

        string difference = string.Join("; ", tests.Select(t => t.Difference).Where(d => d.Length > 0));
        return difference.Length == 0
            ? new Row(c.Id, c.Text, "exact", "exact", names)
            : new Row(c.Id, c.Text, "approximate", $"approximate: {difference}", names);
    }

    private static void AppendCounts(StringBuilder page, string name, IReadOnlyCollection<Row> rows)
    {
        int Count(string status) => rows.Count(r => r.Status == status);
        page.Append(CultureInfo.InvariantCulture, $"| {name} | {rows.Count} | {Count("exact")} |");
        page.Append(CultureInfo.InvariantCulture, $" {Count("approximate")} | {Count("not applicable")} |");
        page.Append(CultureInfo.InvariantCulture, $" {Count("open")} |\n");
    }

    private static string Family(string id) => id[..id.IndexOf('-', StringComparison.Ordinal)];

    // A case is a row of a table; the cells after the id say what is set up, what happens and what must hold.
    private static List<Case> ReadCases() =>
        [.. from line in SourceTree.Lines(Cases)
            let match = CaseRow().Match(line)
            where match.Success
            let cells = match.Groups["cells"].Value.Split('|').Select(c => c.Trim()).Where(c => c.Length > 0)
            select new Case(match.Groups["id"].Value, string.Join("; ", cells))];

    private static List<(string Id, string Reason)> ReadReasons() =>
        [.. from line in SourceTree.Lines(NotApplicable)
            where line.Length > 0 && !line.StartsWith('#')
            let parts = line.Split(' ', 2)
            select (parts[0], parts.ElementAtOrDefault(1)?.Trim() ?? "")];

    private static SortedDictionary<string, SortedSet<TestName>> ReadTests()
    {
        SortedDictionary<string, SortedSet<TestName>> tests = new(StringComparer.Ordinal);
        IEnumerable<string> files =
            SourceTree.WithExtension(".cs").Where(f => f.StartsWith("tests/", StringComparison.Ordinal));
        foreach (string file in files)
        {
            foreach (Match match in TestMethod().Matches(SourceTree.Read(file)))
            {
                string ids = match.Groups["ids"].Value, method = match.Groups["name"].Value;
                string sentence = method[ids.Length..];
                string difference = sentence.StartsWith("differs_", StringComparison.Ordinal)
                    ? sentence["differs_".Length..].Replace('_', ' ')
                    : "";
                TestName test = new(Path.GetFileNameWithoutExtension(file), method, difference);
                string family = "";
                foreach (Match id in Id().Matches(ids))
                {
                    // RDMA_01_02_ names two cases of one family.
                    family = id.Groups["family"].Value is { Length: > 0 } named ? named : family;
                    string key = $"{family}-{id.Groups["number"].Value}";
                    tests.TryAdd(key, []);
                    tests[key].Add(test);
                }
            }
        }

        return tests;
    }

    [GeneratedRegex(@"^\| (?<id>[A-Z0-9]+-\d{2}) \|(?<cells>.*)\|$")]
    private static partial Regex CaseRow();

    [GeneratedRegex(
        @"public (?:async )?(?:void|Task|ValueTask) "
        + @"(?<name>(?<ids>(?:(?:DBUF|RESV|FENCE|MM|RDMA|P2P|DEVM|EXP|RSS|ROCE|H|TCP|F)_(?:\d{2}_)+)+)\w+)\(")]
    private static partial Regex TestMethod();

    [GeneratedRegex(@"(?:(?<family>[A-Z][A-Z0-9]*)_)?(?<number>\d{2})_")]
    private static partial Regex Id();

    private sealed record Case(string Id, string Text);

    private sealed record Row(string Id, string Text, string Status, string Note, string Tests);

    private sealed record TestName(string Class, string Method, string Difference) : IComparable<TestName>
    {
        public int CompareTo(TestName? other) =>
            string.CompareOrdinal($"{Class}.{Method}", $"{other?.Class}.{other?.Method}");
    }
}
