using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>The invalidate extended transport header: the remote key a SEND with Invalidate ends.</summary>
public readonly record struct Ieth(uint RKey)
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 4;

    /// <summary>Reads the first <see cref="Size"/> bytes; false when there are fewer.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out Ieth header)
    {
        bool whole = BinaryPrimitives.TryReadUInt32BigEndian(bytes, out uint key);
        header = new Ieth(key);
        return whole;
    }

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination) => BinaryPrimitives.WriteUInt32BigEndian(destination, RKey);
}
