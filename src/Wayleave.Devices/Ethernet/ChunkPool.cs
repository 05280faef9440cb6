namespace Wayleave.Devices.Ethernet;

/// <summary>What the chunks of a pool are made of.</summary>
public enum ChunkPoolKind
{
    /// <summary>Host memory of the NIC, for queues that are bound to nothing.</summary>
    Host,

    /// <summary>
    /// Host memory for payload of bound queues that could not go where it should (<c>SCM_DEVMEM_LINEAR</c>).
    /// </summary>
    Fallback,

    /// <summary>Memory of a binding: nobody here can look at the bytes.</summary>
    Device,
}

//   free --TryAllocate--> 1 reference --Retain--> n --Release--> ... --Release--> free
//
// References are held by ring entries, by reassembly and receive queues, by tokens, and one by the queue that still
// fills the chunk. Under the port token, so plain numbers do.

/// <summary>
/// Chunks of one size that payload is placed in (a <c>page_pool</c> over <c>net_iov</c>s; <c>net/core/devmem.c</c>).
/// The chunk that was freed last is used first: it may still be in a cache. Port token held by the caller.
/// </summary>
public sealed class ChunkPool
{
    private readonly int[] _references;
    private readonly int[] _free; // a stack
    private readonly Memory<byte> _memory;

    internal ChunkPool(ChunkPoolKind kind, Memory<byte> memory, int chunkBytes)
        : this(kind, memory.Length / chunkBytes, chunkBytes) => _memory = memory;

    internal ChunkPool(MemoryBinding binding, int chunkCount, int chunkBytes)
        : this(ChunkPoolKind.Device, chunkCount, chunkBytes) => Binding = binding;

    private ChunkPool(ChunkPoolKind kind, int chunkCount, int chunkBytes)
    {
        (Kind, ChunkBytes, FreeChunks) = (kind, chunkBytes, chunkCount);
        _references = new int[chunkCount];
        _free = new int[chunkCount];
        for (int i = 0; i < chunkCount; i++)
        {
            _free[i] = chunkCount - 1 - i; // the first chunk is used first
        }
    }

    public ChunkPoolKind Kind { get; }

    /// <summary>Whose memory; null for host memory.</summary>
    public MemoryBinding? Binding { get; }

    public int ChunkBytes { get; }

    public int ChunkCount => _free.Length;

    public int FreeChunks { get; private set; }

    /// <summary>Chunks that somebody holds a reference to.</summary>
    public int LiveChunks => ChunkCount - FreeChunks;

    /// <summary>Times that no chunk was free.</summary>
    public long AllocationFailures { get; internal set; }

    /// <summary>
    /// Less than a quarter was free, and a chunk has come back: who holds senders back for want of room looks again.
    /// </summary>
    internal bool HasRoomAgain { get; set; }

    private bool IsLow => 4L * FreeChunks < ChunkCount;

    /// <summary>A free chunk, with one reference, which is the caller's.</summary>
    internal bool TryAllocate(out int chunk)
    {
        if (FreeChunks == 0)
        {
            AllocationFailures++;
            chunk = -1;
            return false;
        }

        chunk = _free[--FreeChunks];
        _references[chunk] = 1;
        return true;
    }

    /// <summary>The chunk that the next allocation but <paramref name="index"/> brings.</summary>
    internal int PeekFree(int index) => _free[FreeChunks - 1 - index];

    internal void Retain(int chunk)
    {
        if (_references[chunk] <= 0)
        {
            throw new InvalidOperationException($"chunk {chunk} is free and cannot be retained");
        }

        _references[chunk]++;
    }

    internal void Release(int chunk)
    {
        int left = --_references[chunk];
        if (left > 0)
        {
            return;
        }

        if (left < 0)
        {
            _references[chunk] = 0;
            throw new InvalidOperationException($"chunk {chunk} was released more often than retained");
        }

        HasRoomAgain |= IsLow;
        _free[FreeChunks++] = chunk;
        if (FreeChunks == ChunkCount)
        {
            Binding?.HandleAllChunksFree();
        }
    }

    /// <summary>The bytes of a piece of host memory.</summary>
    internal Span<byte> Bytes(int chunk, int offset, int lengthBytes) =>
        _memory.Span.Slice((chunk * ChunkBytes) + offset, lengthBytes);

    /// <summary>How many references a chunk has, for tests.</summary>
    internal int ReferencesOf(int chunk) => _references[chunk];
}
