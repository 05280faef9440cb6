namespace Wayleave.Devices.Ethernet;

/// <summary>
/// A contiguous piece of payload within one chunk (<c>skb_frag_t</c> over a <c>netmem_ref</c>). A value without
/// ownership: who keeps it keeps a reference of its chunk by <see cref="Retain"/>, and gives that back by
/// <see cref="Release"/>. Port token held by the caller.
/// </summary>
/// <param name="Pool">Which memory.</param>
/// <param name="Chunk">Index of the chunk.</param>
/// <param name="Offset">Of the first byte within the chunk.</param>
/// <param name="LengthBytes">Positive.</param>
public readonly record struct PayloadFragment(ChunkPool Pool, int Chunk, int Offset, int LengthBytes)
{
    /// <summary>Device memory: nobody here can look at the bytes (<c>skb_frags_readable</c> is false).</summary>
    public bool IsDevice => Pool.Kind == ChunkPoolKind.Device;

    /// <summary>
    /// Of the first byte, from the start of the pool's memory: for device memory, of the shared buffer.
    /// </summary>
    public ulong BufferOffset => ((ulong)Chunk * (ulong)Pool.ChunkBytes) + (ulong)Offset;

    /// <summary>
    /// The bytes, while a reference is held; false for device memory, whoever asks (copy, checksum, capture).
    /// </summary>
    public bool TryGetSpan(out ReadOnlySpan<byte> bytes)
    {
        bytes = IsDevice ? default : Pool.Bytes(Chunk, Offset, LengthBytes);
        return !IsDevice;
    }

    /// <summary>A part of the piece; no reference changes hands.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The part does not lie within the piece.</exception>
    public PayloadFragment Slice(int start, int lengthBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(start, LengthBytes);
        ArgumentOutOfRangeException.ThrowIfNegative(lengthBytes);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(lengthBytes, LengthBytes - start);
        return this with { Offset = Offset + start, LengthBytes = lengthBytes };
    }

    /// <summary>
    /// Whether <paramref name="next"/> starts where this ends, in the same chunk: the two are one piece, and one
    /// reference is enough.
    /// </summary>
    public bool IsFollowedBy(in PayloadFragment next) =>
        ReferenceEquals(Pool, next.Pool) && Chunk == next.Chunk && Offset + LengthBytes == next.Offset;

    /// <summary>One more holder.</summary>
    public void Retain() => Pool.Retain(Chunk);

    /// <summary>
    /// One holder less. The last one frees the chunk, and may end a binding that was given up: never with the host lock
    /// held.
    /// </summary>
    public void Release() => Pool.Release(Chunk);
}
