using System.Buffers.Binary;

namespace Wayleave.Host.Perftest;

/// <summary>
/// Bytes that a side of perftest sends so that the other, if it is one of ours, can tell whether they arrived: they
/// follow from the numbers of the sending queue pair, which both know.
/// </summary>
internal static class PerftestPattern
{
    /// <summary>Fills from the start.</summary>
    public static void Fill(Span<byte> bytes, in PerftestKeys sender)
    {
        Span<byte> word = stackalloc byte[sizeof(ulong)];
        ulong seed = SeedOf(sender);
        for (int at = 0; at < bytes.Length; at += word.Length)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(word, WordAt(seed, at));
            word[..Math.Min(word.Length, bytes.Length - at)].CopyTo(bytes[at..]);
        }
    }

    /// <summary>Whether all of it is what <see cref="Fill"/> writes.</summary>
    public static bool Matches(ReadOnlySpan<byte> bytes, in PerftestKeys sender)
    {
        Span<byte> word = stackalloc byte[sizeof(ulong)];
        ulong seed = SeedOf(sender);
        for (int at = 0; at < bytes.Length; at += word.Length)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(word, WordAt(seed, at));
            int length = Math.Min(word.Length, bytes.Length - at);
            if (!bytes.Slice(at, length).SequenceEqual(word[..length]))
            {
                return false;
            }
        }

        return true;
    }

    private static ulong SeedOf(in PerftestKeys sender) => (ulong)sender.QpNumber << 24 | sender.Psn;

    // The output function of SplitMix64 (Steele and others, 2014).
    private static ulong WordAt(ulong seed, int at)
    {
        ulong z = seed + (ulong)at * 0x9E37_79B9_7F4A_7C15;
        z = (z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9;
        z = (z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB;
        return z ^ (z >> 31);
    }
}
