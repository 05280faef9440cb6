using Xunit;

namespace Wayleave.Tests;

/// <summary>
/// Text under review: compared with a file of the repository, byte for byte. UPDATE_SNAPSHOTS=1 writes the file
/// instead, and the change is then read as a diff.
/// </summary>
internal static class Snapshot
{
    private const string Update = "UPDATE_SNAPSHOTS=1 dotnet test --project tests/Wayleave.Tests";

    /// <summary>Compares with tests/Wayleave.Tests/snapshots/NAME.txt.</summary>
    public static void Match(string actual, string name) =>
        MatchFile(actual, $"tests/Wayleave.Tests/snapshots/{name}.txt");

    /// <summary>Compares with a file named by its path from the root.</summary>
    public static void MatchFile(string actual, string file)
    {
        string path = Path.Combine(SourceTree.Root, file);
        if (Environment.GetEnvironmentVariable("UPDATE_SNAPSHOTS") == "1")
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            File.WriteAllText(path, actual);
            return;
        }

        Assert.True(File.Exists(path), $"there is no {file}: run `{Update}` and read what it wrote");
        string expected = File.ReadAllText(path);
        if (expected != actual)
        {
            Assert.Fail($"{file} differs: run `{Update}` and read the diff\n{FirstDifference(expected, actual)}");
        }
    }

    private static string FirstDifference(string expected, string actual)
    {
        string[] old = expected.Split('\n'), now = actual.Split('\n');
        int line = Enumerable.Range(0, Math.Min(old.Length, now.Length)).TakeWhile(i => old[i] == now[i]).Count();
        return $"line {line + 1}\n- {old.ElementAtOrDefault(line)}\n+ {now.ElementAtOrDefault(line)}";
    }
}
