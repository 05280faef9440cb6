using System.Buffers;
using System.Globalization;
using System.Text;

namespace Wayleave.Host.Perftest;

/// <summary>
/// The version that perftest's sides tell each other first: 16 bytes of text with zeros behind. It decides what else is
/// exchanged.
/// </summary>
public static class PerftestVersion
{
    /// <summary>Bytes of the message.</summary>
    public const int TextBytes = 16;

    /// <summary>
    /// What we say. From 6.28 on two sides also exchange a C struct of the machine's own layout; with this answer they
    /// do not.
    /// </summary>
    public const string Own = "6.24";

    /// <summary>Older ones exchange less, and perftest refuses them too.</summary>
    public const double Oldest = 5.70;

    private static readonly SearchValues<byte> s_characters = SearchValues.Create(".0123456789"u8);

    // What a later major version would exchange nobody knows.
    private const double NextMajor = 7;

    /// <summary>Writes <see cref="TextBytes"/> bytes.</summary>
    public static void Write(Span<byte> destination)
    {
        destination[..TextBytes].Clear();
        Encoding.ASCII.GetBytes(Own, destination);
    }

    /// <summary>Reads what a peer says: digits, a point, digits.</summary>
    /// <param name="text">16 bytes.</param>
    /// <param name="version">As perftest compares it: 6.06 is less than 6.1.</param>
    /// <returns>False for a text that is no version, or one whose exchange is not known here.</returns>
    public static bool TryParse(ReadOnlySpan<byte> text, out double version)
    {
        version = 0;
        int end = text.IndexOf((byte)0);
        if (text.Length != TextBytes || end < 1 || text[..end].IndexOfAnyExcept(s_characters) >= 0)
        {
            return false;
        }

        bool isNumber = double.TryParse(
            text[..end], NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out version);
        return isNumber && version is >= Oldest and < NextMajor;
    }

    /// <summary>What a peer said, for a message: at most 16 characters, none of which a terminal obeys.</summary>
    public static string Describe(ReadOnlySpan<byte> text)
    {
        int end = text.IndexOf((byte)0);
        StringBuilder words = new();
        foreach (byte b in end < 0 ? text : text[..end])
        {
            words.Append(b is > 0x20 and < 0x7F ? (char)b : '?');
        }

        return words.ToString();
    }
}
