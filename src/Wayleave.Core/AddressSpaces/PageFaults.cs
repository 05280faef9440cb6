namespace Wayleave.Core.AddressSpaces;

[Flags]
internal enum FaultFlags
{
    None = 0,
    Write = 1,

    /// <summary>A page of one's own, although it is only read (<c>FAULT_FLAG_UNSHARE</c>): a pin needs it.</summary>
    Unshare = 2,
}

// memory.c, handle_mm_fault. A decision looks at region and entry in one step and either serves the fault, or says what
// is missing; after each thing that took time it looks again from the start, because anything may have changed.

/// <summary>Serves faults of one address space, the lock of which its caller holds to read.</summary>
internal sealed class PageFaults(AddressSpace space)
{
    private enum Need
    {
        Nothing,
        NoAccess,
        Frame,
        FilePage,
        Copy,
        Unlocked,
        Home,
        Shared,
    }

    private MemorySystem Memory => space.Memory;

    /// <summary>
    /// Serves a fault if that takes neither a wait nor a page from somebody else. False: <see cref="Handle"/>.
    /// </summary>
    public bool TryHandleNow(ulong page, FaultFlags flags, out Errno errno)
    {
        errno = Errno.Success;
        switch (Decide(page, flags, out PageFrame? frame))
        {
            case Need.Nothing:
                return true;
            case Need.NoAccess:
                errno = Errno.EFAULT;
                return true;
            case Need.Frame when Memory.TryAllocate() is { } fresh:
                space.FaultCount++;
                ShowFresh(page, fresh);
                return true;
            case Need.Copy when !space.Notifiers.Meets(AddressRange.OfPage(page))
                && Memory.TryAllocate(isCleared: false) is { } copy:
                space.FaultCount++;
                ShowCopy(page, frame!, copy, flags);
                return true;
            default:
                return false;
        }
    }

    /// <summary>
    /// Serves a fault. <see cref="SpaceOperation.StepErrno"/> is EFAULT where the kernel sends SIGSEGV or SIGBUS.
    /// </summary>
    public IEnumerable<Pause> Handle(SpaceOperation operation, ulong page, FaultFlags flags)
    {
        space.FaultCount++;
        while (operation.StepErrno == Errno.Success)
        {
            Need need = Decide(page, flags, out PageFrame? frame);
            switch (need)
            {
                case Need.Nothing:
                    yield break;
                case Need.NoAccess:
                    operation.StepErrno = Errno.EFAULT;
                    yield break;
                case Need.Unlocked:
                    foreach (Pause pause in frame!.WaitUntilUnlocked())
                    {
                        yield return pause;
                    }

                    break;
                case Need.Home:
                    foreach (Pause pause in frame!.Device!.BringHome(operation, space, page, frame))
                    {
                        yield return pause;
                    }

                    break;
                case Need.Shared:
                    foreach (Pause pause in ExclusiveAccess.TakeBack(operation, space, page, frame!))
                    {
                        yield return pause;
                    }

                    break;
                default:
                    foreach (Pause pause in WithFrame(operation, page, flags, need))
                    {
                        yield return pause;
                    }

                    break;
            }
        }
    }

    // A page is allocated, which may take long; then the entry is looked at again, and the page is used if it still is
    // what is missing.
    private IEnumerable<Pause> WithFrame(SpaceOperation operation, ulong page, FaultFlags flags, Need need)
    {
        FrameSlot slot = new();
        foreach (Pause pause in Memory.Allocate(operation, slot, isCleared: need == Need.Frame))
        {
            yield return pause;
        }

        if (slot.Frame is not { } fresh)
        {
            yield break;
        }

        if (need == Need.Copy)
        {
            foreach (Pause pause in CopyOnWrite(operation, page, flags, fresh))
            {
                yield return pause;
            }

            yield break;
        }

        if (Decide(page, flags, out _) != need)
        {
            fresh.Put();
        }
        else if (need == Need.Frame)
        {
            ShowFresh(page, fresh);
        }
        else
        {
            FillFromFile(page, fresh);
        }
    }

    // wp_page_copy: devices that read the old page must stop before the process writes to the new one.
    private IEnumerable<Pause> CopyOnWrite(SpaceOperation operation, ulong page, FaultFlags flags, PageFrame fresh)
    {
        InvalidationRound round = space.StartRound(
            operation.Activity, new InvalidateRange(AddressRange.OfPage(page), InvalidateEvent.Clear));
        bool isShown = false;
        try
        {
            foreach (Pause pause in round.WaitUntilStarted(Memory))
            {
                yield return pause;
            }

            if (round.State != InvalidationState.Started)
            {
                (operation.StepErrno, operation.Cycle) = (round.Errno, round.Cycle);
                yield break;
            }

            isShown = Decide(page, flags, out PageFrame? source) == Need.Copy;
            if (isShown)
            {
                ShowCopy(page, source!, fresh, flags);
            }

            round.End();
        }
        finally
        {
            round.Abandon();
            if (!isShown)
            {
                fresh.Put();
            }
        }
    }

    // What the entry lacks for this access. May serve the fault itself, where only the entry changes.
    private Need Decide(ulong page, FaultFlags flags, out PageFrame? frame)
    {
        frame = null;
        bool isWrite = (flags & FaultFlags.Write) != 0;
        ulong address = page * PageFrame.SizeBytes;
        if (space.FindRegion(address) is not { } region || region.IsSpecial
            || (isWrite ? !region.IsWritable : region.Protection == SpaceProtection.None))
        {
            return Need.NoAccess;
        }

        PageEntry entry = space.Table.Peek(page);
        frame = entry.Frame;
        return entry.State switch
        {
            EntryState.None => DecideEmpty(region, page, isWrite, out frame),
            EntryState.Present => DecidePresent(region, page, entry, flags),
            EntryState.DevicePrivate => frame!.IsLocked ? Need.Unlocked : Need.Home,
            EntryState.DeviceExclusive => frame!.IsLocked ? Need.Unlocked : Need.Shared,
            EntryState.Migration => Need.Unlocked,
            EntryState.Swap => DecideSwapped(page, entry, out frame),
            _ => Need.NoAccess,
        };
    }

    private Need DecideEmpty(SpaceRegion region, ulong page, bool isWrite, out PageFrame? frame)
    {
        frame = null;
        if (region.Peer is { } peer)
        {
            return DecidePeer(region, page, peer);
        }

        if (region.File is not { } file)
        {
            if (isWrite)
            {
                return TryShowHuge(region, page) ? Need.Nothing : Need.Frame;
            }

            space.Table.Install(page, Memory.ZeroPage, EntryState.Present, isWritable: false);
            return Need.Nothing;
        }

        ulong index = region.FilePageOf(page);
        if (!file.HasPage(index))
        {
            return Need.NoAccess; // SIGBUS: behind the end of the file
        }

        frame = file.Find(index) ?? file.TryMakeWithoutMemory(index);
        if (frame is null)
        {
            return Need.FilePage;
        }

        if (frame.IsLocked)
        {
            return Need.Unlocked;
        }

        if (isWrite && region.IsCopyOnWrite)
        {
            return Need.Copy;
        }

        space.Table.Install(page, frame, EntryState.Present, isWritable: isWrite);
        frame.IsDirty |= isWrite;
        return Need.Nothing;
    }

    private Need DecidePeer(SpaceRegion region, ulong page, PeerMemory.PeerUserMapping peer)
    {
        if (peer.IsGone)
        {
            return Need.NoAccess; // SIGBUS: the driver took the pages away
        }

        PageFrame frame = PeerFrames.Make(Memory, peer, region.FilePageOf(page));
        space.Table.Install(page, frame, EntryState.Present, isWritable: region.IsWritable);
        return Need.Nothing;
    }

    private Need DecidePresent(SpaceRegion region, ulong page, in PageEntry entry, FaultFlags flags)
    {
        PageFrame frame = entry.Frame!;
        if (frame.IsPoisoned || (region.Peer is { IsGone: true }))
        {
            return Need.NoAccess;
        }

        bool isWrite = (flags & FaultFlags.Write) != 0;
        bool unshares = (flags & FaultFlags.Unshare) != 0 && region.IsCopyOnWrite && !entry.IsExclusive;
        if ((!isWrite || entry.IsWritable) && !unshares)
        {
            Memory.Touch(frame);
            return Need.Nothing;
        }

        if (!region.IsCopyOnWrite)
        {
            space.Table[page].IsWritable = isWrite;
            frame.IsDirty |= isWrite;
            return Need.Nothing;
        }

        // Nobody else can see it: an anonymous page whose only use is this entry.
        bool isOwn = frame.IsAnonymous && !frame.IsZeroPage
            && (entry.IsExclusive || (frame.MapCount == 1 && frame.HolderCount == 0));
        if (!isOwn)
        {
            return frame.IsLocked ? Need.Unlocked : Need.Copy;
        }

        ref PageEntry at = ref space.Table.Shows(page);
        at.IsExclusive = true;
        at.IsWritable = isWrite || at.IsWritable;
        return Need.Nothing;
    }

    private Need DecideSwapped(ulong page, in PageEntry entry, out PageFrame? frame)
    {
        long slot = entry.Slot;
        frame = Memory.Swap.CachedAt(slot);
        if (frame is null)
        {
            return Need.Frame;
        }

        if (frame.IsLocked)
        {
            return Need.Unlocked;
        }

        ShowSwapped(page, entry, frame);
        return Need.Nothing;
    }

    // do_huge_pmd_anonymous_page: where a whole one fits, nothing is there yet, and memory has one in one piece.
    private bool TryShowHuge(SpaceRegion region, ulong page)
    {
        int order = Memory.HugeOrder;
        ulong first = page & ~((1UL << order) - 1);
        if (!region.Request.UsesHugePages || order == 0
            || !region.Addresses.Contains(AddressRange.OfPages(first, first + (1UL << order))))
        {
            return false;
        }

        for (ulong i = 0; i < 1UL << order; i++)
        {
            if (space.Table.Peek(first + i).State != EntryState.None)
            {
                return false;
            }
        }

        if (order > PageTable.WholeOrderMax
            || Memory.TryAllocateFolio(order, mayBeMovable: true, isCleared: true) is not { } folio)
        {
            return false;
        }

        folio.IsAnonymous = true;
        space.Table.InstallWhole(first, folio, EntryState.Present, isWritable: true, isExclusive: true);
        folio.EndReference();
        return true;
    }

    private void ShowFresh(ulong page, PageFrame fresh)
    {
        PageEntry was = space.Table.Peek(page);
        fresh.IsAnonymous = true;
        if (was.State == EntryState.Swap)
        {
            Memory.Swap.Read(was.Slot, fresh.Bytes.Span);
            Memory.Stats.SwappedIn++;
            ShowSwapped(page, was, fresh);
        }
        else
        {
            space.Table.Clear(page); // the page of zeroes, if any
            space.Table.Install(page, fresh, EntryState.Present, isWritable: true, isExclusive: true);
        }

        fresh.Put();
    }

    // Others may have the same content in the same slot: then a store still has to copy.
    private void ShowSwapped(ulong page, in PageEntry entry, PageFrame frame)
    {
        bool isOwn = Memory.Swap.EntryCountOf(entry.Slot) == 1 && frame.MapCount == 0 && frame.HolderCount <= 1;
        bool isWritable = entry.IsWritable && isOwn;
        frame.Get();
        space.Table.Clear(page);
        space.Table.Install(page, frame, EntryState.Present, isWritable, isExclusive: isOwn);
        frame.Put();
    }

    private void ShowCopy(ulong page, PageFrame source, PageFrame fresh, FaultFlags flags)
    {
        source.Bytes.Span.CopyTo(fresh.Bytes.Span);
        fresh.IsAnonymous = true;
        space.Table.Clear(page);
        bool isWritable = (flags & FaultFlags.Write) != 0;
        space.Table.Install(page, fresh, EntryState.Present, isWritable, isExclusive: true);
        fresh.Put();
    }

    private void FillFromFile(ulong page, PageFrame fresh)
    {
        SpaceRegion region = space.FindRegion(page * PageFrame.SizeBytes)!;
        region.File!.Fill(region.FilePageOf(page), fresh);
        Memory.Touch(fresh);
        fresh.Put();
    }
}
