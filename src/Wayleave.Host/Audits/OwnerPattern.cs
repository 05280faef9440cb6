using System.Buffers.Binary;

namespace Wayleave.Host.Audits;

/// <summary>
/// Bytes by which a new owner's memory is recognised: 64-bit words that depend on a seed and on their offset
/// (SplitMix64's output function). A word in the wrong place, or of another seed, does not match.
/// </summary>
public static class OwnerPattern
{
    private const int WordBytes = sizeof(ulong);

    /// <summary>
    /// Fills <paramref name="bytes"/>, which start at <paramref name="offset"/> of the pattern; the offset is a
    /// multiple of 8.
    /// </summary>
    public static void Fill(ulong seed, ulong offset, Span<byte> bytes)
    {
        Span<byte> last = stackalloc byte[WordBytes];
        for (int at = 0; at < bytes.Length; at += WordBytes)
        {
            ulong word = Word(seed, offset + (ulong)at);
            if (bytes.Length - at >= WordBytes)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(bytes[at..], word);
            }
            else
            {
                BinaryPrimitives.WriteUInt64LittleEndian(last, word);
                last[..(bytes.Length - at)].CopyTo(bytes[at..]);
            }
        }
    }

    /// <summary>How many bytes differ from the pattern: what somebody else wrote.</summary>
    public static long CountForeign(ulong seed, ulong offset, ReadOnlySpan<byte> bytes)
    {
        long count = 0;
        Span<byte> expected = stackalloc byte[4096];
        for (int at = 0; at < bytes.Length; at += expected.Length)
        {
            ReadOnlySpan<byte> part = bytes[at..Math.Min(bytes.Length, at + expected.Length)];
            Fill(seed, offset + (ulong)at, expected[..part.Length]);
            if (!part.SequenceEqual(expected[..part.Length]))
            {
                for (int i = 0; i < part.Length; i++)
                {
                    count += part[i] == expected[i] ? 0 : 1;
                }
            }
        }

        return count;
    }

    /// <summary>How many bytes stand in whole words that are the pattern's: what somebody could read.</summary>
    public static long CountMatching(ulong seed, ulong offset, ReadOnlySpan<byte> bytes)
    {
        long count = 0;
        for (int at = 0; at + WordBytes <= bytes.Length; at += WordBytes)
        {
            ulong word = BinaryPrimitives.ReadUInt64LittleEndian(bytes[at..]);
            count += word == Word(seed, offset + (ulong)at) ? WordBytes : 0;
        }

        return count;
    }

    private static ulong Word(ulong seed, ulong offset)
    {
        ulong z = seed + ((offset / WordBytes) + 1) * 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
}
