using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Regions;

// What UCX's rcache and MPI libraries do with hooks on munmap, done with a notifier: an entry is good for the
// generation of its range's location in which its pages were looked at. A notification counts the generation up before
// the change of the mapping returns: an address that was unmapped and mapped again never finds the old entry. A
// callback must not wait for a port, so it deregisters nothing. What nobody uses and whose range is gone goes once the
// host lock was released; everything else when somebody next holds the cache.

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
    private readonly Dictionary<MemoryRegion, Entry> _used = []; // also those whose place another entry has
    private readonly List<MemoryRegion> _leaving = [];
    private readonly LinkedList<Entry> _unused = new(); // the one used longest ago first
    private bool _isSweepDue;

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

    /// <summary>
    /// Regions of an earlier generation, found so by a use or by the end of their range: the process has changed it.
    /// </summary>
    public long Stale { get; private set; }

    /// <summary>
    /// Of the stale ones, those whose pages turned out to be where they were: a change of protection, a fork, a move
    /// that did not happen. They stay registered, under the same key and with the same list of addresses.
    /// </summary>
    public long Kept { get; private set; }

    /// <summary>Lists of addresses that were made.</summary>
    public long ListsBuilt { get; private set; }

    /// <summary>Regions that the next use may find, in use or not.</summary>
    public int Count => _entries.Count;

    /// <summary>Of these, the ones that nobody uses.</summary>
    public int UnusedCount => _unused.Count;

    /// <summary>
    /// A region over exactly that range, from the cache if the process has not changed the mapping since it was made.
    /// </summary>
    /// <param name="range">As it is going to be used.</param>
    /// <param name="region">To be given back with <see cref="Return"/>; null unless Success.</param>
    /// <returns>
    /// What <see cref="RegionRegistration"/> says, <see cref="Errno.ENOMEM"/> only when nothing is pinned any more that
    /// nobody uses; <see cref="Errno.EAGAIN"/> when pinning has to wait for somebody: then register without the cache.
    /// </returns>
    public Errno TryTake(AddressRange range, out MemoryRegion? region) => TryTake(range, out region, out _);

    /// <summary>As the other, and says where it has the region from.</summary>
    public Errno TryTake(AddressRange range, out MemoryRegion? region, out RegionOrigin origin)
    {
        _device.Host.AssertHeld();
        DropLeaving();
        if (_entries.TryGetValue(range, out Entry? entry))
        {
            origin = entry.IsStale ? RegionOrigin.Kept : RegionOrigin.Found;
            if (!entry.IsStale || TryKeep(entry))
            {
                Hits += origin == RegionOrigin.Found ? 1 : 0;
                Use(entry);
                region = entry.Region;
                return Errno.Success;
            }

            Remove(entry);
        }

        origin = RegionOrigin.Made;
        Misses++;
        Errno errno = TryAdd(range, out region);
        return errno == Errno.ENOMEM && DropUnused() ? TryAdd(range, out region) : errno;
    }

    /// <summary>
    /// Ends one use. While others use the region it stays as it is; afterwards it stays registered as long as there is
    /// room and its range is what it was.
    /// </summary>
    /// <param name="region">As it was taken, once for each time.</param>
    /// <exception cref="ArgumentException">Nobody uses it.</exception>
    public void Return(MemoryRegion region)
    {
        ArgumentNullException.ThrowIfNull(region);
        _device.Host.AssertHeld();
        if (!_used.TryGetValue(region, out Entry? entry))
        {
            throw new ArgumentException($"nobody uses {region}", nameof(region));
        }

        if (--entry.UseCount > 0)
        {
            return;
        }

        _used.Remove(region);
        if (entry.IsReplaced)
        {
            Leave(region);
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

    /// <summary>Deregisters what nobody uses: its pages can be pinned by somebody else.</summary>
    /// <returns>False when there was nothing.</returns>
    public bool DropUnused()
    {
        _device.Host.AssertHeld();
        bool any = _unused.Count > 0;
        while (_unused.First is { } first)
        {
            Remove(first.Value);
        }

        return any;
    }

    /// <summary>
    /// Deregisters what nobody uses; what is in use follows when it is returned, and no further use finds it.
    /// </summary>
    /// <returns>
    /// A fence when the port is inside a region that nobody uses: call again when it has ended. Null when none is left,
    /// but for those to which a window is bound.
    /// </returns>
    public Fence? Clear()
    {
        _device.Host.AssertHeld();
        foreach (Entry entry in _entries.Values.ToArray())
        {
            Remove(entry);
        }

        return DropLeaving();
    }

    // Its notifier has been there all the time, so a change while the pages are looked at counts again. The old pages
    // are pinned: nobody else can have got them meanwhile, so the same pages are the same memory.
    private bool TryKeep(Entry entry)
    {
        Stale++;
        ulong generation = entry.Generation;
        RegionRegistration again =
            RegionRegistration.StartAgain(_device, _domain, RequestOf(entry.Range), entry.Region!);
        if (!again.IsCompleted || again.Errno != Errno.Success)
        {
            return false;
        }

        Kept++;
        entry.LookedAt = generation;
        return true;
    }

    private SpaceRegionRequest RequestOf(AddressRange range) => new(_space, range, range.Start, _access);

    private Errno TryAdd(AddressRange range, out MemoryRegion? region)
    {
        region = null;

        // Before the pages are pinned: a change while they are is seen.
        Entry entry = new(this, range);
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
        entry.LookedAt = entry.Generation; // what moved pages to pin them has changed no mapping
        entry.Region = region = made;
        _entries.Add(range, entry);
        Use(entry);
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
            _used.Add(entry.Region!, entry);
            if (entry.Place is { List: not null } place)
            {
                _unused.Remove(place);
            }
        }
    }

    // No further use finds it. Who has it keeps it.
    private void Remove(Entry entry)
    {
        _entries.Remove(entry.Range);
        entry.Notifier!.Remove();
        entry.IsReplaced = true;
        if (entry.UseCount == 0)
        {
            _unused.Remove(entry.Place!);
            Leave(entry.Region!);
        }
    }

    private void Leave(MemoryRegion region)
    {
        _leaving.Add(region);
        if (DropLeaving() is { } inside && inside.TryAddEndCallback(_ => DropLeft()) != Errno.Success)
        {
            DropLeaving();
        }
    }

    // Without the lock: the last packet has left.
    private void DropLeft()
    {
        using (_device.Host.Enter())
        {
            DropLeaving();
        }
    }

    // A packet may be inside, whose end is waited for, or a window bound: then the next call tries again.
    private Fence? DropLeaving()
    {
        Fence? inside = null;
        for (int i = _leaving.Count - 1; i >= 0; i--)
        {
            Errno errno = RegionRegistration.TryDeregister(_device, _leaving[i], out Fence? drain);
            if (errno == Errno.Success && drain is null)
            {
                _leaving.RemoveAt(i);
            }

            inside ??= drain;
        }

        return inside;
    }

    // The range of an entry is gone. Without the lock; nobody may ever ask for the range again, and its pages are held.
    private void Sweep()
    {
        using (_device.Host.Enter())
        {
            _isSweepDue = false;
            foreach (Entry entry in _unused.ToArray())
            {
                if (entry.IsGone)
                {
                    Stale++;
                    Remove(entry);
                }
            }
        }
    }

    private void HandleGone()
    {
        if (!_isSweepDue)
        {
            _isSweepDue = true;
            _device.Host.Defer(Sweep);
        }
    }

    private static AddressRange WholePages(AddressRange range)
    {
        const ulong Mask = PageFrame.SizeBytes - 1;
        ulong start = range.Start & ~Mask;
        return new AddressRange(start, ((range.End + Mask) & ~Mask) - start);
    }

    private sealed class Entry(RegionCache cache, AddressRange range) : IMirror
    {
        public AddressRange Range => range;

        public string Name { get; } = $"{cache._device.Name} region cache";

        public IntervalNotifier? Notifier { get; set; }

        public MemoryRegion? Region { get; set; }

        public int UseCount { get; set; }

        /// <summary>How often something has happened to where the range's memory is.</summary>
        public ulong Generation { get; private set; }

        /// <summary>The generation in which the region's pages were those of the range.</summary>
        public ulong LookedAt { get; set; }

        public bool IsStale => Generation != LookedAt;

        /// <summary>Some of the range was unmapped, and not looked at since.</summary>
        public bool IsGone => IsStale && GoneAt > LookedAt;

        /// <summary>It is not in the cache any more.</summary>
        public bool IsReplaced { get; set; }

        public LinkedListNode<Entry>? Place { get; set; }

        private ulong GoneAt { get; set; }

        // Whatever the event: a false alarm costs a look, a missed one somebody's memory.
        public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange invalidated, ulong sequence)
        {
            notifier.SetSequence(sequence);
            Generation++;
            if (invalidated.Event is InvalidateEvent.Unmap or InvalidateEvent.Release)
            {
                GoneAt = Generation;
                cache.HandleGone();
            }

            return InvalidateAnswer.Done;
        }
    }
}
