using System.Buffers.Binary;

namespace Wayleave.Devices.Ethernet;

/// <summary>Consecutive tokens to return (<c>struct dmabuf_token</c>).</summary>
/// <param name="Start">The first.</param>
/// <param name="Count">How many; zero names none.</param>
public readonly record struct TokenRange(uint Start, uint Count)
{
    /// <summary>Bytes of one range as an option value.</summary>
    public const int Size = 8;

    /// <summary>Most ranges of one return (<c>MAX_DONTNEED_TOKENS</c>).</summary>
    public const int RangesMax = 128;

    /// <summary>Most tokens that one return looks at (<c>MAX_DONTNEED_FRAGS</c>), known or not.</summary>
    public const int TokensMax = 1024;

    /// <summary>Reads one range in the machine's byte order, as a process passes it.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Fewer than <see cref="Size"/> bytes.</exception>
    public static TokenRange Read(ReadOnlySpan<byte> bytes) =>
        new(BinaryPrimitives.ReadUInt32LittleEndian(bytes), BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]));
}
