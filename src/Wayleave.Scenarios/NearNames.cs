namespace Wayleave.Scenarios;

/// <summary>What somebody may have meant who typed a name that there is not.</summary>
public static class NearNames
{
    private const int SuggestionsMax = 3;

    /// <summary>
    /// The known names nearest to <paramref name="name"/>: those that contain it, then those few letters away. At most
    /// three, best first; empty when none is near.
    /// </summary>
    public static IReadOnlyList<string> Of(string name, IEnumerable<string> known)
    {
        ArgumentNullException.ThrowIfNull(name);
        ArgumentNullException.ThrowIfNull(known);
        int farthest = Math.Max(2, name.Length / 3);
        return
        [
            .. known
                .Select(k => (Name: k, Distance: IsPart(name, k) ? 0 : Distance(name, k)))
                .Where(k => k.Distance <= farthest)
                .OrderBy(k => k.Distance)
                .Select(k => k.Name)
                .Take(SuggestionsMax),
        ];
    }

    private static bool IsPart(string name, string known) =>
        name.Length > 2 && known.Contains(name, StringComparison.OrdinalIgnoreCase);

    // Levenshtein, one row at a time.
    private static int Distance(string a, string b)
    {
        int[] row = [.. Enumerable.Range(0, b.Length + 1)];
        for (int i = 1; i <= a.Length; i++)
        {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.Length; j++)
            {
                int replaced = diagonal + (char.ToLowerInvariant(a[i - 1]) == b[j - 1] ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.Min(replaced, Math.Min(row[j], row[j - 1]) + 1);
            }
        }

        return row[b.Length];
    }
}
