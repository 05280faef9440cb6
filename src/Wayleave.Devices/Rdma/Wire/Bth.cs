using System.Buffers.Binary;
using System.Runtime.CompilerServices;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The base transport header (IBTA vol. 1, 9.2), first in every packet. All 96 bits are kept, the reserved ones too, so
/// that a header that was read is written back unchanged. <c>new Bth()</c> has the default partition key and all else
/// zero.
/// </summary>
/// <remarks>
/// <code>
/// byte 0     1                2-3    4                5-7     8            9-11
///      op    SE M Pad(2) TVer(4)     P_Key  F B resv6   DestQP  A resv7      PSN
/// </code>
/// </remarks>
public readonly record struct Bth
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 12;

    /// <summary>The partition every port is a full member of.</summary>
    public const ushort DefaultPKey = 0xFFFF;

    // The header as three big-endian words: reading and writing it costs three moves.
    private readonly uint _word0;
    private readonly uint _word1;
    private readonly uint _word2;

    public Bth() => _word0 = DefaultPKey;

    private Bth(uint word0, uint word1, uint word2) => (_word0, _word1, _word2) = (word0, word1, word2);

    public Opcode Opcode
    {
        get => (Opcode)(_word0 >> 24);
        init => _word0 = Field(_word0, 24, 0xFF, (uint)value);
    }

    /// <summary>
    /// SE: the receiver raises an event if solicited events are armed. Meant on the last packet of a message only.
    /// </summary>
    public bool Solicited
    {
        get => (_word0 & 1u << 23) != 0;
        init => _word0 = Field(_word0, 23, 1, value ? 1u : 0);
    }

    /// <summary>M: path migration state. Ignored on receive.</summary>
    public bool MigrationRequest
    {
        get => (_word0 & 1u << 22) != 0;
        init => _word0 = Field(_word0, 22, 1, value ? 1u : 0);
    }

    /// <summary>Pad bytes behind the payload, 0 to 3. Higher bits of a value set here are lost.</summary>
    public int PadCount
    {
        get => (int)(_word0 >> 20) & 3;
        init => _word0 = Field(_word0, 20, 3, (uint)value);
    }

    /// <summary>TVer: zero, or the packet is dropped. Four bits.</summary>
    public int Version
    {
        get => (int)(_word0 >> 16) & 0xF;
        init => _word0 = Field(_word0, 16, 0xF, (uint)value);
    }

    /// <summary>Partition key: the low 15 bits name the partition, the top one a full member.</summary>
    public ushort PKey
    {
        get => (ushort)_word0;
        init => _word0 = Field(_word0, 0, 0xFFFF, value);
    }

    /// <summary>Byte 4: FECN, BECN and six reserved bits. Switches may change it: the ICRC covers it as ones.</summary>
    public byte CongestionByte
    {
        get => (byte)(_word1 >> 24);
        init => _word1 = Field(_word1, 24, 0xFF, value);
    }

    /// <summary>BECN: set in a congestion notification.</summary>
    public bool BackwardCongestion
    {
        get => (_word1 & 1u << 30) != 0;
        init => _word1 = Field(_word1, 30, 1, value ? 1u : 0);
    }

    /// <summary>24 bits; 0 is never valid, 1 is the connection manager's, 0xFFFFFF multicast.</summary>
    public uint DestQp
    {
        get => _word1 & Wire.Psn.Mask;
        init => _word1 = Field(_word1, 0, Wire.Psn.Mask, value);
    }

    /// <summary>A: the responder must acknowledge this packet.</summary>
    public bool AckRequest
    {
        get => _word2 >> 31 != 0;
        init => _word2 = Field(_word2, 31, 1, value ? 1u : 0);
    }

    /// <summary>The seven bits below AckReq: sent as zero, ignored, but covered by the ICRC as they are.</summary>
    public int Reserved7
    {
        get => (int)(_word2 >> 24) & 0x7F;
        init => _word2 = Field(_word2, 24, 0x7F, (uint)value);
    }

    /// <summary>Packet sequence number, 24 bits; see <see cref="Wire.Psn"/> for its arithmetic.</summary>
    public uint Psn
    {
        get => _word2 & Wire.Psn.Mask;
        init => _word2 = Field(_word2, 0, Wire.Psn.Mask, value);
    }

    /// <summary>
    /// Reads the first <see cref="Size"/> bytes; false when there are fewer. No field is judged here.
    /// </summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out Bth header)
    {
        if (bytes.Length < Size)
        {
            header = default;
            return false;
        }

        header = new Bth(
            BinaryPrimitives.ReadUInt32BigEndian(bytes),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[4..]),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[8..]));
        return true;
    }

    /// <summary>
    /// The first eight bytes as the ICRC covers them, byte 4 as ones, and the last four; little-endian. Without a look
    /// at what <see cref="WriteTo"/> has just written: a processor cannot forward two stores to one load.
    /// </summary>
    internal (ulong EightBytes, uint FourBytes) Covered =>
        (BinaryPrimitives.ReverseEndianness(_word0)
            | (ulong)BinaryPrimitives.ReverseEndianness(_word1 | 0xFFU << 24) << 32,
            BinaryPrimitives.ReverseEndianness(_word2));

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        destination = destination[..Size];
        BinaryPrimitives.WriteUInt32BigEndian(destination, _word0);
        BinaryPrimitives.WriteUInt32BigEndian(destination[4..], _word1);
        BinaryPrimitives.WriteUInt32BigEndian(destination[8..], _word2);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Field(uint word, int shift, uint mask, uint value) =>
        word & ~(mask << shift) | (value & mask) << shift;
}
