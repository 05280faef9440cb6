using System.Globalization;

namespace Wayleave.Cli.Output;

/// <summary>
/// Times as people write them: a number and one of us, ms, s, m, h. The unit is needed, so that nobody guesses it.
/// </summary>
internal static class Durations
{
    /// <summary>What to tell a user whose time was not understood.</summary>
    public const string Forms = "a time such as 500ms, 5s or 2m";

    public static bool TryParse(ReadOnlySpan<char> text, out TimeSpan duration)
    {
        duration = default;
        int digits = 0;
        while (digits < text.Length && (char.IsAsciiDigit(text[digits]) || text[digits] == '.'))
        {
            digits++;
        }

        long ticks = text[digits..] switch
        {
            "us" => TimeSpan.TicksPerMicrosecond,
            "ms" => TimeSpan.TicksPerMillisecond,
            "s" => TimeSpan.TicksPerSecond,
            "m" => TimeSpan.TicksPerMinute,
            "h" => TimeSpan.TicksPerHour,
            _ => 0,
        };
        if (ticks == 0
            || !decimal.TryParse(
                text[..digits], NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out decimal number)
            || number > long.MaxValue / ticks)
        {
            return false;
        }

        duration = TimeSpan.FromTicks((long)(number * ticks));
        return true;
    }

    /// <summary>For people, with three digits: <c>11.3 us</c>, <c>1.20 ms</c>, <c>5.00 s</c>.</summary>
    public static string Format(TimeSpan duration)
    {
        double us = duration.Ticks / (double)TimeSpan.TicksPerMicrosecond;
        (double value, string unit) = us < 1000 ? (us, "us")
            : us < 1_000_000 ? (us / 1000, "ms")
            : (us / 1_000_000, "s");
        int decimals = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
        return value.ToString("F" + decimals, CultureInfo.InvariantCulture) + " " + unit;
    }
}
