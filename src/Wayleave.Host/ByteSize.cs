using System.Buffers;
using System.Globalization;

namespace Wayleave.Host;

/// <summary>
/// Sizes as people write them, by the rules of GNU coreutils: <c>64K</c> and <c>64KiB</c> are 65536, <c>64kB</c> is
/// 64000, a bare number is bytes. Also K, M, G, T in either case, and fractions that come out whole (<c>1.5G</c>).
/// </summary>
public static class ByteSize
{
    private static readonly SearchValues<char> s_digits = SearchValues.Create("0123456789.");
    private static readonly string[] s_units = ["B", "KiB", "MiB", "GiB", "TiB"];

    /// <summary>What to tell a user whose size was not understood.</summary>
    public const string Forms = "a size such as 64MiB, 1G or 4096";

    /// <summary>Parses a size in bytes. Refuses signs, blanks and whatever does not fit a <see cref="long"/>.</summary>
    public static bool TryParse(ReadOnlySpan<char> text, out long bytes)
    {
        bytes = 0;
        int digits = text.IndexOfAnyExcept(s_digits);
        ReadOnlySpan<char> number = digits < 0 ? text : text[..digits];
        ReadOnlySpan<char> unit = digits < 0 ? [] : text[digits..];
        if (!TryGetUnit(unit, out long factor)
            || !decimal.TryParse(
                number, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out decimal value)
            || value > long.MaxValue / factor)
        {
            return false;
        }

        decimal product = value * factor;
        bytes = (long)product;
        return bytes == product;
    }

    /// <summary>
    /// For people, with three significant digits and binary units: <c>1.50 GiB</c>, <c>64.0 MiB</c>, <c>17 B</c>.
    /// </summary>
    public static string Format(double bytes)
    {
        int unit = 0;
        double value = bytes;
        while (Math.Abs(value) >= 999.5 && unit < s_units.Length - 1)
        {
            value /= 1024;
            unit++;
        }

        int decimals = unit == 0 || Math.Abs(value) >= 99.95 ? 0 : Math.Abs(value) >= 9.995 ? 1 : 2;
        return value.ToString("F" + decimals, CultureInfo.InvariantCulture) + " " + s_units[unit];
    }

    /// <summary>
    /// The shortest text that <see cref="TryParse"/> reads back as the same number: <c>64MiB</c>, <c>4097</c>.
    /// </summary>
    public static string ToText(long bytes)
    {
        int unit = 0;
        while (bytes != 0 && bytes % 1024 == 0 && unit < s_units.Length - 1)
        {
            bytes /= 1024;
            unit++;
        }

        return bytes.ToString(CultureInfo.InvariantCulture) + (unit == 0 ? "" : s_units[unit]);
    }

    private static bool TryGetUnit(ReadOnlySpan<char> unit, out long factor)
    {
        factor = 1;
        if (unit.IsEmpty || unit is "B")
        {
            return true;
        }

        int power = "KMGT".IndexOf(char.ToUpperInvariant(unit[0]), StringComparison.Ordinal) + 1;
        ReadOnlySpan<char> rest = unit[1..];
        bool isBinary = rest.IsEmpty || rest.Equals("iB", StringComparison.OrdinalIgnoreCase);
        if (power == 0 || (!isBinary && !rest.Equals("B", StringComparison.OrdinalIgnoreCase)))
        {
            return false;
        }

        for (int i = 0; i < power; i++)
        {
            factor *= isBinary ? 1024 : 1000;
        }

        return true;
    }
}
