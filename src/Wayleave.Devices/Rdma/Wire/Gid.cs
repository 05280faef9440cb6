using System.Buffers.Binary;
using System.Globalization;
using System.Net;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The <c>union ibv_gid</c> of verbs: 128 bits that name a port. A RoCEv2 GID is an IP address; an IPv4 address a.b.c.d
/// is <c>::ffff:a.b.c.d</c>. <paramref name="High"/> holds the first eight bytes on the wire, most significant first.
/// </summary>
public readonly record struct Gid(ulong High, ulong Low)
{
    /// <summary>Bytes of a GID, and of an IPv6 address.</summary>
    public const int Size = 16;

    private const ulong MappedPrefix = 0xFFFFUL << 32;

    /// <summary>
    /// Whether packets to this GID travel over IPv4 (RoCEv2: the GID is an IPv4-mapped IPv6 address).
    /// </summary>
    public bool IsIPv4 => High == 0 && Low >> 32 == 0xFFFF;

    /// <summary>
    /// Whether it names a group and no port: 224.0.0.0/4 mapped (RoCEv2 annex A17.9.1), or ff00::/8. What RoCEv1 makes
    /// of an IPv4 group, ff0e::ffff:a.b.c.d, is a group of IPv6 here.
    /// </summary>
    public bool IsMulticast => IsIPv4 ? IPv4 >> 28 == 0xE : High >> 56 == 0xFF;

    /// <summary>The IPv4 address, a.b.c.d as 0xaabbccdd. Meaningless unless <see cref="IsIPv4"/>.</summary>
    public uint IPv4 => (uint)Low;

    /// <summary>The GID of the IPv4 address a.b.c.d, given as 0xaabbccdd.</summary>
    public static Gid FromIPv4(uint address) => new(0, MappedPrefix | address);

    /// <summary>Reads the first <see cref="Size"/> bytes, in network order.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Fewer bytes than that.</exception>
    public static Gid FromBytes(ReadOnlySpan<byte> bytes) =>
        new(BinaryPrimitives.ReadUInt64BigEndian(bytes), BinaryPrimitives.ReadUInt64BigEndian(bytes[8..]));

    /// <summary>
    /// Parses the text of an IPv4 or IPv6 address. Strict: four decimal octets, or an IPv6 address without brackets,
    /// prefix length or zone (a GID has no place for a zone).
    /// </summary>
    public static bool TryParse(ReadOnlySpan<char> text, out Gid gid)
    {
        gid = default;
        if (!text.Contains(':'))
        {
            return TryParseIPv4(text, out gid);
        }

        if (text.IndexOfAny('%', '[', '/') >= 0 || !IPAddress.TryParse(text, out IPAddress? address))
        {
            return false;
        }

        Span<byte> bytes = stackalloc byte[Size];
        address.TryWriteBytes(bytes, out _);
        gid = FromBytes(bytes);
        return true;
    }

    /// <summary>
    /// A locally administered Ethernet address made of the last four bytes, for captures of packets that never saw an
    /// Ethernet.
    /// </summary>
    public MacAddress ToMacAddress() => new(0x0200UL << 32 | (uint)Low);

    /// <summary>Writes <see cref="Size"/> bytes, in network order.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt64BigEndian(destination, High);
        BinaryPrimitives.WriteUInt64BigEndian(destination[8..], Low);
    }

    /// <summary>The address as <see cref="TryParse"/> reads it: dotted for IPv4, RFC 5952 for IPv6.</summary>
    public override string ToString()
    {
        if (IsIPv4)
        {
            return string.Create(
                CultureInfo.InvariantCulture,
                $"{(byte)(Low >> 24)}.{(byte)(Low >> 16)}.{(byte)(Low >> 8)}.{(byte)Low}");
        }

        Span<byte> bytes = stackalloc byte[Size];
        WriteTo(bytes);
        return new IPAddress(bytes).ToString();
    }

    private static bool TryParseIPv4(ReadOnlySpan<char> text, out Gid gid)
    {
        gid = default;
        uint address = 0;
        int octets = 0;
        foreach (Range range in text.Split('.'))
        {
            // "010.0.0.1" is octal to some readers and decimal to others, so nobody may write it.
            ReadOnlySpan<char> octet = text[range];
            if ((octet.Length > 1 && octet[0] == '0')
                || !byte.TryParse(octet, NumberStyles.None, CultureInfo.InvariantCulture, out byte value))
            {
                return false;
            }

            address = address << 8 | value;
            octets++;
        }

        gid = FromIPv4(address);
        return octets == 4;
    }
}
