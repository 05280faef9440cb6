using System.Text.RegularExpressions;
using Xunit;

namespace Wayleave.Tests.Repository;

/// <summary>What a reader should never have to point out in a review.</summary>
public partial class TidyTests
{
    private const int ColumnsMax = 120;

    private static readonly string[] s_textExtensions =
        [".cs", ".csproj", ".props", ".targets", ".slnx", ".json", ".md", ".txt", ".sh", ".editorconfig", ".service",
            ".socket"];

    // Written apart, so that this file does not find itself.
    private static readonly string[] s_openEnds = ["TO" + "DO", "FIX" + "ME", "HA" + "CK", "X" + "XX"];

    // Folders of a machine that something was built or tried on; what is installed on every machine is not among them.
    private static readonly string[] s_machinePaths = ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "/tm" + "p/wl"];

    private static IEnumerable<string> Texts => SourceTree.Files.Where(
        f => s_textExtensions.Contains(Path.GetExtension(f))
            || f is "wayleave" or ".ci/run" or "LICENSE" or ".gitignore");

    [Fact]
    public void Text_files_end_with_one_line_feed_and_hold_no_tab_and_no_carriage_return()
    {
        List<string> found = [];
        foreach (string file in Texts.Where(f => !f.EndsWith("packages.lock.json", StringComparison.Ordinal)))
        {
            string text = SourceTree.Read(file);
            if (text.Contains('\t', StringComparison.Ordinal) || text.Contains('\r', StringComparison.Ordinal))
            {
                found.Add($"{file}: a tab or a carriage return");
            }

            if (text.Length > 0 && (text[^1] != '\n' || text.EndsWith("\n\n", StringComparison.Ordinal)))
            {
                found.Add($"{file}: ends otherwise than with one line feed");
            }

            found.AddRange(SourceTree.Lines(file).Index()
                .Where(l => l.Item.EndsWith(' ')).Select(l => $"{file}:{l.Index + 1}: ends with a space"));
        }

        Assert.Empty(found);
    }

    [Fact]
    public void A_line_of_code_has_at_most_120_columns() => Assert.Empty(
        from file in SourceTree.WithExtension(".cs")
        from line in SourceTree.Lines(file).Index()
        where line.Item.Length > ColumnsMax
        select $"{file}:{line.Index + 1}: {line.Item.Length} columns");

    [Fact]
    public void Nothing_is_left_for_later_in_the_text() => Assert.Empty(
        from file in Texts
        from line in SourceTree.Lines(file).Index()
        where s_openEnds.Any(w => Regex.IsMatch(line.Item, $@"\b{w}\b"))
        select $"{file}:{line.Index + 1}: {line.Item.Trim()}");

    [Fact]
    public void No_path_of_somebodys_machine_stands_in_the_text() => Assert.Empty(
        from file in Texts
        from line in SourceTree.Lines(file).Index()
        where s_machinePaths.Any(p => line.Item.Contains(p, StringComparison.Ordinal))
        select $"{file}:{line.Index + 1}: {line.Item.Trim()}");

    [Fact]
    public void A_namespace_is_the_project_and_the_folder() => Assert.Empty(
        from file in SourceTree.WithExtension(".cs")
        where file.StartsWith("src/", StringComparison.Ordinal) || file.StartsWith("tests/", StringComparison.Ordinal)
        let declared = NamespaceLine().Matches(SourceTree.Read(file)).Select(m => m.Groups[1].Value).ToArray()
        let expected =
            Path.GetDirectoryName(file)!.Replace('/', '.')[(file.IndexOf('/', StringComparison.Ordinal) + 1)..]
        where Path.GetFileName(file) is not ("AssemblyInfo.cs" or "Program.cs") && !declared.SequenceEqual([expected])
        select $"{file}: {string.Join(", ", declared)} is not {expected}");

    [Fact]
    public void Tests_do_not_sleep() => Assert.Empty(
        from file in SourceTree.WithExtension(".cs")
        where file.StartsWith("tests/", StringComparison.Ordinal)
        from line in SourceTree.Lines(file).Index()
        where line.Item.Contains("Thread." + "Sleep(", StringComparison.Ordinal)
        select $"{file}:{line.Index + 1}: {line.Item.Trim()}");

    [Fact]
    public void Links_in_documents_resolve()
    {
        List<string> found = [];
        foreach (string file in SourceTree.WithExtension(".md"))
        {
            foreach ((string target, string anchor) in Links(file))
            {
                string path = Path.Combine(SourceTree.Root, target);
                if (!File.Exists(path) && !Directory.Exists(path))
                {
                    found.Add($"{file}: no {target}");
                }
                else if (anchor.Length > 0 && !Anchors(target).Contains(anchor))
                {
                    found.Add($"{file}: no heading #{anchor} in {target}");
                }
            }
        }

        Assert.Empty(found);
    }

    [Fact]
    public void Every_document_is_reached_from_the_readme()
    {
        HashSet<string> reached = ["README.md"];
        Queue<string> next = new(reached);
        while (next.TryDequeue(out string? file))
        {
            foreach ((string target, _) in Links(file))
            {
                if (reached.Add(target) && target.EndsWith(".md", StringComparison.Ordinal)
                    && File.Exists(Path.Combine(SourceTree.Root, target)))
                {
                    next.Enqueue(target);
                }
            }
        }

        Assert.Empty(SourceTree.Files.Where(f => f.StartsWith("docs/", StringComparison.Ordinal)).Except(reached));
    }

    // Links to places in the repository: the path from the root, and the anchor.
    private static IEnumerable<(string Target, string Anchor)> Links(string file)
    {
        foreach (Match match in Link().Matches(WithoutCode(SourceTree.Read(file))))
        {
            string link = match.Groups[1].Value;
            if (link.Contains("://", StringComparison.Ordinal) || link.StartsWith("mailto:", StringComparison.Ordinal))
            {
                continue;
            }

            string[] parts = link.Split('#', 2);
            string folder = Path.Combine(SourceTree.Root, Path.GetDirectoryName(file)!);
            string target = parts[0].Length == 0 ? Path.Combine(SourceTree.Root, file) : Path.Combine(folder, parts[0]);
            yield return (
                Path.GetRelativePath(SourceTree.Root, Path.GetFullPath(target)), parts.ElementAtOrDefault(1) ?? "");
        }
    }

    // Headings as the web shows them: lower case, spaces to hyphens, no punctuation.
    private static IEnumerable<string> Anchors(string file) =>
        CodeBlock().Replace(SourceTree.Read(file), "").Split('\n')
        .Where(l => l.StartsWith('#'))
        .Select(l => string.Concat(l.TrimStart('#').Trim().ToLowerInvariant()
            .Where(c => char.IsLetterOrDigit(c) || c is ' ' or '-' or '_')).Replace(' ', '-'));

    private static string WithoutCode(string markdown) =>
        CodeSpan().Replace(CodeBlock().Replace(markdown, ""), "");

    [GeneratedRegex(@"^namespace ([\w.]+);?", RegexOptions.Multiline)]
    private static partial Regex NamespaceLine();

    [GeneratedRegex(@"\]\(([^)\s]+)\)")]
    private static partial Regex Link();

    [GeneratedRegex(@"^```.*?^```", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex CodeBlock();

    [GeneratedRegex(@"`[^`\n]*`")]
    private static partial Regex CodeSpan();
}
