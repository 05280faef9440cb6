using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Regions;

// What UCX's rcache and MPI libraries do with hooks on munmap, done with a notifier: an entry is good as long as the
// process has not changed the mapping of its range. A notification only marks the entry; the region is deregistered by
// whoever next holds the cache, since a callback must not wait for a port. So an address that was unmapped and mapped
// again never finds the old entry: the mark was set before the unmap returned.

/// <summary>
/// Keeps regions over the memory of a process registered after use, for the next use of the same range. Host lock held
/// by the caller.
/// </summary>
public sealed class RegionCache
{
    private readonly RdmaDevice _device;
    private readonly ProtectionDomain _domain;
    private readonly AddressSpace _space;
    private readonly AccessFlags _access;
    private readonly int _unusedMax;
    private readonly Dictionary<AddressRange, Entry> _entries = [];
    private readonly List<MemoryRegion> _leaving = [];
    private readonly LinkedList<Entry> _unused = new(); // the one used longest ago first

    /// <param name="device">The NIC.</param>
    /// <param name="domain">Of all regions.</param>
    /// <param name="space">Whose memory.</param>
    /// <param name="access">Of all regions; not on demand, which needs no cache.</param>
    /// <param name="unusedMax">How many regions stay registered that nobody uses.</param>
    public RegionCache(
        RdmaDevice device, ProtectionDomain domain, AddressSpace space, AccessFlags access, int unusedMax = 1024)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(space);
        ArgumentOutOfRangeException.ThrowIfNegative(unusedMax);
        (_device, _domain, _space, _access, _unusedMax) = (device, domain, space, access, unusedMax);
    }

    /// <summary>Uses that found a region.</summary>
    public long Hits { get; private set; }

    /// <summary>Uses that registered one.</summary>
    public long Misses { get; private set; }

    /// <summary>Regions whose range the process has changed since.</summary>
    public long Stale { get; private set; }

    /// <summary>
    /// Of the stale ones, those whose pages turned out to be where they were: a change of protection, a fork, a move
    /// that did not happen. They stay registered, under the same key and with the same list of addresses.
    /// </summary>
    public long Kept { get; private set; }

    /// <summary>Lists of addresses that were made.</summary>
    public long ListsBuilt { get; private set; }

    /// <summary>Regions that are registered, in use or not.</summary>
    public int Count => _entries.Count;

    /// <summary>
    /// A region over exactly that range, from the cache if the process has not changed the mapping since it was made.
    /// </summary>
    /// <param name="range">As it is going to be used.</param>
    /// <param name="region">To be given back with <see cref="Return"/>; null unless Success.</param>
    /// <returns>
    /// What <see cref="RegionRegistration"/> says; <see cref="Errno.EAGAIN"/> when pinning has to wait for somebody:
    /// then register without the cache.
    /// </returns>
    public Errno TryTake(AddressRange range, out MemoryRegion? region)
    {
        _device.Host.AssertHeld();
        DropLeaving();
        if (_entries.TryGetValue(range, out Entry? entry) && !entry.IsStale)
        {
            Hits++;
            Use(entry);
            region = entry.Region;
            return Errno.Success;
        }

        if (entry is not null)
        {
            Stale++;
            if (TryKeep(entry))
            {
                Kept++;
                Use(entry);
                region = entry.Region;
                return Errno.Success;
            }

            Remove(entry);
        }

        return TryAdd(range, out region);
    }

    /// <summary>Ends a use. The region stays registered while there is room and its range is what it was.</summary>
    public void Return(MemoryRegion region)
    {
        ArgumentNullException.ThrowIfNull(region);
        _device.Host.AssertHeld();
        foreach (Entry entry in _entries.Values)
        {
            if (ReferenceEquals(entry.Region, region))
            {
                EndUse(entry);
                return;
            }
        }

        // Its range has changed: it left the cache while it was in use.
        Leave(region);
    }

    /// <summary>Deregisters what nobody uses; what is in use follows when it is returned.</summary>
    public void Clear()
    {
        foreach (Entry entry in _entries.Values.ToArray())
        {
            entry.IsStale = true;
            if (entry.UseCount == 0)
            {
                Remove(entry);
            }
        }

        DropLeaving();
    }

    // Its notifier has been there all the time, so a change while the pages are looked at marks it again. The old pages
    // are pinned: nobody else can have got them meanwhile, so the same pages are the same memory.
    private bool TryKeep(Entry entry)
    {
        RegionRegistration again =
            RegionRegistration.StartAgain(_device, _domain, RequestOf(entry.Range), entry.Region!);
        entry.IsStale = !again.IsCompleted || again.Errno != Errno.Success;
        return !entry.IsStale;
    }

    private SpaceRegionRequest RequestOf(AddressRange range) => new(_space, range, range.Start, _access);

    private Errno TryAdd(AddressRange range, out MemoryRegion? region)
    {
        Misses++;
        region = null;

        // Before the pages are pinned: a change while they are is seen.
        Entry entry = new(range, _device.Name);
        Errno errno = _space.Subscribe(WholePages(range), entry, out IntervalNotifier? notifier);
        if (errno != Errno.Success)
        {
            return errno;
        }

        entry.Notifier = notifier;
        bool isKept = false;
        RegionRegistration registration = RegionRegistration.Start(
            _device, _domain, RequestOf(range), r => DropIfLate(r, isKept));
        if (!registration.IsCompleted || registration.Region is not { } made)
        {
            notifier!.Remove();
            return registration.IsCompleted ? registration.Errno : Errno.EAGAIN;
        }

        isKept = true;
        ListsBuilt++;
        entry.IsStale = false; // what moved pages to pin them has changed no mapping
        entry.Region = region = made;
        entry.UseCount = 1;
        _entries.Add(range, entry);
        return Errno.Success;
    }

    // One that had to wait was given up: nobody will ask for it. Without the lock.
    private void DropIfLate(RegionRegistration registration, bool isKept)
    {
        if (!isKept && registration.Region is { } region)
        {
            using (_device.Host.Enter())
            {
                Leave(region);
            }
        }
    }

    private void Use(Entry entry)
    {
        if (entry.UseCount++ == 0)
        {
            _unused.Remove(entry.Place!);
        }
    }

    private void EndUse(Entry entry)
    {
        if (--entry.UseCount > 0)
        {
            return;
        }

        entry.Place = _unused.AddLast(entry);
        if (entry.IsStale)
        {
            Remove(entry);
        }
        else if (_unused.Count > _unusedMax)
        {
            Remove(_unused.First!.Value);
        }
    }

    private void Remove(Entry entry)
    {
        _entries.Remove(entry.Range);
        entry.Notifier!.Remove();
        if (entry.UseCount == 0)
        {
            if (entry.Place is { List: not null } place)
            {
                _unused.Remove(place);
            }

            Leave(entry.Region!);
        }
    }

    private void Leave(MemoryRegion region)
    {
        _leaving.Add(region);
        DropLeaving();
    }

    // A packet may be inside, or a window bound: then the next call tries again.
    private void DropLeaving() => _leaving.RemoveAll(region =>
        RegionRegistration.TryDeregister(_device, region, out Fence? drain) == Errno.Success && drain is null);

    private static AddressRange WholePages(AddressRange range)
    {
        const ulong Mask = PageFrame.SizeBytes - 1;
        ulong start = range.Start & ~Mask;
        return new AddressRange(start, ((range.End + Mask) & ~Mask) - start);
    }

    private sealed class Entry(AddressRange range, string name) : IMirror
    {
        public AddressRange Range => range;

        public string Name { get; } = $"{name} region cache";

        public IntervalNotifier? Notifier { get; set; }

        public MemoryRegion? Region { get; set; }

        public int UseCount { get; set; }

        public bool IsStale { get; set; }

        public LinkedListNode<Entry>? Place { get; set; }

        // Whatever the event: a false alarm costs a registration, a missed one somebody's memory.
        public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange invalidated, ulong sequence)
        {
            notifier.SetSequence(sequence);
            IsStale = true;
            return InvalidateAnswer.Done;
        }
    }
}
