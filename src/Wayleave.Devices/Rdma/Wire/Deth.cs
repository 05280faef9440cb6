using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The datagram extended transport header: the right to reach a UD queue pair, and whom to answer.
/// <paramref name="SourceQp"/> has 24 bits; the byte before it is reserved and kept as read.
/// </summary>
public readonly record struct Deth(uint QKey, uint SourceQp, byte Reserved = 0)
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 8;

    /// <summary>Reads the first <see cref="Size"/> bytes; false when there are fewer.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out Deth header)
    {
        if (bytes.Length < Size)
        {
            header = default;
            return false;
        }

        uint word = BinaryPrimitives.ReadUInt32BigEndian(bytes[4..]);
        header = new Deth(BinaryPrimitives.ReadUInt32BigEndian(bytes), word & Psn.Mask, (byte)(word >> 24));
        return true;
    }

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        destination = destination[..Size];
        BinaryPrimitives.WriteUInt32BigEndian(destination, QKey);
        BinaryPrimitives.WriteUInt32BigEndian(destination[4..], (uint)Reserved << 24 | (SourceQp & Psn.Mask));
    }
}
