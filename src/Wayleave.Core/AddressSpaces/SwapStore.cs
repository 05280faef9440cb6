namespace Wayleave.Core.AddressSpaces;

// A slot lives as long as entries name it. While its page is still in memory (it is being written, or somebody holds
// it) the slot knows the page: the swap cache. Whoever faults then gets that page and not a copy.

/// <summary>
/// Where the content of anonymous pages goes when memory is short: in memory of its own, as a compressed swap device
/// would be. Host lock held.
/// </summary>
internal sealed class SwapStore(long slotsMax)
{
    private readonly Dictionary<long, Slot> _slots = [];
    private readonly Stack<byte[]> _spare = new();
    private long _next = 1;

    public long SlotsMax => slotsMax;

    public int UsedCount => _slots.Count;

    /// <summary>A slot for a page, which is in its cache from now on; 0 when there is none left.</summary>
    public long TryTake(PageFrame frame)
    {
        if (_slots.Count >= slotsMax)
        {
            return 0;
        }

        _slots.Add(_next, new Slot { Frame = frame });
        return _next++;
    }

    public void Get(long slot) => _slots[slot].EntryCount++;

    /// <summary>An entry no longer names the slot; with the last one it ends, and its page leaves the cache.</summary>
    public void Put(long slot)
    {
        Slot at = _slots[slot];
        if (--at.EntryCount == 0)
        {
            End(slot, at);
        }
    }

    /// <summary>Ends a slot that no entry names: the page was not unmapped after all.</summary>
    public void EndIfUnnamed(long slot)
    {
        if (_slots.TryGetValue(slot, out Slot? at) && at.EntryCount == 0)
        {
            End(slot, at);
        }
    }

    public int EntryCountOf(long slot) => _slots[slot].EntryCount;

    /// <summary>The page of the slot if it is still in memory.</summary>
    public PageFrame? CachedAt(long slot) => _slots[slot].Frame;

    /// <summary>The page's content goes to the slot, and the page is free to go.</summary>
    public void WriteOut(long slot)
    {
        Slot at = _slots[slot];
        if (at.Frame is { } frame)
        {
            at.Bytes ??= _spare.TryPop(out byte[]? spare) ? spare : new byte[PageFrame.SizeBytes];
            frame.Bytes.Span.CopyTo(at.Bytes);
            at.Frame = null;
            frame.SwapSlot = 0;
        }
    }

    public void Read(long slot, Span<byte> destination) => _slots[slot].Bytes.CopyTo(destination);

    private void End(long slot, Slot at)
    {
        _slots.Remove(slot);
        if (at.Bytes is { } bytes)
        {
            Array.Clear(bytes);
            _spare.Push(bytes);
        }

        if (at.Frame is { } frame)
        {
            frame.SwapSlot = 0;
            frame.FreeIfUnused();
        }
    }

    private sealed class Slot
    {
        public PageFrame? Frame;
        public byte[]? Bytes;
        public int EntryCount;
    }
}
