using System.Buffers.Binary;
using System.Net;

namespace Wayleave.Devices.Ethernet.Wire;

/// <summary>
/// An IPv4 or IPv6 address as 128 bits, so that both travel through the same code; a.b.c.d is <c>::ffff:a.b.c.d</c>.
/// <paramref name="High"/> holds the first eight bytes on the wire, most significant first.
/// </summary>
public readonly record struct IpAddress(ulong High, ulong Low)
{
    /// <summary>Bytes of an IPv4 address.</summary>
    public const int IPv4Size = 4;

    /// <summary>Bytes of an IPv6 address.</summary>
    public const int IPv6Size = 16;

    private const ulong MappedPrefix = 0xFFFFUL << 32;

    public bool IsIPv4 => High == 0 && Low >> 32 == 0xFFFF;

    /// <summary>a.b.c.d as 0xaabbccdd. Meaningless unless <see cref="IsIPv4"/>.</summary>
    public uint IPv4 => (uint)Low;

    /// <summary>0.0.0.0 or <c>::</c>.</summary>
    public bool IsUnspecified => High == 0 && Low is 0 or MappedPrefix;

    /// <summary>127.0.0.0/8 or <c>::1</c>.</summary>
    public bool IsLoopback => IsIPv4 ? IPv4 >> 24 == 127 : High == 0 && Low == 1;

    /// <summary>224.0.0.0/4 or <c>ff00::/8</c>.</summary>
    public bool IsMulticast => IsIPv4 ? IPv4 >> 28 == 0xE : High >> 56 == 0xFF;

    /// <summary><c>fe80::/10</c>.</summary>
    public bool IsLinkLocal => High >> 54 == 0x3FA;

    /// <summary>
    /// Whether a packet may come from here: not a group, not 240.0.0.0/4 with its broadcast, not a loopback address. An
    /// unspecified one is a matter of the protocol.
    /// </summary>
    public bool CanBeSource => !IsMulticast && !IsLoopback && !(IsIPv4 && IPv4 >> 28 == 0xF);

    /// <summary>The address a.b.c.d, given as 0xaabbccdd.</summary>
    public static IpAddress FromIPv4(uint address) => new(0, MappedPrefix | address);

    /// <summary>Reads the first <see cref="IPv4Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Fewer bytes than that.</exception>
    public static IpAddress ReadIPv4(ReadOnlySpan<byte> bytes) =>
        FromIPv4(BinaryPrimitives.ReadUInt32BigEndian(bytes));

    /// <summary>Reads the first <see cref="IPv6Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Fewer bytes than that.</exception>
    public static IpAddress ReadIPv6(ReadOnlySpan<byte> bytes) =>
        new(BinaryPrimitives.ReadUInt64BigEndian(bytes), BinaryPrimitives.ReadUInt64BigEndian(bytes[8..]));

    /// <summary>Parses the text of an address, without brackets, prefix length or zone.</summary>
    public static bool TryParse(ReadOnlySpan<char> text, out IpAddress address)
    {
        address = default;
        bool isDotted = !text.Contains(':');
        if (text.IndexOfAny('%', '[', '/') >= 0
            || (isDotted && text.Count('.') != 3)
            || !IPAddress.TryParse(text, out IPAddress? parsed))
        {
            return false;
        }

        Span<byte> bytes = stackalloc byte[IPv6Size];
        parsed.TryWriteBytes(bytes, out _);
        address = isDotted ? ReadIPv4(bytes) : ReadIPv6(bytes);
        return true;
    }

    /// <summary>Whether the two agree in the bits that are set in <paramref name="mask"/>.</summary>
    public bool Matches(IpAddress other, IpAddress mask) =>
        ((High ^ other.High) & mask.High) == 0 && ((Low ^ other.Low) & mask.Low) == 0;

    /// <summary>
    /// Writes <see cref="IPv4Size"/> bytes of an IPv4 address, <see cref="IPv6Size"/> of any other, in network order.
    /// </summary>
    /// <returns>Bytes written.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public int WriteTo(Span<byte> destination)
    {
        if (IsIPv4)
        {
            BinaryPrimitives.WriteUInt32BigEndian(destination, IPv4);
            return IPv4Size;
        }

        BinaryPrimitives.WriteUInt64BigEndian(destination, High);
        BinaryPrimitives.WriteUInt64BigEndian(destination[8..], Low);
        return IPv6Size;
    }

    /// <summary>Dotted for IPv4, RFC 5952 for IPv6.</summary>
    public override string ToString()
    {
        Span<byte> bytes = stackalloc byte[IPv6Size];
        return new IPAddress(bytes[..WriteTo(bytes)]).ToString();
    }
}
