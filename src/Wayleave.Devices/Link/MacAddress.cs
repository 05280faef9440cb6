using System.Buffers.Binary;
using System.Globalization;

namespace Wayleave.Devices.Link;

/// <summary>
/// An Ethernet address; <paramref name="Value"/> holds its six bytes as the low 48 bits, first byte highest.
/// </summary>
public readonly record struct MacAddress(ulong Value)
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 6;

    /// <summary>All stations: <c>ff:ff:ff:ff:ff:ff</c>.</summary>
    public static MacAddress Broadcast => new(0xFFFF_FFFF_FFFF);

    /// <summary>A group address, <see cref="Broadcast"/> included: never the source of a frame.</summary>
    public bool IsMulticast => (Value >> 40 & 1) != 0;

    /// <summary>Reads the first <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Fewer bytes than that.</exception>
    public static MacAddress FromBytes(ReadOnlySpan<byte> bytes) =>
        new((ulong)BinaryPrimitives.ReadUInt16BigEndian(bytes) << 32
            | BinaryPrimitives.ReadUInt32BigEndian(bytes[2..]));

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt16BigEndian(destination, (ushort)(Value >> 32));
        BinaryPrimitives.WriteUInt32BigEndian(destination[2..], (uint)Value);
    }

    /// <summary>Parses six hexadecimal bytes with colons, two digits each.</summary>
    public static bool TryParse(ReadOnlySpan<char> text, out MacAddress address)
    {
        address = default;
        if (text.Length != (3 * Size) - 1)
        {
            return false;
        }

        ulong value = 0;
        for (int i = 0; i < Size; i++)
        {
            ReadOnlySpan<char> octet = text.Slice(3 * i, 2);
            if ((i > 0 && text[(3 * i) - 1] != ':')
                || !byte.TryParse(octet, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out byte part))
            {
                return false;
            }

            value = value << 8 | part;
        }

        address = new MacAddress(value);
        return true;
    }

    /// <summary>Six hexadecimal bytes with colons.</summary>
    public override string ToString()
    {
        Span<byte> bytes = stackalloc byte[Size];
        WriteTo(bytes);
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{bytes[0]:x2}:{bytes[1]:x2}:{bytes[2]:x2}:{bytes[3]:x2}:{bytes[4]:x2}:{bytes[5]:x2}");
    }
}
