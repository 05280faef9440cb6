using System.Buffers;
using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Host;

/// <summary>
/// The name of device memory: <c>wl://HOST[:PORT]/DEVICE/NAME</c>. HOST is a name, an IPv4 address or an IPv6 address
/// in brackets; PORT is the control port. A command that means less than an object takes a shorter form:
/// <c>wl://HOST</c>, <c>wl://HOST/DEVICE</c>.
/// </summary>
/// <remarks>
/// Strict, as the text decides what is overwritten: no user, query, fragment, percent-encoding, <c>.</c> or <c>..</c>.
/// </remarks>
public sealed record WlUrl
{
    /// <summary>The control port of a host that was not told another one.</summary>
    public const int DefaultPort = 7471;

    /// <summary>The longest name of a device or of an object, in characters.</summary>
    public const int NameLengthMax = 128;

    private const string Scheme = "wl://";

    private static readonly SearchValues<char> s_addressCharacters = SearchValues.Create("0123456789.");
    private static readonly SearchValues<char> s_nameCharacters =
        SearchValues.Create("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+");

    private WlUrl(string host, int port, string? device, string? name) =>
        (Host, Port, Device, Name) = (host, port, device, name);

    /// <summary>A name or an address, without brackets.</summary>
    public string Host { get; }

    public int Port { get; }

    /// <summary>The device, or null when the whole host is meant.</summary>
    public string? Device { get; }

    /// <summary>The object, or null when the device or the host is meant.</summary>
    public string? Name { get; }

    /// <summary>Whether <see cref="Device"/> and <see cref="Name"/> are there.</summary>
    public bool IsObject => Name is not null;

    /// <summary><c>DEVICE/NAME</c>, as the host itself calls the object. Only if <see cref="IsObject"/>.</summary>
    public string ObjectName => $"{Device}/{Name}";

    /// <summary>HOST:PORT, with brackets around an IPv6 address.</summary>
    public string Authority => FormatAuthority(Host, Port);

    /// <summary>Whether a text means device memory and not a local path; it may still be a malformed URL.</summary>
    public static bool HasScheme(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return text.StartsWith("wl:", StringComparison.OrdinalIgnoreCase);
    }

    /// <summary>The URL of an object, of a device (null name) or of a host (both null).</summary>
    /// <exception cref="ArgumentException">A part is malformed: see <see cref="TryParse"/>.</exception>
    public static WlUrl Create(string host, int port, string? device = null, string? name = null)
    {
        string text = Scheme + FormatAuthority(host, port) + FormatPath(device, name);
        return TryParse(text, out WlUrl? url, out string problem)
            ? url
            : throw new ArgumentException(problem, nameof(host));
    }

    /// <summary>Parses any of the forms.</summary>
    /// <param name="text">As the user typed it. A slash at the end is allowed after HOST and after DEVICE.</param>
    /// <param name="url">The result, or null.</param>
    /// <param name="problem">What is wrong and what would be right, or the empty string.</param>
    public static bool TryParse(
        string text, [NotNullWhen(true)] out WlUrl? url, out string problem)
    {
        ArgumentNullException.ThrowIfNull(text);
        url = null;
        if (!text.StartsWith(Scheme, StringComparison.Ordinal))
        {
            problem = "does not start with wl://; write wl://HOST[:PORT]/DEVICE/NAME";
            return false;
        }

        string[] parts = text[Scheme.Length..].Split('/');
        problem = ParseAuthority(parts[0], out string host, out int port) ?? "";
        bool endsWithSlash = parts.Length > 1 && parts[^1].Length == 0;
        string[] path = parts[1..^(endsWithSlash ? 1 : 0)];
        if (problem.Length == 0)
        {
            problem = path.Length > 2 ? "has more than DEVICE/NAME after the host; names do not contain '/'"
                : path.Length == 2 && endsWithSlash ? "ends with '/' after the name; leave the last '/' out"
                : path.Select(DescribeProblemOfSegment).FirstOrDefault(p => p is not null) ?? "";
        }

        if (problem.Length != 0)
        {
            return false;
        }

        url = new WlUrl(host, port, path.ElementAtOrDefault(0), path.ElementAtOrDefault(1));
        return true;
    }

    /// <summary>Parses the URL of an object: DEVICE and NAME must be there.</summary>
    public static bool TryParseObject(
        string text, [NotNullWhen(true)] out WlUrl? url, out string problem)
    {
        if (!TryParse(text, out url, out problem))
        {
            return false;
        }

        if (!url.IsObject)
        {
            problem = url.Device is null
                ? "names no device and no object; write wl://HOST[:PORT]/DEVICE/NAME"
                : "names no object; write wl://HOST[:PORT]/DEVICE/NAME";
            url = null;
        }

        return url is not null;
    }

    /// <summary>As <see cref="TryParse"/>.</summary>
    /// <exception cref="WayleaveException">EINVAL: the message says what is wrong.</exception>
    public static WlUrl Parse(string text) =>
        TryParse(text, out WlUrl? url, out string problem)
            ? url
            : throw new WayleaveException(Errno.EINVAL, text, problem);

    /// <summary>As <see cref="TryParseObject"/>.</summary>
    /// <exception cref="WayleaveException">EINVAL: the message says what is wrong.</exception>
    public static WlUrl ParseObject(string text) =>
        TryParseObject(text, out WlUrl? url, out string problem)
            ? url
            : throw new WayleaveException(Errno.EINVAL, text, problem);

    /// <summary>Why a text cannot be the name of a device or an object, or null if it can.</summary>
    /// <param name="name">The text.</param>
    /// <param name="what">What it would name: <c>device</c>.</param>
    public static string? DescribeProblemOfName(string name, string what)
    {
        ArgumentNullException.ThrowIfNull(name);
        if (name.Length == 0)
        {
            return $"the {what} name is empty";
        }

        if (name.Length > NameLengthMax)
        {
            return $"the {what} name has {name.Length} characters; at most {NameLengthMax} are allowed";
        }

        if (name.AsSpan().IndexOfAnyExcept(s_nameCharacters) is int at and >= 0)
        {
            return $"the {what} name contains {DescribeCharacter(name[at])}; letters, digits, '.', '_', '-' and '+' "
                + "are allowed";
        }

        // A name may become a file's name, and "-x" would look like an option there.
        return name[0] is '.' or '-'
            ? $"the {what} name starts with '{name[0]}'; start it with a letter or a digit"
            : null;
    }

    /// <summary>The form that <see cref="Parse"/> reads back, with the port only where it is not the default.</summary>
    public override string ToString() =>
        Scheme + (Port == DefaultPort ? FormatHost(Host) : Authority) + FormatPath(Device, Name);

    private static string FormatPath(string? device, string? name) =>
        (device is null ? "" : "/" + device) + (name is null ? "" : "/" + name);

    private static string FormatHost(string host) => host.Contains(':', StringComparison.Ordinal) ? $"[{host}]" : host;

    private static string FormatAuthority(string host, int port) =>
        string.Create(CultureInfo.InvariantCulture, $"{FormatHost(host)}:{port}");

    private static string? ParseAuthority(string text, out string host, out int port)
    {
        (host, port) = ("", DefaultPort);
        if (text.Length == 0)
        {
            return "names no host; write wl://HOST[:PORT]/DEVICE/NAME";
        }

        if (text.Contains('@', StringComparison.Ordinal))
        {
            return "has a user name; give a token by --token-file or WAYLEAVE_TOKEN instead";
        }

        string rest;
        if (text[0] == '[')
        {
            int end = text.IndexOf(']', StringComparison.Ordinal);
            if (end < 0)
            {
                return "has '[' without ']'; write an IPv6 address as [::1]";
            }

            (host, rest) = (text[1..end], text[(end + 1)..]);
            if (host.Contains('%', StringComparison.Ordinal)
                || !IPAddress.TryParse(host, out IPAddress? address)
                || address.AddressFamily != AddressFamily.InterNetworkV6)
            {
                return $"'{host}' is not an IPv6 address";
            }

            host = address.ToString();
        }
        else
        {
            if (text.Count(c => c == ':') > 1)
            {
                return "has an IPv6 address without brackets; write it as [::1]";
            }

            int colon = text.IndexOf(':', StringComparison.Ordinal);
            (host, rest) = colon < 0 ? (text, "") : (text[..colon], text[colon..]);
            if (DescribeProblemOfHost(host) is string problem)
            {
                return problem;
            }
        }

        if (rest.Length == 0)
        {
            return null;
        }

        if (rest[0] != ':')
        {
            return $"has '{rest}' after the address; write [ADDRESS]:PORT";
        }

        return ushort.TryParse(rest.AsSpan(1), NumberStyles.None, CultureInfo.InvariantCulture, out ushort number)
            && (port = number) != 0
            ? null
            : $"'{rest[1..]}' is not a port; ports are 1 to 65535";
    }

    private static string? DescribeProblemOfSegment(string segment, int index) =>
        DescribeProblemOfName(segment, index == 0 ? "device" : "object");

    private static string? DescribeProblemOfHost(string host)
    {
        if (host.Length == 0)
        {
            return "names no host before the port; write wl://HOST[:PORT]/DEVICE/NAME";
        }

        // Digits and dots are an address or a mistake: "127.1" and "0177.0.0.1" mean different machines to different
        // readers.
        if (host.AsSpan().IndexOfAnyExcept(s_addressCharacters) < 0)
        {
            return Gid.TryParse(host, out _) ? null : $"'{host}' is not an IPv4 address (four numbers of 0 to 255)";
        }

        foreach (char c in host)
        {
            if (!char.IsAsciiLetterOrDigit(c) && c is not ('-' or '.' or '_'))
            {
                return $"the host name contains {DescribeCharacter(c)}";
            }
        }

        return host.Length <= 253 ? null : "the host name is longer than 253 characters";
    }

    private static string DescribeCharacter(char c) =>
        c is >= ' ' and <= '~' ? $"'{c}'" : string.Create(CultureInfo.InvariantCulture, $"U+{(int)c:X4}");
}
