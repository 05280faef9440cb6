using System.Globalization;
using System.Text;

namespace Wayleave.Simulation;

/// <summary>
/// The text of a trail: decisions separated by dots, <c>TIMESxVALUE</c> for equal neighbours: a form that no shell
/// changes. Pure.
/// </summary>
internal static class Trail
{
    /// <summary>A text of more decisions is refused: it comes from a command line.</summary>
    public const int DecisionsMax = 1_000_000;

    public static string Format(List<(int Value, int Count)> decisions, int count)
    {
        while (count > 0 && decisions[count - 1].Value == 0)
        {
            count--;
        }

        StringBuilder text = new();
        for (int i = 0; i < count;)
        {
            int value = decisions[i].Value;
            int end = i + 1;
            while (end < count && decisions[end].Value == value)
            {
                end++;
            }

            text.Append(text.Length == 0 ? "" : ".");
            if (end - i > 1)
            {
                text.Append(CultureInfo.InvariantCulture, $"{end - i}x");
            }

            text.Append(CultureInfo.InvariantCulture, $"{value}");
            i = end;
        }

        return text.Length == 0 ? "0" : text.ToString();
    }

    public static string FormatSeed(string prefix, ulong seed) =>
        string.Create(CultureInfo.InvariantCulture, $"{prefix}{seed}");

    public static ulong ParseSeed(ReadOnlySpan<char> text) =>
        ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out ulong seed)
            ? seed
            : throw new FormatException($"'{text}' is no seed: a number from 0 to {ulong.MaxValue}");

    /// <exception cref="FormatException">The text is no trail.</exception>
    public static void Parse(string text, List<(int Value, int Count)> decisions)
    {
        if (text.Length == 0)
        {
            return;
        }

        int place = 0;
        foreach (Range range in text.AsSpan().Split('.'))
        {
            place++;
            ReadOnlySpan<char> piece = text.AsSpan(range);
            int sign = piece.IndexOf('x');
            int times = 1;
            if (!TryParse(piece[(sign + 1)..], out int value)
                || (sign >= 0 && (!TryParse(piece[..sign], out times) || times == 0)))
            {
                throw new FormatException(
                    $"'{piece}', part {place} of the trail, is no decision: a number, or TIMESxNUMBER");
            }

            if (times > DecisionsMax - decisions.Count)
            {
                throw new FormatException($"the trail is longer than {DecisionsMax} decisions");
            }

            for (int i = 0; i < times; i++)
            {
                decisions.Add((value, int.MaxValue));
            }
        }
    }

    private static bool TryParse(ReadOnlySpan<char> text, out int value) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out value);
}
