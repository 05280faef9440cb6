using System.Buffers.Binary;
using System.Numerics;

namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// SipHash-2-4 (Aumasson, Bernstein 2012), as Linux uses it for sequence numbers and SYN cookies: who does not know the
/// key cannot tell its output from chance.
/// </summary>
internal readonly struct SipHash
{
    /// <summary>Bytes of a key.</summary>
    public const int KeySize = 16;

    private readonly ulong _k0;
    private readonly ulong _k1;

    public SipHash(ReadOnlySpan<byte> key) => (_k0, _k1) =
        (BinaryPrimitives.ReadUInt64LittleEndian(key), BinaryPrimitives.ReadUInt64LittleEndian(key[8..KeySize]));

    /// <summary>The hash of a connection's two ends and two numbers more.</summary>
    public ulong Of(in TcpFlow flow, uint first, uint second)
    {
        Span<ulong> words =
        [
            flow.Local.High, flow.Local.Low, flow.Remote.High, flow.Remote.Low,
            ((ulong)flow.LocalPort << 48) | ((ulong)flow.RemotePort << 32) | first, second,
        ];
        return OfWords(words, length: 8 * words.Length);
    }

    /// <summary>The hash of bytes.</summary>
    public ulong Of(ReadOnlySpan<byte> bytes)
    {
        Span<ulong> words = stackalloc ulong[bytes.Length / 8];
        for (int i = 0; i < words.Length; i++)
        {
            words[i] = BinaryPrimitives.ReadUInt64LittleEndian(bytes[(8 * i)..]);
        }

        ulong last = 0;
        for (int i = 8 * words.Length; i < bytes.Length; i++)
        {
            last |= (ulong)bytes[i] << (8 * (i & 7));
        }

        return OfWords(words, bytes.Length, last);
    }

    private ulong OfWords(ReadOnlySpan<ulong> words, int length, ulong last = 0)
    {
        ulong v0 = _k0 ^ 0x736f6d6570736575, v1 = _k1 ^ 0x646f72616e646f6d;
        ulong v2 = _k0 ^ 0x6c7967656e657261, v3 = _k1 ^ 0x7465646279746573;
        foreach (ulong word in words)
        {
            v3 ^= word;
            Round(ref v0, ref v1, ref v2, ref v3);
            Round(ref v0, ref v1, ref v2, ref v3);
            v0 ^= word;
        }

        last |= (ulong)length << 56;
        v3 ^= last;
        Round(ref v0, ref v1, ref v2, ref v3);
        Round(ref v0, ref v1, ref v2, ref v3);
        v0 ^= last;
        v2 ^= 0xFF;
        for (int i = 0; i < 4; i++)
        {
            Round(ref v0, ref v1, ref v2, ref v3);
        }

        return v0 ^ v1 ^ v2 ^ v3;
    }

    private static void Round(ref ulong v0, ref ulong v1, ref ulong v2, ref ulong v3)
    {
        v0 += v1;
        v1 = BitOperations.RotateLeft(v1, 13) ^ v0;
        v0 = BitOperations.RotateLeft(v0, 32);
        v2 += v3;
        v3 = BitOperations.RotateLeft(v3, 16) ^ v2;
        v0 += v3;
        v3 = BitOperations.RotateLeft(v3, 21) ^ v0;
        v2 += v1;
        v1 = BitOperations.RotateLeft(v1, 17) ^ v2;
        v2 = BitOperations.RotateLeft(v2, 32);
    }
}
