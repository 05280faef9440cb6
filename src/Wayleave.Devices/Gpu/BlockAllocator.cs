using Wayleave.Core;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu;

// Each window is a list of blocks in address order without gaps; free neighbours are one block, always. A second index
// holds the free blocks by size, so that the smallest that fits is found first. Blocks never change their range: a
// split makes new ones.

/// <summary>
/// Hands out pieces of a pool of memory windows: VRAM, or the system memory that a GPU may use (<c>drm_buddy</c>,
/// <c>drm_mm</c>). Host lock held by the caller.
/// </summary>
public sealed class BlockAllocator
{
    private static readonly Comparer<MemoryBlock> s_bySize = Comparer<MemoryBlock>.Create((a, b) =>
        a.Range.LengthBytes != b.Range.LengthBytes
            ? a.Range.LengthBytes.CompareTo(b.Range.LengthBytes)
            : a.Range.Start.Value.CompareTo(b.Range.Start.Value));

    private readonly string _name;
    private readonly ulong _granularity;
    private readonly Errno _exhausted;
    private readonly MemoryBlock[] _heads; // the first block of each window
    private readonly SortedSet<MemoryBlock> _free = new(s_bySize);

    /// <param name="name">For people: <c>gpu0 vram</c>.</param>
    /// <param name="windows">Disjoint; every start and length is a multiple of the granularity.</param>
    /// <param name="granularityBytes">A power of two.</param>
    /// <param name="exhausted">
    /// What a request gets that does not fit: ENOSPC for VRAM, ENOMEM for system memory.
    /// </param>
    /// <exception cref="ArgumentException">A window is empty or not aligned.</exception>
    public BlockAllocator(string name, IReadOnlyList<DeviceRange> windows, int granularityBytes, Errno exhausted)
    {
        (_name, _granularity, _exhausted) = (name, (ulong)granularityBytes, exhausted);
        foreach (DeviceRange window in windows)
        {
            if (window.LengthBytes == 0 || ((window.Start.Value | window.LengthBytes) & (_granularity - 1)) != 0)
            {
                throw new ArgumentException(
                    $"{name}: window {window} is not a positive multiple of {granularityBytes} bytes", nameof(windows));
            }
        }

        _heads = [.. windows.Select(w => new MemoryBlock(w))];
        foreach (MemoryBlock head in _heads)
        {
            _free.Add(head);
            TotalBytes += head.Range.LengthBytes;
        }

        FreeBytes = TotalBytes;
    }

    public ulong TotalBytes { get; }

    public ulong FreeBytes { get; private set; }

    public ulong UsedBytes { get; private set; }

    /// <summary>Bytes that were taken back and may still be in use.</summary>
    public ulong QuarantinedBytes { get; private set; }

    /// <summary>The largest request that one block can satisfy.</summary>
    public ulong LargestFreeBytes => _free.Max?.Range.LengthBytes ?? 0;

    /// <summary>Every block in address order.</summary>
    public IEnumerable<MemoryBlock> Blocks
    {
        get
        {
            foreach (MemoryBlock head in _heads)
            {
                for (MemoryBlock? block = head; block is not null; block = block.Next)
                {
                    yield return block;
                }
            }
        }
    }

    /// <summary>
    /// Takes memory: one block when one is large enough (the smallest such), otherwise the largest pieces there are.
    /// The bytes are what the previous owner left: the caller clears them.
    /// </summary>
    /// <param name="sizeBytes">Rounded up to the granularity.</param>
    /// <param name="alignmentBytes">
    /// Of the start of every block; a power of two. Less than the granularity means the granularity.
    /// </param>
    /// <param name="owner">For people.</param>
    /// <param name="blocks">
    /// In the order in which they hold the bytes; owned by the caller until <see cref="Free"/>.
    /// </param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for a size of zero or an alignment that is no power of two; the errno of this
    /// allocator when the request does not fit.
    /// </returns>
    public Errno TryAllocate(ulong sizeBytes, ulong alignmentBytes, string owner, out MemoryBlock[] blocks)
    {
        blocks = [];
        ulong alignment = Math.Max(alignmentBytes, _granularity);
        if (sizeBytes == 0 || alignmentBytes == 0 || (alignmentBytes & (alignmentBytes - 1)) != 0)
        {
            return Errno.EINVAL;
        }

        if (sizeBytes > FreeBytes)
        {
            return _exhausted;
        }

        ulong size = (sizeBytes + _granularity - 1) & ~(_granularity - 1);
        List<(MemoryBlock Block, DeviceRange Piece)> plan = [];
        if (!TryPlanWhole(size, alignment, plan) && !TryPlanPieces(size, alignment, plan))
        {
            return _exhausted;
        }

        blocks = [.. plan.Select(p => Carve(p.Block, p.Piece, owner))];
        return Errno.Success;
    }

    /// <summary>Gives a used or quarantined block back; it merges with free neighbours.</summary>
    /// <exception cref="InvalidOperationException">The block is free already: two owners would get it.</exception>
    public void Free(MemoryBlock block)
    {
        switch (block.State)
        {
            case BlockState.Used:
                UsedBytes -= block.Range.LengthBytes;
                break;
            case BlockState.Quarantined:
                QuarantinedBytes -= block.Range.LengthBytes;
                break;
            default:
                throw new InvalidOperationException($"{_name}: block {block} is freed twice");
        }

        FreeBytes += block.Range.LengthBytes;
        (block.State, block.Owner) = (BlockState.Free, null);
        MemoryBlock first = block.Previous is { State: BlockState.Free } before ? before : block;
        MemoryBlock last = block.Next is { State: BlockState.Free } after ? after : block;
        if (!ReferenceEquals(first, block))
        {
            _free.Remove(first);
        }

        if (!ReferenceEquals(last, block))
        {
            _free.Remove(last);
        }

        ulong length = last.Range.Start.Value + last.Range.LengthBytes - first.Range.Start.Value;
        MemoryBlock merged = new(new DeviceRange(first.Range.Start, length));
        Replace(first, last, [merged]);
        _free.Add(merged);
    }

    /// <summary>A used block whose user is being stopped: it is not free before <see cref="Free"/>.</summary>
    /// <exception cref="InvalidOperationException">The block is not in use.</exception>
    public void Quarantine(MemoryBlock block)
    {
        if (block.State != BlockState.Used)
        {
            throw new InvalidOperationException($"{_name}: block {block} is not in use");
        }

        UsedBytes -= block.Range.LengthBytes;
        QuarantinedBytes += block.Range.LengthBytes;
        block.State = BlockState.Quarantined;
    }

    private bool TryPlanWhole(ulong size, ulong alignment, List<(MemoryBlock Block, DeviceRange Piece)> plan)
    {
        if (size > LargestFreeBytes)
        {
            return false;
        }

        MemoryBlock smallest = new(new DeviceRange(default, size));
        foreach (MemoryBlock block in _free.GetViewBetween(smallest, _free.Max!))
        {
            ulong padding = PaddingOf(block, alignment);
            if (padding <= block.Range.LengthBytes - size)
            {
                plan.Add((block, new DeviceRange(block.Range.Start + padding, size)));
                return true;
            }
        }

        return false;
    }

    private bool TryPlanPieces(ulong size, ulong alignment, List<(MemoryBlock Block, DeviceRange Piece)> plan)
    {
        foreach (MemoryBlock block in _free.Reverse())
        {
            ulong padding = PaddingOf(block, alignment);
            if (padding >= block.Range.LengthBytes)
            {
                continue;
            }

            // Every piece but the last is a multiple of the alignment, so that an aligned offset has an aligned
            // address.
            ulong usable = block.Range.LengthBytes - padding;
            ulong length = usable >= size ? size : usable & ~(alignment - 1);
            if (length == 0)
            {
                continue;
            }

            plan.Add((block, new DeviceRange(block.Range.Start + padding, length)));
            size -= length;
            if (size == 0)
            {
                return true;
            }
        }

        return false;
    }

    private static ulong PaddingOf(MemoryBlock block, ulong alignment) =>
        (0 - block.Range.Start.Value) & (alignment - 1);

    private MemoryBlock Carve(MemoryBlock block, DeviceRange piece, string owner)
    {
        _free.Remove(block);
        ulong padding = piece.Start.Value - block.Range.Start.Value;
        ulong rest = block.Range.LengthBytes - padding - piece.LengthBytes;
        MemoryBlock used = new(piece) { State = BlockState.Used, Owner = owner };
        List<MemoryBlock> parts = [used];
        if (padding > 0)
        {
            parts.Insert(0, new MemoryBlock(new DeviceRange(block.Range.Start, padding)));
        }

        if (rest > 0)
        {
            parts.Add(new MemoryBlock(new DeviceRange(piece.Start + piece.LengthBytes, rest)));
        }

        Replace(block, block, parts);
        foreach (MemoryBlock part in parts.Where(p => p.State == BlockState.Free))
        {
            _free.Add(part);
        }

        FreeBytes -= piece.LengthBytes;
        UsedBytes += piece.LengthBytes;
        return used;
    }

    // Puts parts, which cover the same range, where first..last stood.
    private void Replace(MemoryBlock first, MemoryBlock last, List<MemoryBlock> parts)
    {
        MemoryBlock? before = first.Previous, after = last.Next;
        for (int i = 0; i < parts.Count; i++)
        {
            parts[i].Previous = i == 0 ? before : parts[i - 1];
            parts[i].Next = i == parts.Count - 1 ? after : parts[i + 1];
        }

        if (after is not null)
        {
            after.Previous = parts[^1];
        }

        if (before is not null)
        {
            before.Next = parts[0];
        }
        else
        {
            _heads[Array.IndexOf(_heads, first)] = parts[0];
        }
    }
}
