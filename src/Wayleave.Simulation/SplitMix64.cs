using System.Buffers.Binary;
using Wayleave.Core;

namespace Wayleave.Simulation;

/// <summary>
/// SplitMix64 (Steele, Lea and Flood 2014): the same numbers for the same seed on every machine and every .NET, which
/// <see cref="Random"/> does not promise. Not for secrets. Not thread-safe.
/// </summary>
public sealed class SplitMix64(ulong seed) : IRandomChoice
{
    private ulong _state = seed;

    /// <summary>The next 64 bits.</summary>
    public ulong NextUInt64()
    {
        ulong z = _state += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }

    /// <summary>A number in [0, count); the bias is below count / 2^64.</summary>
    public int Next(int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        return (int)Math.BigMul(NextUInt64(), (ulong)count, out _);
    }

    /// <summary>
    /// Fills a buffer with the next numbers, little-endian. A length that is no multiple of eight uses the low bytes of
    /// one more number, so the content depends on how a stream is cut into calls unless the cuts are multiples of
    /// eight.
    /// </summary>
    public void Fill(Span<byte> destination)
    {
        while (destination.Length >= sizeof(ulong))
        {
            BinaryPrimitives.WriteUInt64LittleEndian(destination, NextUInt64());
            destination = destination[sizeof(ulong)..];
        }

        if (!destination.IsEmpty)
        {
            Span<byte> last = stackalloc byte[sizeof(ulong)];
            BinaryPrimitives.WriteUInt64LittleEndian(last, NextUInt64());
            last[..destination.Length].CopyTo(destination);
        }
    }
}
