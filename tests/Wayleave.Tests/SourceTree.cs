using System.Runtime.CompilerServices;

namespace Wayleave.Tests;

/// <summary>The files of the repository as they stand in the working tree, without what is built or fetched.</summary>
internal static class SourceTree
{
    private static readonly string[] s_notOurs = ["artifacts", "bin", "obj", ".git", ".vs", ".idea"];

    public static string Root { get; } = FindRoot();

    /// <summary>Every file, by its path from the root with forward slashes, in ordinal order.</summary>
    public static IReadOnlyList<string> Files { get; } =
        [.. Walk(new DirectoryInfo(Root)).Select(f => Path.GetRelativePath(Root, f)).Order(StringComparer.Ordinal)];

    public static IEnumerable<string> WithExtension(params string[] extensions) =>
        Files.Where(f => extensions.Contains(Path.GetExtension(f)));

    public static string Read(string file) => File.ReadAllText(Path.Combine(Root, file));

    public static string[] Lines(string file) => Read(file).Split('\n');

    private static string FindRoot([CallerFilePath] string source = "")
    {
        DirectoryInfo? directory = new FileInfo(source).Directory;
        while (directory is not null && !File.Exists(Path.Combine(directory.FullName, "Wayleave.slnx")))
        {
            directory = directory.Parent;
        }

        return directory?.FullName ?? throw new InvalidOperationException($"no Wayleave.slnx above {source}");
    }

    private static IEnumerable<string> Walk(DirectoryInfo directory)
    {
        foreach (FileInfo file in directory.EnumerateFiles())
        {
            if (file.LinkTarget is null)
            {
                yield return file.FullName;
            }
        }

        foreach (DirectoryInfo inner in directory.EnumerateDirectories())
        {
            if (inner.LinkTarget is null && !s_notOurs.Contains(inner.Name))
            {
                foreach (string file in Walk(inner))
                {
                    yield return file;
                }
            }
        }
    }
}
