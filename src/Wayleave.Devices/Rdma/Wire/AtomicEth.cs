using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The atomic extended transport header of CmpSwap and FetchAdd. <paramref name="SwapOrAdd"/> is the new value or the
/// addend, <paramref name="Compare"/> is unused by FetchAdd. Values are numbers: big endian on the wire, host order in
/// memory.
/// </summary>
public readonly record struct AtomicEth(ulong Va, uint RKey, ulong SwapOrAdd, ulong Compare)
{
    /// <summary>Bytes on the wire; not a multiple of eight, so what follows is misaligned.</summary>
    public const int Size = 28;

    /// <summary>Reads the first <see cref="Size"/> bytes; false when there are fewer.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out AtomicEth header)
    {
        if (bytes.Length < Size)
        {
            header = default;
            return false;
        }

        header = new AtomicEth(
            BinaryPrimitives.ReadUInt64BigEndian(bytes),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[8..]),
            BinaryPrimitives.ReadUInt64BigEndian(bytes[12..]),
            BinaryPrimitives.ReadUInt64BigEndian(bytes[20..]));
        return true;
    }

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        destination = destination[..Size];
        BinaryPrimitives.WriteUInt64BigEndian(destination, Va);
        BinaryPrimitives.WriteUInt32BigEndian(destination[8..], RKey);
        BinaryPrimitives.WriteUInt64BigEndian(destination[12..], SwapOrAdd);
        BinaryPrimitives.WriteUInt64BigEndian(destination[20..], Compare);
    }
}
