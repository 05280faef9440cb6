using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The flush extended transport header (IBTA annex on memory placement extensions; <c>rxe_hdr.h: struct rxe_feth</c>).
/// The 26 reserved bits of <paramref name="Bits"/> are kept as read.
/// </summary>
public readonly record struct Feth(uint Bits)
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 4;

    /// <summary>Bit 0: make the data visible to all; bit 1: make it survive a power failure.</summary>
    public int PlacementType => (int)(Bits & 0xF);

    /// <summary>0: the range of the RETH; 1: the whole memory region, VA and length ignored.</summary>
    public int Selectivity => (int)(Bits >> 4) & 3;

    /// <summary>The header of those values, reserved bits zero.</summary>
    public static Feth Of(int placementType, int selectivity) =>
        new((uint)(selectivity & 3) << 4 | (uint)(placementType & 0xF));

    /// <summary>Reads the first <see cref="Size"/> bytes; false when there are fewer.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out Feth header)
    {
        bool whole = BinaryPrimitives.TryReadUInt32BigEndian(bytes, out uint bits);
        header = new Feth(bits);
        return whole;
    }

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination) => BinaryPrimitives.WriteUInt32BigEndian(destination, Bits);
}
