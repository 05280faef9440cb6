using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

// mm_struct: regions say what an address is, entries say where its content is now, subscriptions say who has copied
// entries into a device. Nothing here waits: what changes regions or faults is an operation in steps.
//
//   order of locks:  address-space lock -> (reservation) -> reclaim -> page lock -> notifier -> fences
//   the page-table lock of the kernel is the host lock: one step sees and changes entries without anybody in between

/// <summary>
/// The memory of a process (<c>mm_struct</c>): regions, pages, and the devices that mirror it. Host lock held by the
/// caller.
/// </summary>
public sealed class AddressSpace
{
    /// <summary>Where addresses that nobody chose begin.</summary>
    public const ulong FirstAddress = 0x7F00_0000_0000;

    private const ulong AddressEnd = 1UL << 47;

    private readonly List<SpaceRegion> _regions = []; // by address; they never overlap
    private readonly List<RangeHold> _holds = [];

    /// <param name="memory">Where its pages come from.</param>
    /// <param name="name">Of the process, for people.</param>
    /// <param name="limits">What it may pin; null for no limit.</param>
    public AddressSpace(MemorySystem memory, string name, PinLimits? limits = null)
    {
        ArgumentNullException.ThrowIfNull(memory);
        memory.Host.AssertHeld();
        (Memory, Name) = (memory, name);
        Lock = new SpaceLock(name);
        Notifiers = new NotifierTree(memory.Host, memory.HandleProgress);
        Pins = new PinAccount(limits ?? PinLimits.None);
        (Table, Faults) = (new PageTable(this), new PageFaults(this));
    }

    public MemorySystem Memory { get; }

    public HostContext Host => Memory.Host;

    public string Name { get; }

    /// <summary>
    /// Held by faults, mirrors, pins and migrations to read, and by whoever changes regions to write.
    /// </summary>
    public SpaceLock Lock { get; }

    /// <summary>In the order of their addresses.</summary>
    public IReadOnlyList<SpaceRegion> Regions => _regions;

    /// <summary>What it has pinned for long, and may.</summary>
    public PinAccount Pins { get; }

    /// <summary>The process has ended, or is about to: nothing is mapped any more.</summary>
    public bool IsDead { get; internal set; }

    /// <summary>Faults that were served, on whoever's behalf.</summary>
    public long FaultCount { get; internal set; }

    /// <summary>The number of its notifiers' sequence: even when nothing is being invalidated.</summary>
    public ulong NotifierSequence => Notifiers.Sequence;

    /// <summary>How many subscriptions rounds are compared with.</summary>
    public int SubscriptionCount => Notifiers.Count;

    internal NotifierTree Notifiers { get; }

    internal PageTable Table { get; }

    internal PageFaults Faults { get; }

    /// <summary>
    /// Subscribes to what happens to a range (<c>mmu_interval_notifier_insert</c>). During a round the subscription
    /// takes effect when the round ends, and its first read waits for that.
    /// </summary>
    /// <param name="range">Need not be mapped.</param>
    /// <param name="mirror">Whose callback runs, as soon as this returns.</param>
    /// <param name="notifier">Owned by the caller, who removes it.</param>
    /// <param name="mayWaitForFences">
    /// A graphics driver, whose callback may wait for the fences of its jobs. Others break the contract of fences if
    /// they do, and that is reported.
    /// </param>
    /// <returns>
    /// <see cref="Errno.EOVERFLOW"/> for a range of no length or one that wraps; <see cref="Errno.EINVAL"/> when the
    /// process has ended.
    /// </returns>
    public Errno Subscribe(
        AddressRange range,
        IMirror mirror,
        out IntervalNotifier? notifier,
        bool mayWaitForFences = false)
    {
        ArgumentNullException.ThrowIfNull(mirror);
        Host.AssertHeld();
        notifier = null;
        if (range.LengthBytes == 0 || range.Start + range.LengthBytes < range.Start)
        {
            return Errno.EOVERFLOW;
        }

        if (IsDead)
        {
            return Errno.EINVAL;
        }

        notifier = Notifiers.Insert(range, mirror, mayWaitForFences);
        return Errno.Success;
    }

    /// <summary>
    /// Takes a range back from every device that mirrors it (<c>mmu_notifier_invalidate_range_start</c>): for whoever
    /// changes entries. The operations of an address space do it themselves.
    /// </summary>
    /// <param name="activity">Who waits if a mirror does.</param>
    /// <param name="range">What, and why.</param>
    public InvalidationRound StartInvalidation(Activity activity, in InvalidateRange range)
    {
        ArgumentNullException.ThrowIfNull(activity);
        Host.AssertHeld();
        InvalidationRound round = StartRound(activity, range);
        return round;
    }

    /// <summary>The region of an address, or null for a hole.</summary>
    public SpaceRegion? FindRegion(ulong address)
    {
        int index = IndexAtOrBehind(address);
        return index < _regions.Count && _regions[index].Addresses.Contains(address) ? _regions[index] : null;
    }

    /// <summary>
    /// Copies out of the process's memory where that needs no fault (the processor's loads, while it has them in its
    /// page table). False, and perhaps some bytes, when a page of it faults: then <see cref="Read"/>.
    /// </summary>
    public bool TryReadNow(ulong address, Span<byte> destination)
    {
        Host.AssertHeld();
        while (!destination.IsEmpty)
        {
            int within = (int)(address % PageFrame.SizeBytes);
            int length = Math.Min(destination.Length, PageFrame.SizeBytes - within);
            PageEntry entry = Table.Peek(address / PageFrame.SizeBytes);
            if (!entry.IsPresent || !IsAllowed(address, isWrite: false) || entry.Frame!.Bytes.IsEmpty)
            {
                return false;
            }

            entry.Frame.Bytes.Span.Slice(within, length).CopyTo(destination);
            Memory.Touch(entry.Frame);
            destination = destination[length..];
            address += (ulong)length;
        }

        return true;
    }

    /// <summary>As <see cref="TryReadNow"/>, for stores: then <see cref="Write"/>.</summary>
    public bool TryWriteNow(ulong address, ReadOnlySpan<byte> source)
    {
        Host.AssertHeld();
        while (!source.IsEmpty)
        {
            int within = (int)(address % PageFrame.SizeBytes);
            int length = Math.Min(source.Length, PageFrame.SizeBytes - within);
            PageEntry entry = Table.Peek(address / PageFrame.SizeBytes);
            if (!entry.IsPresent || !entry.IsWritable || entry.Frame!.Bytes.IsEmpty)
            {
                return false;
            }

            source[..length].CopyTo(entry.Frame.Bytes.Span[within..]);
            entry.Frame.IsDirty = true;
            Memory.Touch(entry.Frame);
            source = source[length..];
            address += (ulong)length;
        }

        return true;
    }

    /// <summary>Loads of the process, with the faults they take.</summary>
    /// <param name="address">Any alignment.</param>
    /// <param name="destination">The caller's; holds the bytes when it has completed well.</param>
    /// <param name="activity">The thread; null for one of its own.</param>
    /// <returns>
    /// Fails with <see cref="Errno.EFAULT"/> (SIGSEGV or SIGBUS) at the first page that cannot be had, with
    /// <see cref="Errno.ENOMEM"/> when memory is out.
    /// </returns>
    public AccessOperation Read(ulong address, Memory<byte> destination, Activity? activity = null) =>
        new(this, address, destination, isWrite: false, activity);

    /// <summary>
    /// Stores of the process. As <see cref="Read"/>; earlier pages are written when a later one fails.
    /// </summary>
    public AccessOperation Write(ulong address, ReadOnlyMemory<byte> source, Activity? activity = null) =>
        new(this, address, source, isWrite: true, activity);

    /// <summary>Adds a region (<c>mmap</c>).</summary>
    public MapOperation Map(RegionRequest request, Activity? activity = null)
    {
        ArgumentNullException.ThrowIfNull(request);
        return new(this, request, activity);
    }

    /// <summary>
    /// Takes regions away (<c>munmap</c>): <see cref="Errno.EINVAL"/> unless it is whole pages. Holes are fine.
    /// </summary>
    public ChangeOperation Unmap(AddressRange range, Activity? activity = null) =>
        new(this, range, ChangeKind.Unmap, default, activity);

    /// <summary>
    /// Lets a range be neither unmapped nor moved nor thrown away until the hold is released. The range need not be
    /// mapped; holds may overlap.
    /// </summary>
    /// <param name="range">Whole pages are held, however it is aligned.</param>
    /// <param name="holder">Who uses the pages, for people.</param>
    public RangeHold Hold(AddressRange range, string holder)
    {
        Host.AssertHeld();
        const ulong Mask = PageFrame.SizeBytes - 1;
        ulong start = range.Start & ~Mask;
        RangeHold hold = new(this, new AddressRange(start, ((range.End + Mask) & ~Mask) - start), holder);
        _holds.Add(hold);
        return hold;
    }

    /// <summary>
    /// Changes what may be done (<c>mprotect</c>): <see cref="Errno.ENOMEM"/> when a page of it is in no region.
    /// </summary>
    public ChangeOperation Protect(AddressRange range, SpaceProtection protection, Activity? activity = null) =>
        new(this, range, ChangeKind.Protect, protection, activity);

    /// <summary>
    /// Throws the content of pages away (<c>MADV_DONTNEED</c>): private memory reads as zero afterwards, or as the
    /// file.
    /// </summary>
    public ChangeOperation Discard(AddressRange range, Activity? activity = null) =>
        new(this, range, ChangeKind.Discard, default, activity);

    /// <summary>
    /// Moves a range to other addresses (<c>mremap</c> with <c>MREMAP_FIXED</c> to a free place): content and devices'
    /// pages go along, mirrors of the old place do not. <see cref="Errno.EFAULT"/> unless it is part of one region.
    /// </summary>
    public MoveRangeOperation Move(AddressRange range, ulong to, Activity? activity = null) =>
        new(this, range, to, activity);

    /// <summary>Makes a child that shares its pages until one of both writes (<c>fork</c>).</summary>
    /// <param name="name">Of the child.</param>
    /// <param name="activity">The thread; null for one of its own.</param>
    public ForkOperation Fork(string name, Activity? activity = null) => new(this, name, activity);

    /// <summary>
    /// The process ends (<c>exit_mmap</c>): mirrors are told RELEASE, every page goes. Pins stay until whoever holds
    /// them lets go.
    /// </summary>
    public ExitOperation Exit(Activity? activity = null) => new(this, activity);

    /// <summary>Moves pages of a range to a device's memory: <see cref="MigrateOperation"/>.</summary>
    public MigrateOperation MigrateToDevice(AddressRange range, DeviceMemory device, Activity? activity = null)
    {
        ArgumentNullException.ThrowIfNull(device);
        return new(this, range, device, isToDevice: true, activity);
    }

    /// <summary>Brings the pages home that a range has in a device's memory: <see cref="MigrateOperation"/>.</summary>
    public MigrateOperation MigrateHome(AddressRange range, DeviceMemory device, Activity? activity = null)
    {
        ArgumentNullException.ThrowIfNull(device);
        return new(this, range, device, isToDevice: false, activity);
    }

    /// <summary>
    /// Gives one page to a device for itself alone until the process touches it. <see cref="Errno.EPERM"/> where the
    /// process may not write, <see cref="Errno.EFAULT"/> in a hole, <see cref="Errno.EBUSY"/> for a file's page.
    /// </summary>
    /// <param name="address">In the page.</param>
    /// <param name="owner">Of the event EXCLUSIVE, for the device's own mirror to know.</param>
    /// <param name="program">Runs with the host lock held, while nobody else has the page.</param>
    /// <param name="activity">The thread; null for one of its own.</param>
    public ExclusiveOperation MakeExclusive(
        ulong address, object owner, Action<PageFrame> program, Activity? activity = null) =>
        new(this, address, owner, program, activity);

    /// <summary>Holds pages, for a device or to look at them: <see cref="PinOperation"/>.</summary>
    /// <param name="range">Any alignment; every page that it touches.</param>
    /// <param name="flags">How.</param>
    /// <param name="isCharged">
    /// Whether they count against <see cref="Pins"/>, as they do for RDMA and not for a read of a file.
    /// </param>
    /// <param name="activity">The thread; null for one of its own.</param>
    public PinOperation Pin(
        AddressRange range, PinMode flags, bool isCharged = false, Activity? activity = null) =>
        new(this, range, flags, isCharged, activity);

    public override string ToString() => Name;

    internal InvalidationRound StartRound(Activity activity, in InvalidateRange range) =>
        new(Notifiers, activity, range);

    internal bool IsAllowed(ulong address, bool isWrite) =>
        FindRegion(address) is { } region && (isWrite ? region.IsWritable : region.Protection != SpaceProtection.None);

    /// <summary>Free addresses for a region of that many bytes; 0 when there are none.</summary>
    internal ulong FindGap(ulong lengthBytes, ulong alignmentBytes)
    {
        ulong at = FirstAddress;
        foreach (SpaceRegion region in _regions)
        {
            if (region.Addresses.Start >= at && region.Addresses.Start - at >= lengthBytes)
            {
                break;
            }

            at = Math.Max(at, (region.Addresses.End + alignmentBytes - 1) & ~(alignmentBytes - 1));
        }

        return lengthBytes <= AddressEnd - at ? at : 0;
    }

    internal void Remove(RangeHold hold)
    {
        Host.AssertHeld();
        _holds.Remove(hold);
    }

    /// <summary>Whether somebody outside uses a page of it, so that it must not be taken away.</summary>
    internal bool IsHeld(AddressRange range) => _holds.Exists(h => h.Range.Overlaps(range));

    internal bool IsUnmapped(AddressRange range)
    {
        int index = IndexAtOrBehind(range.Start);
        return range.End <= AddressEnd && range.End > range.Start
            && (index >= _regions.Count || !_regions[index].Addresses.Overlaps(range));
    }

    internal bool IsCovered(AddressRange range)
    {
        ulong at = range.Start;
        while (at < range.End)
        {
            if (FindRegion(at) is not { } region)
            {
                return false;
            }

            at = region.Addresses.End;
        }

        return true;
    }

    internal void AddRegion(SpaceRegion region)
    {
        _regions.Insert(IndexAtOrBehind(region.Addresses.Start), region);
        MergeAround(region.Addresses);
    }

    /// <summary>Takes out what lies inside a range; the parts outside stay.</summary>
    internal List<SpaceRegion> CutOut(AddressRange range)
    {
        List<SpaceRegion> taken = [];
        for (int i = IndexAtOrBehind(range.Start); i < _regions.Count && _regions[i].Addresses.Overlaps(range);)
        {
            SpaceRegion region = _regions[i];
            _regions.RemoveAt(i);
            taken.Add(region.Cut(range));
            if (region.Addresses.Start < range.Start)
            {
                AddressRange before = new(region.Addresses.Start, range.Start - region.Addresses.Start);
                _regions.Insert(i++, region.Cut(before));
            }

            if (region.Addresses.End > range.End)
            {
                _regions.Insert(i++, region.Cut(new AddressRange(range.End, region.Addresses.End - range.End)));
            }
        }

        return taken;
    }

    /// <summary>Ends the mappings of BARs of which no region is left.</summary>
    internal void EndPeers(List<SpaceRegion> taken)
    {
        foreach (SpaceRegion region in taken)
        {
            if (region.Peer is { } peer && !_regions.Exists(r => ReferenceEquals(r.Peer, peer)))
            {
                peer.End();
            }
        }
    }

    internal void MergeAround(AddressRange range)
    {
        int at = Math.Max(0, IndexAtOrBehind(range.Start) - 1);
        while (at + 1 < _regions.Count && _regions[at].Addresses.Start <= range.End)
        {
            if (_regions[at].CanMergeWith(_regions[at + 1]))
            {
                AddressRange one = _regions[at].Addresses;
                ulong length = one.LengthBytes + _regions[at + 1].Addresses.LengthBytes;
                _regions[at] = _regions[at] with { Addresses = one with { LengthBytes = length } };
                _regions.RemoveAt(at + 1);
            }
            else
            {
                at++;
            }
        }
    }

    // The region that has the address, or the first one behind it.
    private int IndexAtOrBehind(ulong address)
    {
        int low = 0, high = _regions.Count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_regions[middle].Addresses.End <= address)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }

        return low;
    }
}
