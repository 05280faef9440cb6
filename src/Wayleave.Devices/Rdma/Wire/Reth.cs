using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The RDMA extended transport header: where a WRITE, READ, FLUSH or ATOMIC WRITE goes. <paramref name="Length"/> is in
/// bytes and counts the whole message, not the packet; more than <see cref="LengthMax"/> is an invalid request.
/// </summary>
public readonly record struct Reth(ulong Va, uint RKey, uint Length)
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 16;

    /// <summary>The longest message, 2 GiB (IBTA vol. 1, 9.3.3).</summary>
    public const uint LengthMax = 1u << 31;

    /// <summary>Reads the first <see cref="Size"/> bytes; false when there are fewer.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out Reth header)
    {
        if (bytes.Length < Size)
        {
            header = default;
            return false;
        }

        header = new Reth(
            BinaryPrimitives.ReadUInt64BigEndian(bytes),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[8..]),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[12..]));
        return true;
    }

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        destination = destination[..Size];
        BinaryPrimitives.WriteUInt64BigEndian(destination, Va);
        BinaryPrimitives.WriteUInt32BigEndian(destination[8..], RKey);
        BinaryPrimitives.WriteUInt32BigEndian(destination[12..], Length);
    }
}
