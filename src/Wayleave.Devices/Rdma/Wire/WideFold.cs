#if !NET10_0_OR_GREATER
namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// Folds with vectors that this framework has no instructions for: a loop that the edge has from elsewhere.
/// </summary>
/// <param name="register">Raw.</param>
/// <param name="source">At least <see cref="WideFolding.Minimum"/> bytes.</param>
/// <param name="destination">As long, and gets what was read; or empty.</param>
/// <param name="block">64 bytes that stand for what was fed, with a register of zero.</param>
/// <returns>How many bytes were fed.</returns>
public delegate int WideFold(uint register, ReadOnlySpan<byte> source, Span<byte> destination, Span<byte> block);

/// <summary>Which such loop is used, if any: of the process, as its processor is.</summary>
public static class WideFolding
{
    /// <summary>Shorter runs are not worth a call.</summary>
    public const int Minimum = 512;

    private const int BlockBytes = 64;
    private const int ProofBytes = 4 * Minimum;

    private static WideFold? s_fold;

    /// <summary>
    /// Uses a loop from now on, if it finds the checksum that this code finds without it. Before the first packet.
    /// </summary>
    /// <returns>False when it does not: then nothing changed.</returns>
    public static bool TryUse(WideFold fold)
    {
        ArgumentNullException.ThrowIfNull(fold);
        byte[] bytes = new byte[ProofBytes], copy = new byte[ProofBytes];
        uint state = 0x2545_F491;
        foreach (ref byte b in bytes.AsSpan())
        {
            state = (state * 1_103_515_245) + 12_345;
            b = (byte)(state >> 24);
        }

        for (int length = Minimum; length < ProofBytes; length += 97)
        {
            ReadOnlySpan<byte> part = bytes.AsSpan(length % 64, length - 64);
            if (part.Length < Minimum)
            {
                continue;
            }

            uint expected = Icrc.Append(Icrc.BestPath, state, part);
            ReadOnlySpan<byte> left = part;
            uint read = Feed(fold, state, ref left, default);
            left = part;
            uint copied = Feed(fold, state, ref left, copy);
            bool isRight = Icrc.Append(Icrc.BestPath, read, left) == expected && copied == read
                && copy.AsSpan(0, part.Length - left.Length).SequenceEqual(part[..^left.Length]);
            if (!isRight)
            {
                return false;
            }
        }

        s_fold = fold;
        return true;
    }

    /// <summary>Feeds what the loop takes of a run; the rest is the caller's.</summary>
    /// <param name="register">Raw.</param>
    /// <param name="source">Becomes what is left.</param>
    /// <param name="destination">Empty, or at least as long: gets the bytes that were fed.</param>
    internal static uint Feed(uint register, ref ReadOnlySpan<byte> source, Span<byte> destination) =>
        s_fold is { } fold && source.Length >= Minimum ? Feed(fold, register, ref source, destination) : register;

    private static uint Feed(WideFold fold, uint register, ref ReadOnlySpan<byte> source, Span<byte> destination)
    {
        Span<byte> block = stackalloc byte[BlockBytes];
        int fed = fold(register, source, destination, block);
        source = source[fed..];
        return fed == 0 ? register : Icrc.Append(Icrc.BestPath, 0, block);
    }
}
#endif
