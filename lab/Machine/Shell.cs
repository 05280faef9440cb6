namespace Wayleave.Lab.Machine;

/// <summary>Text for a shell.</summary>
internal static class Shell
{
    /// <summary>One word, whatever is in it.</summary>
    internal static string Quote(string word) =>
        "'" + word.Replace("'", "'\\''", StringComparison.Ordinal) + "'";

    /// <summary>The words of a command.</summary>
    internal static string Quote(IEnumerable<string> words) => string.Join(' ', words.Select(Quote));
}
