using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Host.Perftest;

/// <summary>
/// What one side of perftest tells the other about a queue pair (<c>struct pingpong_dest</c>): as text over TCP, as the
/// struct with big-endian fields over a queue pair.
/// </summary>
/// <param name="Lid">Local identifier; 0 on RoCE.</param>
/// <param name="OutstandingReads">READs and atomics that the sender of this answers at a time.</param>
/// <param name="QpNumber">24 bits.</param>
/// <param name="Psn">The first PSN that the sender of this sends, 24 bits. (rdma_cm's is the other.)</param>
/// <param name="RKey">Of the memory that the other side may use.</param>
/// <param name="Address">Where that begins.</param>
/// <param name="Gid">The address to send to.</param>
/// <param name="SharedReceiveNumber">Of XRC and DC; 0.</param>
public readonly record struct PerftestKeys(
    int Lid,
    int OutstandingReads,
    uint QpNumber,
    uint Psn,
    uint RKey,
    ulong Address,
    Gid Gid,
    uint SharedReceiveNumber)
{
    /// <summary>The text with its final zero.</summary>
    public const int TextBytes = 108;

    /// <summary>The struct of perftest up to 6.28.</summary>
    public const int BinaryBytes = 56;

    /// <summary>The struct of later ones: one more address before the GID, which is not read here.</summary>
    public const int BinaryBytesMax = 64;

    private const int NumberMask24 = 0xFF_FFFF;

    // Hexadecimal digits of each field: LID, reads, queue pair, PSN, key, address, sixteen bytes of GID, SRQ.
    private static ReadOnlySpan<byte> Widths => [4, 4, 6, 6, 8, 16, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 8];

    /// <summary>Writes <see cref="TextBytes"/> bytes.</summary>
    public void WriteText(Span<byte> destination)
    {
        StringBuilder text = new(TextBytes);
        text.Append(
            CultureInfo.InvariantCulture,
            $"{Lid & 0xFFFF:x4}:{OutstandingReads & 0xFFFF:x4}:{QpNumber & NumberMask24:x6}:{Psn & NumberMask24:x6}:");
        text.Append(CultureInfo.InvariantCulture, $"{RKey:x8}:{Address:x16}:");
        Span<byte> gid = stackalloc byte[Gid.Size];
        Gid.WriteTo(gid);
        foreach (byte b in gid)
        {
            text.Append(CultureInfo.InvariantCulture, $"{b:x2}:");
        }

        text.Append(CultureInfo.InvariantCulture, $"{SharedReceiveNumber:x8}:");
        Encoding.ASCII.GetBytes(text.ToString(), destination);
        destination[TextBytes - 1] = 0;
    }

    /// <summary>Reads <see cref="TextBytes"/> bytes. Strict: every digit and colon at its place.</summary>
    /// <param name="text">As received.</param>
    /// <param name="keys">Default unless true.</param>
    public static bool TryParseText(ReadOnlySpan<byte> text, out PerftestKeys keys)
    {
        keys = default;
        if (text.Length != TextBytes || text[^1] != 0)
        {
            return false;
        }

        Span<ulong> fields = stackalloc ulong[Widths.Length];
        int at = 0;
        for (int i = 0; i < fields.Length; i++)
        {
            ReadOnlySpan<byte> digits = text.Slice(at, Widths[i]);
            at += digits.Length;
            if (text[at++] != (byte)':' || !TryParseHex(digits, out fields[i]))
            {
                return false;
            }
        }

        Span<byte> gid = stackalloc byte[Gid.Size];
        for (int i = 0; i < gid.Length; i++)
        {
            gid[i] = (byte)fields[6 + i];
        }

        keys = new PerftestKeys(
            (int)fields[0],
            (int)fields[1],
            (uint)fields[2],
            (uint)fields[3],
            (uint)fields[4],
            fields[5],
            Gid.FromBytes(gid),
            (uint)fields[^1]);
        return true;
    }

    /// <summary>Writes <see cref="BinaryBytes"/> bytes.</summary>
    public void WriteBinary(Span<byte> destination)
    {
        destination = destination[..BinaryBytes];
        destination.Clear();
        BinaryPrimitives.WriteInt32BigEndian(destination, Lid);
        BinaryPrimitives.WriteInt32BigEndian(destination[4..], OutstandingReads);
        BinaryPrimitives.WriteUInt32BigEndian(destination[8..], QpNumber);
        BinaryPrimitives.WriteUInt32BigEndian(destination[12..], Psn);
        BinaryPrimitives.WriteUInt32BigEndian(destination[16..], RKey);
        BinaryPrimitives.WriteUInt64BigEndian(destination[24..], Address);
        Gid.WriteTo(destination[32..]);
        BinaryPrimitives.WriteUInt32BigEndian(destination[48..], SharedReceiveNumber);
    }

    /// <summary>Reads the struct of either length.</summary>
    public static bool TryParseBinary(ReadOnlySpan<byte> bytes, out PerftestKeys keys)
    {
        keys = default;
        if (bytes.Length is not (BinaryBytes or BinaryBytesMax))
        {
            return false;
        }

        int more = bytes.Length - BinaryBytes;
        keys = new PerftestKeys(
            BinaryPrimitives.ReadInt32BigEndian(bytes),
            BinaryPrimitives.ReadInt32BigEndian(bytes[4..]),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[8..]),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[12..]),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[16..]),
            BinaryPrimitives.ReadUInt64BigEndian(bytes[24..]),
            Gid.FromBytes(bytes[(32 + more)..]),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[(48 + more)..]));
        return true;
    }

    private static bool TryParseHex(ReadOnlySpan<byte> digits, out ulong value)
    {
        value = 0;
        foreach (byte digit in digits)
        {
            uint nibble = digit switch
            {
                >= (byte)'0' and <= (byte)'9' => (uint)digit - '0',
                >= (byte)'a' and <= (byte)'f' => (uint)digit - 'a' + 10,
                >= (byte)'A' and <= (byte)'F' => (uint)digit - 'A' + 10,
                _ => 16,
            };
            if (nibble == 16)
            {
                return false;
            }

            value = value << 4 | nibble;
        }

        return true;
    }
}
