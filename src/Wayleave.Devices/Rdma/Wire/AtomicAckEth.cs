using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>The atomic acknowledge header: the value the memory held before the operation.</summary>
public readonly record struct AtomicAckEth(ulong Original)
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 8;

    /// <summary>Reads the first <see cref="Size"/> bytes; false when there are fewer.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out AtomicAckEth header)
    {
        bool whole = BinaryPrimitives.TryReadUInt64BigEndian(bytes, out ulong original);
        header = new AtomicAckEth(original);
        return whole;
    }

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination) => BinaryPrimitives.WriteUInt64BigEndian(destination, Original);
}
