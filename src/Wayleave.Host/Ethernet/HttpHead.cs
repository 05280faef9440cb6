using System.Globalization;
using System.Text;

namespace Wayleave.Host.Ethernet;

// Read first: RFC 9112, sections 2 to 6. As strict as it allows: no bare CR or LF, no folding, no blank before a colon.

/// <summary>The request line and the header fields of an HTTP/1.1 request, as far as an upload needs them.</summary>
/// <param name="Method">As sent: <c>PUT</c>.</param>
/// <param name="Target">The path without its first slash, unescaped.</param>
/// <param name="ContentLength">Null when it was not given.</param>
/// <param name="ExpectsContinue">The sender waits for 100 (Continue).</param>
internal sealed record HttpHead(string Method, string Target, ulong? ContentLength, bool ExpectsContinue)
{
    /// <summary>The longest request line with all header fields.</summary>
    public const int BytesMax = 16 << 10;

    private const string TokenSigns = "!#$%&'*+-.^_`|~";

    /// <summary>Where a head ends: behind its empty line. Negative while there is no end.</summary>
    public static int FindEnd(ReadOnlySpan<byte> bytes)
    {
        int end = bytes.IndexOf("\r\n\r\n"u8);
        return end < 0 ? -1 : end + 4;
    }

    /// <summary>Reads a head.</summary>
    /// <param name="bytes">Up to <see cref="FindEnd"/>.</param>
    /// <param name="defences">What is switched off in a test.</param>
    /// <param name="status">What to answer when this returns null.</param>
    /// <param name="problem">As above, in words.</param>
    public static HttpHead? TryParse(
        ReadOnlySpan<byte> bytes, HttpDefences defences, out int status, out string problem)
    {
        (status, problem) = (400, "the request is malformed");
        foreach (byte b in bytes)
        {
            if (b is > 126 or (< 32 and not (byte)'\r' and not (byte)'\n' and not (byte)'\t'))
            {
                problem = "the request has bytes that are not ASCII text";
                return null;
            }
        }

        string[] lines = Encoding.ASCII.GetString(bytes[..^4]).Split("\r\n");
        if (lines.Any(l => l.AsSpan().ContainsAny('\r', '\n'))
            || lines[0].Split(' ') is not [string method, string path, string version]
            || !IsToken(method))
        {
            return null;
        }

        if (version is not ("HTTP/1.1" or "HTTP/1.0"))
        {
            (status, problem) = (505, $"'{version}' is not HTTP/1.1");
            return null;
        }

        HttpHead head = new(method, "", null, ExpectsContinue: false);
        bool hasHost = version == "HTTP/1.0";
        foreach (string line in lines.AsSpan(1))
        {
            int colon = line.IndexOf(':', StringComparison.Ordinal);
            if (colon < 1 || !IsToken(line[..colon]))
            {
                problem = "a header field is malformed";
                return null;
            }

            string value = line[(colon + 1)..].Trim(' ', '\t');
            switch (line[..colon].ToLowerInvariant())
            {
                case "host":
                    hasHost = true;
                    break;
                case "content-length":
                    if ((head.ContentLength is not null && defences.RefusesAmbiguousLengths)
                        || !TryParseLength(value, out ulong length))
                    {
                        problem = "Content-Length is not one number";
                        return null;
                    }

                    head = head with { ContentLength = length };
                    break;
                case "transfer-encoding" when defences.RefusesAmbiguousLengths:
                    (status, problem) = (411, "the length must be known before: send a Content-Length");
                    return null;
                case "expect" when !value.Equals("100-continue", StringComparison.OrdinalIgnoreCase):
                    (status, problem) = (417, "only 100-continue can be expected");
                    return null;
                case "expect":
                    head = head with { ExpectsContinue = true };
                    break;
                case "content-encoding" or "content-range":
                    (status, problem) = (415, "the content must be whole and as it is");
                    return null;
                default:
                    break; // RFC 9110 5.1: what is unknown is ignored
            }
        }

        if (!hasHost)
        {
            problem = "there is no Host";
            return null;
        }

        if (!path.StartsWith('/') || !TryUnescape(path[1..], out string target))
        {
            problem = "the path is malformed";
            return null;
        }

        return head with { Target = target };
    }

    private static bool IsToken(string text) =>
        text.Length > 0
        && text.All(c => char.IsAsciiLetterOrDigit(c) || TokenSigns.Contains(c, StringComparison.Ordinal));

    private static bool TryParseLength(string text, out ulong length) =>
        ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out length);

    // Uri.UnescapeDataString leaves what is malformed as it is; here it is refused.
    private static bool TryUnescape(string text, out string unescaped)
    {
        unescaped = "";
        for (int i = 0; i < text.Length; i++)
        {
            if (text[i] == '%'
                && (i + 2 >= text.Length || !char.IsAsciiHexDigit(text[i + 1]) || !char.IsAsciiHexDigit(text[i + 2])))
            {
                return false;
            }
        }

        unescaped = Uri.UnescapeDataString(text);
        return true;
    }
}
