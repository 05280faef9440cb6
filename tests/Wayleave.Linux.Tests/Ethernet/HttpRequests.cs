using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Wayleave.Simulation;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>
/// Requests as a hostile sender makes them, and what they mean by another reading of RFC 9112 than the receiver's: one
/// regular expression.
/// </summary>
internal static partial class HttpRequests
{
    private static readonly string[] s_lines =
    [
        "Host: x", "host:x", "Host : x", " Host: x", "Content-Length: 5", "Content-Length: 5", "Content-Length: 0",
        "Content-Length: +5", "Content-Length: 5, 5", "content-length:\t3 ", "Content-Length: 99999999999999999999999",
        "Content-Length: 123456789", "Transfer-Encoding: chunked", "Transfer-Encoding : chunked",
        "Expect: 100-continue", "Expect: 200-ok", "Content-Range: bytes 0-4/5", "Content-Encoding: gzip",
        "X: y", ": y", "X", "X: \u007f", "",
    ];

    private static readonly string[] s_firstLines =
    [
        "PUT /a HTTP/1.1", "PUT /b HTTP/1.1", "PUT /out HTTP/1.1", "PUT /a%2Db HTTP/1.1", "PUT /%6fut HTTP/1.1",
        "PUT /c HTTP/1.0", "GET /a HTTP/1.1", "PUT /../x HTTP/1.1", "PUT /a/b HTTP/1.1", "PUT / HTTP/1.1",
        "PUT /%zz HTTP/1.1", "PUT  /a HTTP/1.1", "PUT /a HTTP/2.0", "put /a HTTP/1.1", "PUT http://x/a HTTP/1.1",
        "PUT /nic0-rx2 HTTP/1.1", "PUT /-x HTTP/1.1", "PUT /a HTTP/1.1 ", "\tPUT /a HTTP/1.1",
    ];

    /// <summary>A request with its content, mostly one that nearly makes an object.</summary>
    public static byte[] Make(Choices choices)
    {
        StringBuilder text = new();
        int usual = choices.Next(3) > 0 ? 5 : s_firstLines.Length;
        text.Append(s_firstLines[choices.Next(usual)]).Append("\r\n");
        List<string> lines = choices.Next(3) > 0 ? ["Host: x", "Content-Length: 5"] : [];
        for (int extra = choices.Next(4) * choices.Next(2); extra > 0; extra--)
        {
            lines.Insert(choices.Next(lines.Count + 1), s_lines[choices.Next(s_lines.Length)]);
        }

        lines.ForEach(l => text.Append(l).Append("\r\n"));
        text.Append("\r\n");
        byte[] bytes = Encoding.Latin1.GetBytes(text.ToString() + "hello and more"[..(5 + choices.Next(10))]);
        for (int flips = choices.Next(2) * choices.Next(4); flips > 0; flips--)
        {
            bytes[choices.Next(bytes.Length)] = (byte)choices.Next(256);
        }

        return choices.Next(8) > 0 ? bytes : bytes[..choices.Next(bytes.Length + 1)];
    }

    /// <summary>What a head says; null where it says nothing that may be believed.</summary>
    /// <param name="head">With its empty line.</param>
    public static (string Method, string Target, ulong? Length)? Read(ReadOnlySpan<byte> head)
    {
        Match match = Whole().Match(Encoding.Latin1.GetString(head));
        if (!match.Success)
        {
            return null;
        }

        List<(string Name, string Value)> fields =
        [
            .. match.Groups["name"].Captures.Zip(
                match.Groups["value"].Captures,
                (n, v) => (n.Value.ToLowerInvariant(), v.Value.Trim(' ', '\t'))),
        ];
        string[] lengths = [.. fields.Where(f => f.Name == "content-length").Select(f => f.Value)];
        ulong length = 0;
        bool isClear = lengths.Length == 0 || (lengths.Length == 1
            && lengths[0].All(char.IsAsciiDigit)
            && ulong.TryParse(lengths[0], NumberStyles.None, CultureInfo.InvariantCulture, out length));
        bool isPlain = !fields.Exists(
            f => f.Name is "transfer-encoding" or "content-encoding" or "content-range"
                || (f.Name == "expect" && !f.Value.Equals("100-continue", StringComparison.OrdinalIgnoreCase)));
        bool hasHost = match.Groups["version"].Value == "0" || fields.Exists(f => f.Name == "host");
        return isClear && isPlain && hasHost
            ? (match.Groups["method"].Value,
                Uri.UnescapeDataString(match.Groups["path"].Value),
                lengths.Length == 0 ? null : length)
            : null;
    }

    [GeneratedRegex("""
        \A(?<method>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)\x20
        /(?<path>(?:[!-$&-~\t]|%[0-9A-Fa-f]{2})*)\x20HTTP/1\.(?<version>[01])\r\n
        (?:(?<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]+):(?<value>[\t\x20-\x7e]*)\r\n)*\r\n\z
        """, RegexOptions.IgnorePatternWhitespace | RegexOptions.CultureInvariant)]
    private static partial Regex Whole();
}
