using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

// The layer that 7.x keeps for memory that nobody else allocates: a controller memory buffer, say. One pool per
// function, whatever its number of resources; every allocation holds a reference, and unbind waits for the last.
//
//   TryAddResource --> chunk --TryAllocate, TryMmap--> in use --Free, munmap, death, zap--> chunk
//                                                        |
//   unbind: nothing new, mappings zapped ---------------waits------------> pool gone
//
// Memory with an allocator of its own (a GPU's) is not put here: PeerResource lends it.

/// <summary>
/// The memory that a function offers to whoever asks for some (<c>struct pci_p2pdma</c>'s <c>gen_pool</c>): by pages of
/// 4 KiB, from any of its resources. Host lock held by the caller.
/// </summary>
public sealed class PeerPool
{
    /// <summary>The unit of allocation (<c>PAGE_SIZE</c>).</summary>
    public const ulong PageBytes = PageRuns.PageBytes;

    private readonly HostContext _host;
    private readonly List<Chunk> _chunks = []; // the newest first, as list_add_rcu leaves them
    private readonly LinkedList<PeerAllocation> _allocations = new();
    private readonly List<PeerUserMapping> _userMappings = [];
    private Action? _emptied;

    internal PeerPool(HostContext host, PeerDevice device) => (_host, Device) = (host, device);

    public PeerDevice Device { get; }

    /// <summary>Whether <see cref="PeerFinder.FindMany"/> may find it; its driver can allocate either way.</summary>
    public bool IsPublished { get; private set; }

    /// <summary>
    /// The driver is letting go: nothing is handed out any more, what is out comes back (<c>percpu_ref_kill</c>).
    /// </summary>
    public bool IsDying { get; private set; }

    /// <summary>Of all resources together: sysfs <c>size</c>.</summary>
    public ulong SizeBytes { get; private set; }

    /// <summary>Sysfs <c>available</c>.</summary>
    public ulong AvailableBytes
    {
        get
        {
            ulong pages = 0;
            foreach (Chunk chunk in _chunks)
            {
                pages += chunk.Runs.FreePages;
            }

            return pages * PageBytes;
        }
    }

    /// <summary>What is out, in the order it was taken; pages of user mappings among it.</summary>
    public IReadOnlyCollection<PeerAllocation> Allocations => _allocations;

    /// <summary>The mappings of processes that have neither ended nor been zapped.</summary>
    public IReadOnlyList<PeerUserMapping> UserMappings => _userMappings;

    /// <summary>Lets others find the pool, or hides it (<c>pci_p2pmem_publish</c>). What is out stays out.</summary>
    public void Publish(bool isPublished)
    {
        _host.AssertHeld();
        IsPublished = isPublished;
    }

    /// <summary>
    /// Takes memory from any resource that has enough in one piece (<c>pci_alloc_p2pmem</c>). The bytes are what the
    /// last holder left.
    /// </summary>
    /// <param name="sizeBytes">Rounded up to whole pages.</param>
    /// <param name="holder">Who, for people: <c>nvme0 submission queue 1</c>.</param>
    /// <param name="allocation">Owned by the caller until <see cref="Free"/>.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for no bytes, <see cref="Errno.ENOMEM"/> when no resource has that much in one piece,
    /// <see cref="Errno.ENODEV"/> when the driver is letting go. The kernel says NULL to all three.
    /// </returns>
    public Errno TryAllocate(ulong sizeBytes, string holder, out PeerAllocation? allocation)
    {
        _host.AssertHeld();
        allocation = null;
        if (sizeBytes == 0)
        {
            return Errno.EINVAL;
        }

        if (IsDying)
        {
            return Errno.ENODEV;
        }

        ulong pages = PageRuns.PagesOf(sizeBytes);
        foreach (Chunk chunk in _chunks)
        {
            if (chunk.Runs.TryTake(pages, out ulong first))
            {
                allocation = new PeerAllocation(chunk, first, pages, sizeBytes, holder);
                _allocations.AddLast(allocation);
                _host.Trace("p2pmem.alloc", holder, (long)sizeBytes, (long)allocation.Range.Start.Value);
                return Errno.Success;
            }
        }

        return Errno.ENOMEM;
    }

    /// <summary>
    /// Gives memory back (<c>pci_free_p2pmem</c>). Nobody reaches it any more: the caller has unmapped it everywhere.
    /// </summary>
    /// <exception cref="InvalidOperationException">It was given back before, or is of another pool.</exception>
    public void Free(PeerAllocation allocation)
    {
        ArgumentNullException.ThrowIfNull(allocation);
        _host.AssertHeld();
        if (allocation.IsFreed || !_allocations.Remove(allocation))
        {
            throw new InvalidOperationException($"{allocation} is not in use in the pool of {Device.Function}");
        }

        allocation.IsFreed = true;
        allocation.Chunk.Runs.Return(allocation.FirstPage, allocation.Pages);
        _host.Trace("p2pmem.free", allocation.Holder, (long)allocation.SizeBytes);
        if (_allocations.Count == 0)
        {
            (Action? emptied, _emptied) = (_emptied, null);
            emptied?.Invoke();
        }
    }

    /// <summary>
    /// The PCI bus address of a physical one in the pool (<c>pci_p2pmem_virt_to_bus</c>): 0 for 0, all ones for an
    /// address that is in no resource.
    /// </summary>
    public DeviceAddress BusAddressOf(DeviceAddress physical)
    {
        _host.AssertHeld();
        if (physical.Value == 0)
        {
            return default;
        }

        Chunk? chunk = _chunks.Find(c => c.Range.Contains(physical, 1));
        return chunk is null ? new DeviceAddress(ulong.MaxValue) : physical + chunk.BusOffset;
    }

    /// <summary>
    /// Maps memory of the pool into a process: <c>mmap</c> of sysfs <c>allocate</c>. The pages belong to the mapping
    /// and come back when it ends, by the process, by its death, or by the driver's leaving. They are zero, which the
    /// kernel does not promise; clearing them takes time in proportion.
    /// </summary>
    /// <param name="holder">Who, for people: <c>process 4711</c>.</param>
    /// <param name="processor">Through which the process reaches memory: <see cref="PciFabric.Processor"/>.</param>
    /// <param name="lengthBytes">Rounded up to whole pages.</param>
    /// <param name="isShared"><c>MAP_SHARED</c>.</param>
    /// <param name="offset">Into the file.</param>
    /// <param name="mapping">Owned by the caller until <see cref="PeerUserMapping.End"/>.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for a private mapping, an offset or no length; <see cref="Errno.ENODEV"/> when the
    /// driver is letting go; <see cref="Errno.ENOMEM"/> when the pool has not that much in one piece.
    /// </returns>
    public Errno TryMmap(
        string holder,
        PciFunction processor,
        ulong lengthBytes,
        bool isShared,
        ulong offset,
        out PeerUserMapping? mapping)
    {
        ArgumentNullException.ThrowIfNull(processor);
        _host.AssertHeld();
        mapping = null;
        if (!isShared || offset != 0)
        {
            return Errno.EINVAL;
        }

        Errno errno = TryAllocate(lengthBytes, holder, out PeerAllocation? allocation);
        if (errno != Errno.Success)
        {
            return errno;
        }

        mapping = new PeerUserMapping(_host, this, allocation!, processor);
        errno = Clear(new DmaPort(processor), allocation!.Range);
        if (errno != Errno.Success)
        {
            Free(allocation); // no window of the fabric is behind the BAR
            mapping = null;
            return errno;
        }

        _userMappings.Add(mapping);
        return Errno.Success;
    }

    internal Errno TryAdd(PciBar bar, ulong sizeBytes, ulong offset)
    {
        DeviceRange range = new(bar.Range.Start + offset, sizeBytes);
        if (_chunks.Exists(c => c.Range.Overlaps(range)))
        {
            return Errno.ENOMEM; // memremap_pages: the section is taken
        }

        _chunks.Insert(0, new Chunk(bar, range));
        SizeBytes += sizeBytes;
        return Errno.Success;
    }

    internal static Errno Clear(DmaPort processor, DeviceRange range)
    {
        for (ulong offset = 0; offset < range.LengthBytes;)
        {
            int length = (int)Math.Min(range.LengthBytes - offset, int.MaxValue);
            Errno errno = processor.TryWrite(range.Start + offset, length, out Span<byte> bytes);
            if (errno != Errno.Success)
            {
                return errno;
            }

            bytes.Clear();
            offset += (ulong)bytes.Length;
        }

        return Errno.Success;
    }

    internal void Forget(PeerUserMapping mapping) => _userMappings.Remove(mapping);

    /// <summary>
    /// Nothing new; processes lose their mappings. <paramref name="emptied"/> runs once with the host lock held, at
    /// once if nothing is out.
    /// </summary>
    internal void Kill(Action emptied)
    {
        IsDying = true;
        foreach (PeerUserMapping mapping in _userMappings.ToArray())
        {
            mapping.Zap();
        }

        if (_allocations.Count == 0)
        {
            emptied();
        }
        else
        {
            _emptied += emptied;
        }
    }

    /// <summary>One resource: a part of a BAR (<c>struct dev_pagemap</c>).</summary>
    internal sealed class Chunk(PciBar bar, DeviceRange range)
    {
        public PciBar Bar { get; } = bar;

        public DeviceRange Range { get; } = range;

        public PageRuns Runs { get; } = new(range.LengthBytes / PageBytes);

        public ulong BusOffset { get; } = bar.Owner.Root?.BusOffset ?? 0;
    }
}
