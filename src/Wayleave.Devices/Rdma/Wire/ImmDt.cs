using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// Immediate data: 32 bits handed to the consumer. <paramref name="Value"/> is the number whose big-endian form is on
/// the wire.
/// </summary>
public readonly record struct ImmDt(uint Value)
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 4;

    /// <summary>Reads the first <see cref="Size"/> bytes; false when there are fewer.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out ImmDt header)
    {
        bool whole = BinaryPrimitives.TryReadUInt32BigEndian(bytes, out uint value);
        header = new ImmDt(value);
        return whole;
    }

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination) => BinaryPrimitives.WriteUInt32BigEndian(destination, Value);
}
