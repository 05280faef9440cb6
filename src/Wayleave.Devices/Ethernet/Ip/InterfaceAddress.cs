using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Ip;

/// <summary>An address of the host and the network it is in.</summary>
/// <param name="Address">Not a group, not unspecified.</param>
/// <param name="PrefixLength">Bits, up to 32 or 128.</param>
public readonly record struct InterfaceAddress(IpAddress Address, int PrefixLength)
{
    /// <summary>Parses ADDRESS/BITS.</summary>
    public static bool TryParse(ReadOnlySpan<char> text, out InterfaceAddress address)
    {
        address = default;
        int slash = text.IndexOf('/');
        if (slash < 0
            || !IpAddress.TryParse(text[..slash], out IpAddress parsed)
            || !int.TryParse(text[(slash + 1)..], out int bits)
            || bits < 0
            || bits > (parsed.IsIPv4 ? 32 : 128))
        {
            return false;
        }

        address = new InterfaceAddress(parsed, bits);
        return true;
    }

    /// <summary>Whether another address is in the same network.</summary>
    public bool Contains(IpAddress other) => other.IsIPv4 == Address.IsIPv4
        && other.Matches(Address, Mask(Address.IsIPv4 ? PrefixLength + 96 : PrefixLength));

    /// <summary>The address to which all of an IPv4 network listen, 0xffffffff when there is none of its own.</summary>
    internal uint Broadcast =>
        PrefixLength >= 31 ? uint.MaxValue : Address.IPv4 | (uint)((1L << (32 - PrefixLength)) - 1);

    private static IpAddress Mask(int bits) => new(
        bits >= 64 ? ulong.MaxValue : bits == 0 ? 0 : ulong.MaxValue << (64 - bits),
        bits <= 64 ? 0 : ulong.MaxValue << (128 - bits));
}
