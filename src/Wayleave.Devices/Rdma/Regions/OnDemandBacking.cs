using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Regions;

// umem_odp.c and mlx5/odp.c. The device's page table is a list of addresses in which holes are marked; each change
// makes a new list with a gate of its own, so a packet sees one state or the next. A page that is taken away:
//
//   Invalidate (address space's round):  set the sequence; take the pages out; publish the list without them;
//                                        close the old gate; a packet inside is drained before the round goes on
//   packet that meets a hole:            RNR NAK, or it stalls; the edge serves the fault; the list with the page
//
// It never waits for a fence (linux.md 3.8, C5). A region over a part of the address space has one subscription; one
// over all of it has one for each GiB that was ever touched, as mlx5 has children.

/// <summary>
/// Memory of a process that is in the device's reach while it is in memory. Host lock held by the caller.
/// </summary>
internal sealed class OnDemandBacking : RegionBacking, IMirror
{
    private const ulong ChildBytes = 1UL << 30;
    private const ulong SpanBytes = 1UL << 47; // all that a process can have

    private readonly MemoryRegion _region;
    private readonly RdmaDevice _device;
    private readonly SpaceRegionRequest _request;
    private readonly HostContext _host;
    private readonly Timeline _timeline;
    private readonly AddressRange _span; // whole pages
    private readonly SortedDictionary<ulong, Entry> _pages = [];
    private readonly Dictionary<ulong, IntervalNotifier> _children = [];
    private Translation _translation;
    private int _undrained; // closed gates with a packet inside: it may be anywhere in the list that it found
    private MirrorDrain? _inside; // completes when there is none
    private Fence? _drain;
    private bool _isReleased;

    public OnDemandBacking(MemoryRegion region, RdmaDevice device, SpaceRegionRequest request)
    {
        (_region, _device, _request, _host) = (region, device, request, device.Host);
        _timeline = new Timeline(_host, region.Name);
        _span = request.IsImplicit ? new AddressRange(0, SpanBytes) : WholePages(request.Addresses);
        _translation = MakeTranslation();
        region.PublishBacked(_translation);
    }

    public string Name => _region.Name;

    public AddressSpace Space => _request.Space;

    internal RdmaDevice Device => _device;

    /// <summary>Pages in the device's reach.</summary>
    public int MappedCount => _pages.Count;

    public override void ServeFault(Action<Errno>? completed)
    {
        if (TakeMiss() is not { } miss || _isReleased)
        {
            Complete(completed, Errno.Success);
            return;
        }

        ulong start = _span.Start + miss.Offset;
        AddressRange needed = WholePages(new AddressRange(start, (ulong)miss.LengthBytes));
        PagingRequest paging = new(needed, _device.Options.FaultAheadPages, miss.IsWrite, Faults: true);
        new OnDemandFault(this, paging).Start(errno =>
        {
            if (errno != Errno.Success)
            {
                Refuse(miss);
                _region.EndFaultBacked();
            }

            Complete(completed, errno);
        });
    }

    /// <summary>
    /// Brings a range into the device's reach, whole or as far as it is in memory. The outcome is said with the host
    /// lock held.
    /// </summary>
    public void Page(in PagingRequest request, Action<Errno> completed) =>
        new OnDemandFault(this, request).Start(completed);

    /// <summary>Looks at what is in memory already, faulting nothing in (registration does).</summary>
    public void Snapshot(Action<Errno> completed)
    {
        if (_request.IsImplicit)
        {
            completed(Errno.Success);
            return;
        }

        Page(new PagingRequest(_span, Ahead: 0, IsWrite: false, Faults: false), completed);
    }

    // The subscriptions go last: as long as a packet is inside, whoever wants a page has to wait for it.
    public override Fence? Release()
    {
        _region.KillBacked();
        if (!_isReleased)
        {
            _isReleased = true;
            Close(_translation);
        }

        if (_undrained > 0)
        {
            return _drain ??= _timeline.CreateFence(); // signalled by the last one out
        }

        _pages.Clear();
        foreach (IntervalNotifier notifier in _children.Values)
        {
            notifier.Remove();
        }

        _children.Clear();
        return null;
    }

    public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
    {
        if (!range.IsBlockable)
        {
            return InvalidateAnswer.Refused;
        }

        notifier.SetSequence(sequence);
        if (!_isReleased && TryRemove(range.Addresses))
        {
            Republish();
        }

        // Also when nothing was taken out now: a packet may be inside a list from before, which had the page.
        return _undrained == 0 ? InvalidateAnswer.Done : InvalidateAnswer.WaitFor(_inside!);
    }

    /// <summary>
    /// The subscription that covers an address, and the part of the span that it covers; null when refused.
    /// </summary>
    internal IntervalNotifier? ChildAt(ulong address, out AddressRange covered)
    {
        covered = _span;
        ulong index = 0;
        if (_request.IsImplicit)
        {
            index = address / ChildBytes;
            covered = new AddressRange(index * ChildBytes, ChildBytes);
        }

        if (!_children.TryGetValue(index, out IntervalNotifier? notifier)
            && Space.Subscribe(covered, this, out notifier) == Errno.Success && notifier is not null)
        {
            _children.Add(index, notifier);
        }

        return notifier;
    }

    internal bool IsInside(AddressRange range) => !_isReleased && _span.Contains(range);

    internal AddressRange Clip(AddressRange range)
    {
        ulong start = Math.Max(range.Start, _span.Start), end = Math.Min(range.End, _span.End);
        return new AddressRange(start, end > start ? end - start : 0);
    }

    internal bool MayWrite => _request.IsWritable;

    /// <summary>The process's address of a byte of the region.</summary>
    internal ulong AddressOf(ulong offset) => _request.Addresses.Start + offset;

    /// <summary>What a look found, and is certain of, comes into reach.</summary>
    internal void Take(MirrorRange look)
    {
        if (_isReleased)
        {
            return;
        }

        bool hasChanged = false;
        for (int i = 0; i < look.Pages.Count; i++)
        {
            MirrorPage page = look.Pages[i];
            bool isReachable =
                page is { IsValid: true, Frame: { Address.Value: not 0, Kind: not PageFrameKind.PeerToPeer } };
            if (!isReachable)
            {
                continue;
            }

            bool isWritable = page.IsWritable && MayWrite;
            ulong at = (look.Addresses.Start / PageFrame.SizeBytes) + (ulong)i;
            bool isForeign = (page.Bits & MirrorBits.PeerToPeer) != 0;
            Entry entry = new(isForeign ? page.Address : page.Frame!.Address, isWritable);
            if (!_pages.TryGetValue(at, out Entry old) || old != entry)
            {
                _pages[at] = entry;
                hasChanged = true;
            }

            if (isWritable)
            {
                page.Frame!.MarkDirty(); // the device writes when it likes
            }
        }

        if (hasChanged)
        {
            Republish();
        }
        else
        {
            _region.PublishBacked(_translation); // who faulted asks again
        }
    }

    /// <summary>Whether the device reaches an address now.</summary>
    internal bool Reaches(ulong address, bool isWrite) =>
        _pages.TryGetValue(address / PageFrame.SizeBytes, out Entry entry) && (!isWrite || entry.IsWritable);

    private static AddressRange WholePages(AddressRange range)
    {
        const ulong Mask = PageFrame.SizeBytes - 1;
        ulong start = range.Start & ~Mask;
        return new AddressRange(start, ((range.End + Mask) & ~Mask) - start);
    }

    private void Complete(Action<Errno>? completed, Errno errno)
    {
        if (completed is not null)
        {
            _host.Defer(() => completed(errno));
        }
    }

    private bool TryRemove(AddressRange range)
    {
        AddressRange gone = Clip(range);
        ulong first = gone.Start / PageFrame.SizeBytes, end = gone.End / PageFrame.SizeBytes;
        int before = _pages.Count;
        if (end - first <= (ulong)before)
        {
            for (ulong page = first; page < end; page++)
            {
                _pages.Remove(page);
            }
        }
        else
        {
            foreach (ulong page in _pages.Keys.Where(p => p >= first && p < end).ToArray())
            {
                _pages.Remove(page);
            }
        }

        return _pages.Count != before;
    }

    private Translation MakeTranslation()
    {
        InFlightGate gate = new(HandleDrained);
        bool hasReadOnly = false;
        foreach (Entry entry in _pages.Values)
        {
            hasReadOnly |= !entry.IsWritable;
        }

        return new Translation(MakeList(mustWrite: false), gate)
        {
            Writable = hasReadOnly ? MakeList(mustWrite: true) : null,
        };
    }

    private DmaAddressList MakeList(bool mustWrite)
    {
        List<DeviceRange> ranges = [];
        ulong at = _span.Start;
        foreach ((ulong page, Entry entry) in _pages)
        {
            ulong start = page * PageFrame.SizeBytes;
            if (mustWrite && !entry.IsWritable)
            {
                continue;
            }

            if (start > at)
            {
                ranges.Add(new DeviceRange(PageHole.Address, start - at));
            }

            if (ranges is [.., { } last] && last.Start.Value + last.LengthBytes == entry.Address.Value)
            {
                ranges[^1] = last with { LengthBytes = last.LengthBytes + PageFrame.SizeBytes };
            }
            else
            {
                ranges.Add(new DeviceRange(entry.Address, PageFrame.SizeBytes));
            }

            at = start + PageFrame.SizeBytes;
        }

        if (at < _span.End)
        {
            ranges.Add(new DeviceRange(PageHole.Address, _span.End - at));
        }

        return new DmaAddressList([.. ranges]);
    }

    // The new list first, then the old gate: a packet that is refused there finds the new one.
    private void Republish()
    {
        Translation old = _translation;
        _translation = MakeTranslation();
        _region.PublishBacked(_translation);
        Close(old);
    }

    private void Close(Translation translation)
    {
        if (!translation.Gate.Close(out _))
        {
            _undrained++;
            _inside ??= new MirrorDrain(_host);
        }
    }

    /// <summary>The last packet has left a closed gate: on the port's thread, without any lock.</summary>
    private void HandleDrained()
    {
        using (_host.Enter())
        {
            using SignalingSection section = new(_region.Name, "drain");
            if (--_undrained == 0)
            {
                (MirrorDrain? inside, _inside) = (_inside, null);
                inside?.Complete();
                _drain?.Signal();
            }
        }
    }

    private readonly record struct Entry(DeviceAddress Address, bool IsWritable);
}
