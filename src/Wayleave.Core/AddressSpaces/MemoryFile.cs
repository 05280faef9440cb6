using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

public enum MemoryFileKind
{
    /// <summary>A file with a page cache; dirty pages are written back.</summary>
    Regular,

    /// <summary>
    /// Memory that processes share and no disk has (<c>shmem</c>, <c>MAP_SHARED | MAP_ANONYMOUS</c>): it goes to swap.
    /// </summary>
    SharedMemory,

    /// <summary>Persistent memory, mapped as it is.</summary>
    Dax,
}

/// <summary>
/// A file, as far as mappings see it: its pages, in memory or not (<c>struct address_space</c>). Host lock held by the
/// caller.
/// </summary>
public sealed class MemoryFile : IFrameSource
{
    private readonly MemorySystem _memory;
    private readonly Memory<byte> _content;
    private readonly DeviceAddress _address; // of the content, where devices find it; 0 where they do not
    private readonly Dictionary<ulong, PageFrame> _pages = [];
    private readonly Dictionary<ulong, long> _slots = [];

    private MemoryFile(
        MemorySystem memory,
        string name,
        MemoryFileKind kind,
        ulong lengthBytes,
        Memory<byte> content,
        DeviceAddress address = default)
    {
        memory.Host.AssertHeld();
        (_memory, Name, Kind, LengthBytes, _content, _address) = (memory, name, kind, lengthBytes, content, address);
    }

    public string Name { get; }

    public MemoryFileKind Kind { get; }

    /// <summary>A touch of a page that lies wholly behind it is a SIGBUS.</summary>
    public ulong LengthBytes { get; }

    /// <summary>
    /// Whether its file system must hear before a page is written (<c>vma_needs_dirty_tracking</c>): a long-term pin
    /// for writing would go behind its back.
    /// </summary>
    public bool TracksDirty => Kind == MemoryFileKind.Regular;

    /// <summary>Pages in memory.</summary>
    public int CachedPages => _pages.Count;

    internal bool IsSwapBacked => Kind == MemoryFileKind.SharedMemory;

    /// <summary>A file on a disk that holds <paramref name="content"/>, which write-back changes.</summary>
    public static MemoryFile OnDisk(MemorySystem memory, string name, Memory<byte> content)
    {
        ArgumentNullException.ThrowIfNull(memory);
        return new(memory, name, MemoryFileKind.Regular, (ulong)content.Length, content);
    }

    /// <summary>A file in persistent memory: <paramref name="content"/> is what processes map.</summary>
    /// <param name="memory">Of the machine.</param>
    /// <param name="name">For people.</param>
    /// <param name="content">Whole pages. Stays the caller's, who keeps it until no process maps the file.</param>
    /// <param name="address">Where devices reach it; 0 where they cannot.</param>
    public static MemoryFile InPersistentMemory(
        MemorySystem memory, string name, Memory<byte> content, DeviceAddress address = default)
    {
        ArgumentNullException.ThrowIfNull(memory);
        return new(memory, name, MemoryFileKind.Dax, (ulong)content.Length, content, address);
    }

    /// <summary>Zeroed memory to be shared.</summary>
    public static MemoryFile OfSharedMemory(MemorySystem memory, string name, ulong lengthBytes)
    {
        ArgumentNullException.ThrowIfNull(memory);
        return new(memory, name, MemoryFileKind.SharedMemory, lengthBytes, default);
    }

    /// <summary>
    /// Writes every dirty page back (<c>fsync</c>). Mappings stay writable, and what they write is new.
    /// </summary>
    public void WriteBack()
    {
        _memory.Host.AssertHeld();
        foreach (PageFrame frame in _pages.Values)
        {
            WriteBack(frame);
        }
    }

    PageFrame IFrameSource.PageBehind(PageFrame first, int index) =>
        throw new InvalidOperationException("a page of a file is in no folio");

    void IFrameSource.Free(PageFrame frame) => frame.IsAllocated = false; // a DAX page is not taken from anywhere

    Memory<byte> IFrameSource.BytesFrom(PageFrame first, int count) =>
        _content.Slice((int)first.FileIndex * PageFrame.SizeBytes, count * PageFrame.SizeBytes);

    void IFrameSource.HandleProgress() => _memory.HandleProgress();

    /// <summary>The page in memory, or null.</summary>
    internal PageFrame? Find(ulong index) => _pages.GetValueOrDefault(index);

    internal bool HasPage(ulong index) => index * PageFrame.SizeBytes < LengthBytes;

    /// <summary>Whether the content of the page needs a new frame to come to memory.</summary>
    internal PageFrame? TryMakeWithoutMemory(ulong index)
    {
        if (Kind != MemoryFileKind.Dax)
        {
            if (IsSwapBacked && _slots.TryGetValue(index, out long slot) && _memory.Swap.CachedAt(slot) is { } cached)
            {
                _slots.Remove(index);
                Add(index, cached);
                _memory.Swap.Put(slot);
                return cached;
            }

            return null;
        }

        int at = checked((int)(index * PageFrame.SizeBytes));
        DeviceAddress address = _address.Value == 0 ? default : _address + (ulong)at;
        PageFrame frame = new(
            this, PageFrameKind.FsDax, _memory.TakeNumbers(1), _content.Slice(at, PageFrame.SizeBytes), address)
        {
            IsAllocated = true,
        };
        Add(index, frame);
        return frame;
    }

    /// <summary>Fills a frame with the page and keeps it; the caller's reference stays the caller's.</summary>
    internal void Fill(ulong index, PageFrame frame)
    {
        Span<byte> bytes = frame.Bytes.Span;
        bytes.Clear();
        if (IsSwapBacked)
        {
            if (_slots.Remove(index, out long slot))
            {
                _memory.Swap.Read(slot, bytes);
                _memory.Swap.Put(slot);
                _memory.Stats.SwappedIn++;
            }
        }
        else
        {
            int at = checked((int)(index * PageFrame.SizeBytes));
            _content.Span.Slice(at, Math.Min(PageFrame.SizeBytes, _content.Length - at)).CopyTo(bytes);
        }

        Add(index, frame);
    }

    /// <summary>The page leaves memory; its content is kept by the disk or a swap slot.</summary>
    internal void Drop(PageFrame frame)
    {
        if (IsSwapBacked)
        {
            long slot = frame.SwapSlot;
            _slots[frame.FileIndex] = slot;
            _memory.Swap.Get(slot);
            _memory.Swap.WriteOut(slot);
            _memory.Stats.SwappedOut++;
        }
        else
        {
            WriteBack(frame);
        }

        _pages.Remove(frame.FileIndex);
        frame.File = null;
    }

    private void WriteBack(PageFrame frame)
    {
        if (frame.IsDirty && Kind == MemoryFileKind.Regular)
        {
            int at = checked((int)(frame.FileIndex * PageFrame.SizeBytes));
            int length = Math.Min(PageFrame.SizeBytes, _content.Length - at);
            frame.Bytes.Span[..length].CopyTo(_content.Span[at..]);
        }

        frame.IsDirty = false;
    }

    private void Add(ulong index, PageFrame frame)
    {
        frame.File = this;
        frame.FileIndex = index;
        _pages.Add(index, frame);
    }
}
