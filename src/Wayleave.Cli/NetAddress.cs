using System.CommandLine.Parsing;
using System.Globalization;
using System.Net;

namespace Wayleave.Cli;

/// <summary>A TCP address as people type it: <c>10.0.0.1:7480</c>, <c>[fd00::1]:7480</c>, <c>:7480</c>.</summary>
/// <param name="Address">Null when only a port was given.</param>
/// <param name="Port">1 to 65535.</param>
internal sealed record NetAddress(string? Address, int Port)
{
    /// <summary>Reads an argument or an option.</summary>
    public static NetAddress? Read(ArgumentResult result, string name, bool needsAddress)
    {
        string text = result.Tokens[0].Value;
        if (TryParse(text, out NetAddress? address) && !(needsAddress && address!.Address is null))
        {
            return address;
        }

        result.AddError($"{name}: '{text}' is not an address with its port: 10.0.0.1:7480, [fd00::1]:7480");
        return null;
    }

    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture,
        $"{(Address?.Contains(':', StringComparison.Ordinal) == true ? $"[{Address}]" : Address)}:{Port}");

    private static bool TryParse(string text, out NetAddress? address)
    {
        address = null;
        int colon = text.LastIndexOf(':');
        if (colon < 0
            || !int.TryParse(text.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out int port)
            || port is < 1 or > 65535)
        {
            return false;
        }

        string host = text[..colon];
        bool isBracketed = host.StartsWith('[') && host.EndsWith(']');
        host = isBracketed ? host[1..^1] : host;
        bool isIPv6 = host.Contains(':', StringComparison.Ordinal);
        if (isIPv6 != isBracketed || (host.Length > 0 && !IPAddress.TryParse(host, out _)))
        {
            return false;
        }

        address = new NetAddress(host.Length == 0 ? null : host, port);
        return true;
    }
}
