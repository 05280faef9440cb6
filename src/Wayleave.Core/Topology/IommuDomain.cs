using Wayleave.Core.Buffers;

namespace Wayleave.Core.Topology;

/// <summary>
/// What one function may reach through a strict IOMMU: blocks of I/O virtual addresses, each made of physical ranges.
/// Changed with the host lock held; the function's engines translate against an immutable snapshot without one.
/// </summary>
internal sealed class IommuDomain
{
    public const ulong PageBytes = 4096;

    // The numbers overlap those of system memory on purpose: an address of the wrong kind lands somewhere, as it would.
    private const ulong First = 1UL << 32;
    private const ulong End = 1UL << 40;

    private readonly Dictionary<DmaAddressList, ulong> _blocks = new(ReferenceEqualityComparer.Instance);
    private Entry[] _entries = [];
    private long _faults;

    /// <summary>Requests that no entry translated.</summary>
    public long Faults => Volatile.Read(ref _faults);

    /// <summary>
    /// Maps physical ranges, by whole pages and one after the other, into one block of addresses.
    /// </summary>
    /// <param name="physical">What to map.</param>
    /// <param name="reserved">
    /// Bus addresses that never reach this IOMMU and so cannot be used (<c>iova_reserve_pci_windows</c>).
    /// </param>
    /// <param name="iova">The first page of the block.</param>
    /// <returns>False when there is no room for the block.</returns>
    public bool TryMap(ReadOnlySpan<DeviceRange> physical, ReadOnlySpan<DeviceRange> reserved, out ulong iova)
    {
        ulong pages = 0;
        foreach (DeviceRange range in physical)
        {
            pages += SpanOf(range) / PageBytes;
        }

        if (!TryFindGap(pages * PageBytes, reserved, out iova))
        {
            return false;
        }

        List<Entry> entries = [.. _entries];
        ulong next = iova;
        int at = entries.FindIndex(e => e.Iova > next);
        at = at < 0 ? entries.Count : at;
        foreach (DeviceRange range in physical)
        {
            ulong first = range.Start.Value & ~(PageBytes - 1);
            entries.Insert(at++, new Entry(next, SpanOf(range), first));
            next += SpanOf(range);
        }

        Volatile.Write(ref _entries, [.. entries]);
        return true;
    }

    /// <summary>Remembers which block belongs to a list.</summary>
    public void Keep(DmaAddressList list, ulong iova) => _blocks.Add(list, iova);

    /// <summary>
    /// Ends the translation of the block of a list; what is sent there afterwards faults. A list without a block is
    /// nothing to end.
    /// </summary>
    public void Unmap(DmaAddressList list)
    {
        if (!_blocks.Remove(list, out ulong first))
        {
            return;
        }

        // The entries of a block follow one another; the page behind a block belongs to nobody.
        List<Entry> entries = [.. _entries];
        int at = entries.FindIndex(e => e.Iova == first);
        for (ulong next = first; at < entries.Count && entries[at].Iova == next;)
        {
            next += entries[at].LengthBytes;
            entries.RemoveAt(at);
        }

        Volatile.Write(ref _entries, [.. entries]);
    }

    public bool TryTranslate(ulong iova, out ulong physical, out ulong contiguousBytes)
    {
        Entry[] entries = Volatile.Read(ref _entries);
        int low = 0;
        int high = entries.Length - 1;
        while (low <= high)
        {
            int middle = (low + high) / 2;
            ulong offset = iova - entries[middle].Iova;
            if (iova < entries[middle].Iova)
            {
                high = middle - 1;
            }
            else if (offset >= entries[middle].LengthBytes)
            {
                low = middle + 1;
            }
            else
            {
                physical = entries[middle].Physical + offset;
                contiguousBytes = entries[middle].LengthBytes - offset;
                return true;
            }
        }

        Interlocked.Increment(ref _faults);
        (physical, contiguousBytes) = (0, 0);
        return false;
    }

    private static ulong SpanOf(DeviceRange range)
    {
        ulong first = range.Start.Value & ~(PageBytes - 1);
        ulong end = (range.Start.Value + range.LengthBytes + PageBytes - 1) & ~(PageBytes - 1);
        return end - first;
    }

    // First fit, with an unmapped page behind each block, so that a run over its end faults.
    private bool TryFindGap(ulong lengthBytes, ReadOnlySpan<DeviceRange> reserved, out ulong iova)
    {
        List<(ulong Start, ulong End)> taken = [.. _entries.Select(e => (e.Iova, e.Iova + e.LengthBytes))];
        foreach (DeviceRange range in reserved)
        {
            taken.Add((range.Start.Value, range.Start.Value + range.LengthBytes));
        }

        taken.Sort();
        iova = First;
        foreach ((ulong start, ulong end) in taken)
        {
            if (start >= iova + lengthBytes + PageBytes)
            {
                break;
            }

            iova = Math.Max(iova, (end + (2 * PageBytes) - 1) & ~(PageBytes - 1));
        }

        return iova + lengthBytes <= End;
    }

    private readonly record struct Entry(ulong Iova, ulong LengthBytes, ulong Physical);
}
