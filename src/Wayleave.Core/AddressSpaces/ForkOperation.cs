using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

// dup_mmap, copy_page_range. Private pages become read-only on both sides, so devices that may write to them are told
// first. A page that is pinned cannot become shared: whoever pinned it goes on writing to the parent's page, so the
// child gets its copy at once (copy_present_page).

/// <summary>Makes a child (<c>fork</c>).</summary>
public sealed class ForkOperation : SpaceOperation
{
    private readonly AddressSpace _parent;
    private readonly string _name;

    internal ForkOperation(AddressSpace parent, string name, Activity? activity)
        : base(parent.Memory, activity, $"{parent.Name} forks") => (_parent, _name) = (parent, name);

    /// <summary>The child once this has completed well; null before.</summary>
    public AddressSpace? Child { get; private set; }

    /// <summary>Pages that were copied at once because somebody had pinned them.</summary>
    public int PagesCopied { get; private set; }

    private protected override IEnumerable<Pause> Run()
    {
        SpaceLockHold hold = _parent.Lock.Ask(Activity, isWrite: true);
        AddressSpace? child = null;
        try
        {
            foreach (Pause pause in _parent.Lock.WaitUntilGranted(hold))
            {
                yield return pause;
            }

            if (TakeStepErrno(out Errno refused))
            {
                Errno = refused;
                yield break;
            }

            child = new AddressSpace(Memory, _name, _parent.Pins.Limits);
            foreach (SpaceRegion region in _parent.Regions.ToArray())
            {
                if (region.Request.IsNotInherited || region.Peer is not null)
                {
                    continue;
                }

                foreach (Pause pause in CopyRegion(child, region))
                {
                    yield return pause;
                }

                if (Errno != Errno.Success)
                {
                    yield break;
                }
            }

            Child = child;
        }
        finally
        {
            if (Child is null && child is not null)
            {
                Undo(child);
            }

            _parent.Lock.Release(hold);
            Memory.HandleProgress();
        }
    }

    private IEnumerable<Pause> CopyRegion(AddressSpace child, SpaceRegion region)
    {
        child.AddRegion(region);
        if (!region.IsCopyOnWrite || region.IsSpecial)
        {
            yield break; // the child faults its entries in
        }

        InvalidationRound round = _parent.StartRound(
            Activity, new InvalidateRange(region.Addresses, InvalidateEvent.ProtectionPage));
        try
        {
            foreach (Pause pause in round.WaitUntilStarted(Memory))
            {
                yield return pause;
            }

            if (round.State != InvalidationState.Started)
            {
                (Errno, Cycle) = (round.Errno, round.Cycle);
                yield break;
            }

            yield return "copy the entries";
            for (ulong page = region.Addresses.FirstPage; page < region.Addresses.EndPage; page++)
            {
                page = _parent.Table.SkipHoles(page, region.Addresses.EndPage);
                if (page < region.Addresses.EndPage && !TryCopyEntry(child, page))
                {
                    foreach (Pause pause in CopyPinned(child, page))
                    {
                        yield return pause;
                    }

                    if (Errno != Errno.Success)
                    {
                        yield break;
                    }
                }
            }

            round.End();
        }
        finally
        {
            round.Abandon();
        }
    }

    // False: the page is pinned.
    private bool TryCopyEntry(AddressSpace child, ulong page)
    {
        ref PageEntry entry = ref _parent.Table[page];
        switch (entry.State)
        {
            case EntryState.None:
                return true;
            case EntryState.Swap:
                Memory.Swap.Get(entry.Slot);
                child.Table[page] = entry;
                return true;
            case EntryState.Poison:
                child.Table[page] = entry;
                return true;
            case EntryState.DeviceExclusive:
                entry.State = EntryState.Present; // the device was told: PROTECTION_PAGE reaches it
                break;
            default:
                break;
        }

        if (entry is { State: EntryState.Present, IsExclusive: true } && entry.Frame!.IsPinned)
        {
            return false;
        }

        entry.IsWritable = entry.IsExclusive = false;
        child.Table.Install(page, entry.Frame!, entry.State, isWritable: false, order: entry.Order);
        return true;
    }

    private IEnumerable<Pause> CopyPinned(AddressSpace child, ulong page)
    {
        FrameSlot slot = new();
        foreach (Pause pause in Memory.Allocate(this, slot, isCleared: false))
        {
            yield return pause;
        }

        if (TakeStepErrno(out Errno errno))
        {
            Errno = errno;
            yield break;
        }

        // copy_pte_range looks again as well: whoever had pinned the page may have let it go, and reclaim taken it.
        PageFrame copy = slot.Frame!;
        if (TryCopyEntry(child, page))
        {
            copy.Put();
            yield break;
        }

        copy.IsAnonymous = true;
        _parent.Table.Peek(page).Frame!.Bytes.Span.CopyTo(copy.Bytes.Span);
        child.Table.Install(page, copy, EntryState.Present, isWritable: true, isExclusive: true);
        copy.Put();
        PagesCopied++;
    }

    private static void Undo(AddressSpace child)
    {
        child.IsDead = true;
        foreach (SpaceRegion region in child.CutOut(AddressRange.All))
        {
            child.Table.ClearRange(region.Addresses);
        }
    }
}
