using Wayleave.Core.Fences;

namespace Wayleave.Core.AddressSpaces;

// migrate_device.c, struct migrate_vma. A page in the set is locked from Collect to Finish. Meanwhile no page table
// shows it: whoever touches it finds a migration entry and waits for the lock. A page whose Destination is null, or
// that is no longer to migrate, goes back to where it was, whatever happened in between.

/// <summary>Pages on their way from one kind of memory to another. Host lock held.</summary>
internal sealed class MigrationSet(SpaceOperation operation, object? owner)
{
    private readonly List<Entry> _pages = [];
    private AddressSpace? _space;
    private bool _isFinished;

    /// <summary>Pages that were collected.</summary>
    public int Count => _pages.Count;

    /// <summary>Pages still to migrate (<c>cpages</c>).</summary>
    public int MigratingCount => _pages.Count(p => p.CanMigrate);

    /// <summary>Pages that have changed places, once finished.</summary>
    public int MigratedCount { get; private set; }

    private MemorySystem Memory => operation.Memory;

    /// <summary>
    /// <c>migrate_vma_collect</c>: one round over the range, then every page that can be locked at once. A range of one
    /// region.
    /// </summary>
    public IEnumerable<Pause> Collect(AddressSpace space, AddressRange range, MigrationSelect select)
    {
        _space = space;
        InvalidationRound round = space.StartRound(
            operation.Activity, new InvalidateRange(range, InvalidateEvent.Migrate, Owner: owner));
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

            yield return "collect pages";
            for (ulong page = range.FirstPage; page < range.EndPage; page++)
            {
                CollectPage(space, page, select);
            }

            round.End();
        }
        finally
        {
            round.Abandon();
        }
    }

    /// <summary>Collects a page by itself, wherever it is mapped (<c>migrate_device_range</c>).</summary>
    public void CollectFrame(PageFrame frame)
    {
        if (frame.TryLock(operation.Activity))
        {
            _pages.Add(new Entry(frame, 0) { CanMigrate = true });
        }
    }

    /// <summary>
    /// <c>migrate_device_unmap</c>: every other entry that shows a page; then pinned pages are dropped.
    /// </summary>
    public IEnumerable<Pause> Isolate()
    {
        foreach (Entry page in _pages)
        {
            while (page is { CanMigrate: true, Source: { MapCount: > 0 } source })
            {
                (AddressSpace space, ulong at) = source.Mappings[0];
                InvalidationRound round = space.StartRound(
                    operation.Activity, new InvalidateRange(AddressRange.OfPage(at), InvalidateEvent.Clear));
                try
                {
                    foreach (Pause pause in round.WaitUntilStarted(Memory))
                    {
                        yield return pause;
                    }

                    if (round.State != InvalidationState.Started)
                    {
                        operation.Cycle = round.Cycle ?? operation.Cycle;
                        Restore(page);
                        break;
                    }

                    if (ReferenceEquals(space.Table.Peek(at).Frame, source)
                        && space.Table.Peek(at).State != EntryState.Migration)
                    {
                        space.Table.ReplaceByMigration(at);
                    }

                    round.End();
                }
                finally
                {
                    round.Abandon();
                }

                yield return "isolate a page";
            }

            if (page is { CanMigrate: true, Source.HolderCount: > 0 })
            {
                Restore(page);
            }
        }
    }

    /// <summary>The driver's part, towards a device: as many targets as it has, then one copy.</summary>
    public IEnumerable<Pause> CopyTo(DeviceMemory target)
    {
        foreach (Entry page in _pages)
        {
            if (page.CanMigrate && target.TryAllocate() is { } fresh)
            {
                fresh.TryLock(operation.Activity);
                page.Destination = fresh;
            }
        }

        return Copy(target.Driver);
    }

    /// <summary>The driver's part, homewards; memory may have to be taken from somebody first.</summary>
    public IEnumerable<Pause> CopyHome(DeviceMemory source, bool mayBeMovable = true)
    {
        foreach (Pause pause in AllocateHome(mayBeMovable))
        {
            yield return pause;
        }

        foreach (Pause pause in Copy(source.Driver))
        {
            yield return pause;
        }
    }

    /// <summary>From one place in the machine's memory to another; the processor copies.</summary>
    public IEnumerable<Pause> CopyWithin(bool mayBeMovable)
    {
        foreach (Pause pause in AllocateHome(mayBeMovable))
        {
            yield return pause;
        }

        yield return "copy";
        foreach (Entry page in _pages)
        {
            if (page is { CanMigrate: true, Destination: { } to, Source: { } from })
            {
                from.Bytes.Span.CopyTo(to.Bytes.Span);
            }
        }
    }

    /// <summary>
    /// <c>migrate_device_pages</c>: pages change places; a page that never was anywhere gets its entry, unless somebody
    /// touched it meanwhile.
    /// </summary>
    public IEnumerable<Pause> MovePages()
    {
        yield return "move pages";
        foreach (Entry page in _pages)
        {
            page.CanMigrate &= page.Destination is not null;
            if (page is not { CanMigrate: true, Destination: { } to })
            {
                continue;
            }

            to.IsAnonymous = true;
            if (page.Source is { } from)
            {
                to.IsDirty = from.IsDirty;
                page.HasMoved = true;
                continue;
            }

            foreach (Pause pause in Insert(page, to))
            {
                yield return pause;
            }
        }
    }

    /// <summary>
    /// <c>migrate_device_finalize</c>: runs whatever happened before, once. Locks are let go, and pages that nobody
    /// needs any more are free.
    /// </summary>
    public void FinishAll()
    {
        if (_isFinished)
        {
            return;
        }

        _isFinished = true;
        foreach (Entry page in _pages)
        {
            Finish(page);
        }

        Memory.HandleProgress();
    }

    private void CollectPage(AddressSpace space, ulong page, MigrationSelect select)
    {
        PageEntry entry = space.Table.Peek(page);
        PageFrame? frame = entry.Frame;
        bool isEmpty = entry.State == EntryState.None || (entry.IsPresent && frame!.IsZeroPage);
        if (isEmpty)
        {
            if ((select & MigrationSelect.System) != 0 && space.FindRegion(page * PageFrame.SizeBytes)?.File is null)
            {
                _pages.Add(new Entry(null, page) { CanMigrate = true });
            }

            return;
        }

        if (frame is null || !frame.IsAnonymous || !IsSelected(entry, frame, select)
            || (entry.IsExclusive && frame.IsPinned) || !frame.TryLock(operation.Activity))
        {
            return;
        }

        space.Table.ReplaceByMigration(page);
        _pages.Add(new Entry(frame, page) { CanMigrate = true });
    }

    private bool IsSelected(in PageEntry entry, PageFrame frame, MigrationSelect select)
    {
        MigrationSelect kind = (entry.State, frame.Kind) switch
        {
            (EntryState.Present, PageFrameKind.System) => MigrationSelect.System,
            (EntryState.Present, PageFrameKind.DeviceCoherent) => MigrationSelect.DeviceCoherent,
            (EntryState.DevicePrivate, _) => MigrationSelect.DevicePrivate,
            _ => MigrationSelect.None,
        };
        return (select & kind) != 0
            && (kind == MigrationSelect.System || ReferenceEquals(frame.Device!.Driver.Owner, owner));
    }

    private IEnumerable<Pause> AllocateHome(bool mayBeMovable)
    {
        foreach (Entry page in _pages)
        {
            if (!page.CanMigrate)
            {
                continue;
            }

            PageFrame? fresh = Memory.TryAllocate(mayBeMovable, isCleared: page.Source is null);
            if (fresh is null)
            {
                FrameSlot slot = new();
                foreach (Pause pause in Memory.Allocate(operation, slot, mayBeMovable, page.Source is null))
                {
                    yield return pause;
                }

                fresh = slot.Frame;
            }

            if (fresh is null)
            {
                yield break; // StepErrno is ENOMEM; what has a target migrates
            }

            fresh.TryLock(operation.Activity);
            page.Destination = fresh;
        }
    }

    private IEnumerable<Pause> Copy(IDeviceMemoryDriver driver)
    {
        yield return "copy";
        List<PageCopy> copies = new(_pages.Count);
        foreach (Entry page in _pages)
        {
            if (page is { CanMigrate: true, Destination: { } to })
            {
                copies.Add(new PageCopy(page.Source, to));
            }
        }

        if (copies.Count == 0)
        {
            yield break;
        }

        Errno errno = driver.Copy(copies, out Fence? fence);
        if (errno == Errno.Success && fence is not null)
        {
            FenceWait wait = FenceWait.Start(Memory.Host, operation.Activity, fence, FenceWait.NoTimeout);
            wait.TryAddCallback(Memory.HandleProgressOutside);
            yield return new Pause("wait for the copy", () => wait.IsCompleted) { IsUninterruptible = true };
            errno = wait.Errno != Errno.Success ? wait.Errno : fence.Error;
            operation.Cycle = wait.Cycle ?? operation.Cycle;
        }

        if (errno != Errno.Success)
        {
            foreach (Entry page in _pages)
            {
                page.CanMigrate = false;
            }
        }
    }

    // migrate_vma_insert_page: nothing was there when the page was collected, and nothing may be there now.
    private IEnumerable<Pause> Insert(Entry page, PageFrame to)
    {
        AddressSpace space = _space!;
        InvalidationRound round = space.StartRound(
            operation.Activity,
            new InvalidateRange(AddressRange.OfPage(page.Page), InvalidateEvent.Migrate, Owner: owner));
        try
        {
            foreach (Pause pause in round.WaitUntilStarted(Memory))
            {
                yield return pause;
            }

            PageEntry entry = space.Table.Peek(page.Page);
            SpaceRegion? region = space.FindRegion(page.Page * PageFrame.SizeBytes);
            bool isStillEmpty =
                entry.State == EntryState.None || (entry.IsPresent && entry.Frame!.IsZeroPage);
            page.CanMigrate = round.State == InvalidationState.Started && isStillEmpty && region is not null;
            if (page.CanMigrate)
            {
                space.Table.Clear(page.Page);
                EntryState state = to.Kind == PageFrameKind.DevicePrivate
                    ? EntryState.DevicePrivate
                    : EntryState.Present;
                space.Table.Install(page.Page, to, state, region!.IsWritable, isExclusive: true);
                page.HasMoved = true;
            }

            if (round.State == InvalidationState.Started)
            {
                round.End();
            }
        }
        finally
        {
            round.Abandon();
        }
    }

    private static void Restore(Entry page)
    {
        page.CanMigrate = false;
        RestoreEntries(page.Source!, page.Source!);
    }

    private void Finish(Entry page)
    {
        if (page.Source is { } source)
        {
            RestoreEntries(source, page.HasMoved ? page.Destination! : source);
        }

        if (page.Destination is { } destination)
        {
            destination.Unlock(operation.Activity);
            destination.Put();
        }

        page.Source?.Unlock(operation.Activity);
        MigratedCount += page.HasMoved ? 1 : 0;
    }

    // The list and not what was collected: a fork or a move of the range has changed who waits for the page.
    private static void RestoreEntries(PageFrame source, PageFrame now)
    {
        while (source.MigrationEntries.Count > 0)
        {
            (AddressSpace space, ulong at) = source.MigrationEntries[0];
            space.Table.RestoreFromMigration(at, now);
        }
    }

    private sealed class Entry(PageFrame? source, ulong page)
    {
        public PageFrame? Source { get; } = source;

        public PageFrame? Destination { get; set; }

        public ulong Page { get; } = page;

        public bool CanMigrate { get; set; }

        /// <summary>The content is in the destination, and that is what entries show from now on.</summary>
        public bool HasMoved { get; set; }
    }
}
