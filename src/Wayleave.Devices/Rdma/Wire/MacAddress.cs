using System.Buffers.Binary;
using System.Globalization;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// An Ethernet address; <paramref name="Value"/> holds its six bytes as the low 48 bits, first byte highest.
/// </summary>
public readonly record struct MacAddress(ulong Value)
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 6;

    /// <summary>
    /// A locally administered address made of the last four bytes of a GID, for captures of packets that never saw an
    /// Ethernet.
    /// </summary>
    public static MacAddress ForGid(Gid gid) => new(0x0200UL << 32 | (uint)gid.Low);

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
