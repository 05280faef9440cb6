using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// CRC-32 eight bytes at a time from tables ("slicing by 8", Kounavis and Berry 2005), for short runs and for
/// processors without a carry-less multiplication. The register is the reflected one, before the final inversion.
/// </summary>
internal static class CrcTable
{
    /// <summary>
    /// x^32+x^26+x^23+x^22+x^16+x^12+x^11+x^10+x^8+x^7+x^5+x^4+x^2+x+1, reflected: bit 31 is the coefficient of 1.
    /// </summary>
    public const uint Polynomial = 0xEDB8_8320;

    private const int Slices = 8;

    // s_slices[256 * k + b]: what the byte b, followed by k zero bytes, leaves in a register that was zero.
    private static readonly uint[] s_slices = Build(Slices);

    /// <summary>Feeds <paramref name="bytes"/> into <paramref name="register"/>.</summary>
    public static uint Append(uint register, ReadOnlySpan<byte> bytes)
    {
        ref uint slices = ref MemoryMarshal.GetArrayDataReference(s_slices);
        while (bytes.Length >= 8)
        {
            register = AppendUInt64(register, BinaryPrimitives.ReadUInt64LittleEndian(bytes));
            bytes = bytes[8..];
        }

        if (bytes.Length >= 4)
        {
            register = AppendUInt32(register, BinaryPrimitives.ReadUInt32LittleEndian(bytes));
            bytes = bytes[4..];
        }

        foreach (byte b in bytes)
        {
            register = Unsafe.Add(ref slices, (byte)(register ^ b)) ^ register >> 8;
        }

        return register;
    }

    /// <summary>Feeds the eight bytes of a little-endian number.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint AppendUInt64(uint register, ulong eightBytes)
    {
        ref uint slices = ref MemoryMarshal.GetArrayDataReference(s_slices);
        eightBytes ^= register;
        return FourBytes(ref slices, 4, (uint)eightBytes) ^ FourBytes(ref slices, 0, (uint)(eightBytes >> 32));
    }

    /// <summary>Feeds the four bytes of a little-endian number.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint AppendUInt32(uint register, uint fourBytes) =>
        FourBytes(ref MemoryMarshal.GetArrayDataReference(s_slices), 0, fourBytes ^ register);

    /// <summary>
    /// What a 16-bit big-endian field leaves behind when it is followed by that many zero bytes. The CRC is linear: a
    /// field's value can be put into a finished register with an exclusive or.
    /// </summary>
    internal static uint[] FieldContributions(int followingBytes)
    {
        // High bytes first in the array, low bytes behind them.
        uint[] contributions = new uint[512];
        Span<byte> message = new byte[2 + followingBytes];
        for (int value = 0; value < 256; value++)
        {
            message[0] = (byte)value;
            contributions[value] = Append(0, message);
            message[0] = 0;
            message[1] = (byte)value;
            contributions[256 + value] = Append(0, message);
            message[1] = 0;
        }

        return contributions;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint FourBytes(ref uint slices, int followingBytes, uint word) =>
        Unsafe.Add(ref slices, (followingBytes + 3) * 256 + (byte)word)
        ^ Unsafe.Add(ref slices, (followingBytes + 2) * 256 + (byte)(word >> 8))
        ^ Unsafe.Add(ref slices, (followingBytes + 1) * 256 + (byte)(word >> 16))
        ^ Unsafe.Add(ref slices, followingBytes * 256 + (int)(word >> 24));

    private static uint[] Build(int count)
    {
        uint[] slices = new uint[256 * count];
        for (uint value = 0; value < 256; value++)
        {
            uint register = value;
            for (int bit = 0; bit < 8; bit++)
            {
                register = (register & 1) != 0 ? register >> 1 ^ Polynomial : register >> 1;
            }

            slices[value] = register;
        }

        for (int index = 256; index < slices.Length; index++)
        {
            uint before = slices[index - 256];
            slices[index] = slices[(byte)before] ^ before >> 8;
        }

        return slices;
    }
}
