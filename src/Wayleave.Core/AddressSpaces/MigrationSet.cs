using Wayleave.Core.Fences;

namespace Wayleave.Core.AddressSpaces;

// migrate_device.c, struct migrate_vma. A page in the set is locked from Collect to Finish. Meanwhile no page table
// shows it: whoever touches it finds a migration entry and waits for the lock. A page whose Destination is null, or
// that is no longer to migrate, goes back to where it was, whatever happened in between.

/// <summary>Pages on their way from one kind of memory to another. Host lock held.</summary>
internal sealed class MigrationSet(SpaceOperation operation, object? owner)
{
    private readonly MigrationPages _pages = new(operation);
    private AddressSpace? _space;
    private bool _isFinished;

    /// <summary>Pages that were collected.</summary>
    public int Count => _pages.Count;

    /// <summary>Pages that have changed places, once finished.</summary>
    public int MigratedCount { get; private set; }

    private MemorySystem Memory => operation.Memory;

    /// <summary>
    /// <c>migrate_vma_collect</c>: one round over the range, then every page that can be locked at once. A range of one
    /// region.
    /// </summary>
    /// <param name="space">Whose pages.</param>
    /// <param name="range">Which.</param>
    /// <param name="select">Of which kind.</param>
    /// <param name="told">What mirrors are told of: the range, while defences are on.</param>
    public IEnumerable<Pause> Collect(
        AddressSpace space, AddressRange range, MigrationSelect select, AddressRange told)
    {
        _space = space;
        InvalidationRound round = space.StartRound(
            operation.Activity, new InvalidateRange(told, InvalidateEvent.Migrate, Owner: owner));
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
            CollectPages(space, range, select);
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
        if (frame.TryLockAll(operation.Activity))
        {
            _pages.Add(frame, 0);
        }
    }

    /// <summary>
    /// <c>migrate_device_unmap</c>: every other entry that shows a page; then pinned pages are dropped.
    /// </summary>
    public IEnumerable<Pause> Isolate()
    {
        if (!Memory.Host.Has(CoreDefences.IsolatesPages))
        {
            yield break;
        }

        for (int i = 0; i < _pages.Count; i++)
        {
            while (_pages[i] is { CanMigrate: true, Source: { MapCount: > 0 } source })
            {
                (AddressSpace space, ulong at) = source.Mappings[0];
                AddressRange shown = AddressRange.OfPages(at, at + (ulong)source.PageCount);
                InvalidationRound round = space.StartRound(
                    operation.Activity, new InvalidateRange(shown, InvalidateEvent.Clear));
                try
                {
                    foreach (Pause pause in round.WaitUntilStarted(Memory))
                    {
                        yield return pause;
                    }

                    _pages.FollowSplits();
                    if (round.State != InvalidationState.Started)
                    {
                        operation.Cycle = round.Cycle ?? operation.Cycle;
                        Restore(ref _pages[i]);
                        break;
                    }

                    ReplaceByMigration(space, at, source);
                    round.End();
                }
                finally
                {
                    round.Abandon();
                }

                yield return "isolate a page";
                _pages.FollowSplits();
            }

            if (_pages[i] is { CanMigrate: true, Source.HolderCount: > 0 })
            {
                Restore(ref _pages[i]);
            }
        }
    }

    /// <summary>The driver's part, towards a device: as many targets as it has, then one copy.</summary>
    public IEnumerable<Pause> CopyTo(DeviceMemory target)
    {
        _pages.FollowSplits();
        _pages.GiveFolioTargets(target.TryAllocateFolio);
        PageFrame?[] fresh = new PageFrame?[_pages.CountWithoutTarget()];
        int taken = target.TryAllocateMany(fresh);
        _pages.GiveTargets(fresh.AsSpan(0, taken));
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
        _pages.FollowSplits();
        for (int i = 0; i < _pages.Count; i++)
        {
            if (_pages[i] is { CanMigrate: true, Destination: { } to, Source: { } from })
            {
                from.BytesOf(from.PageCount).Span.CopyTo(to.BytesOf(from.PageCount).Span);
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
        _pages.FollowSplits();
        for (int i = 0; i < _pages.Count; i++)
        {
            _pages[i].CanMigrate &= _pages[i].Destination is not null;
            if (_pages[i] is not { CanMigrate: true, Destination: { } to })
            {
                continue;
            }

            to.IsAnonymous = true;
            if (_pages[i].Source is { } from)
            {
                to.IsDirty = from.IsDirty;
                _pages[i].HasMoved = true;
                continue;
            }

            foreach (Pause pause in Insert(i, to))
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
        _pages.FollowSplits();
        foreach (ref MigrationPage page in _pages.All)
        {
            Finish(ref page);
        }

        Memory.HandleProgress();
    }

    // A page that only this entry shows, of the usual kind, changes hands where it stands; all others go the long way.
    private void CollectPages(AddressSpace space, AddressRange range, MigrationSelect select)
    {
        EntryState state = (select & MigrationSelect.DevicePrivate) != 0
            ? EntryState.DevicePrivate
            : EntryState.Present;
        for (ulong page = range.FirstPage; page < range.EndPage;)
        {
            if (space.Table.TryGetWholeIn(page, range.EndPage, out PageEntry whole))
            {
                page += CollectFolio(space, page, whole, select);
                continue;
            }

            Span<PageEntry> entries = space.Table.Run(page, Math.Min(range.EndPage, space.Table.EndOfWhole(page)));
            if (entries.IsEmpty)
            {
                CollectPage(space, page++, select);
                continue;
            }

            _pages.Reserve(entries.Length);
            for (int i = 0; i < entries.Length; i++)
            {
                ref PageEntry entry = ref entries[i];
                bool isUsual = entry.State == state && entry.Order == 0
                    && entry.Frame is { IsAnonymous: true, PinCount: 0, IsLocked: false, Mappings.Count: 1 } frame
                    && IsSelected(entry, frame, select) && frame.TryLock(operation.Activity);
                if (isUsual)
                {
                    PageTable.BeginMigration(ref entry, entry.Frame!);
                    _pages.Add(entry.Frame, page + (ulong)i);
                }
                else
                {
                    CollectPage(space, page + (ulong)i, select);
                }
            }

            page += (ulong)entries.Length;
        }
    }

    // How many pages were looked at: none when the folio was split, and the pages are to be looked at by themselves.
    private ulong CollectFolio(AddressSpace space, ulong page, in PageEntry whole, MigrationSelect select)
    {
        PageFrame folio = whole.Frame!;
        ulong count = (ulong)folio.PageCount;
        if (IsSelected(whole, folio, select) && folio.TryLockAll(operation.Activity))
        {
            space.Table.BeginMigrationOfWhole(page);
            _pages.Add(folio, page);
        }

        return count;
    }

    private static void ReplaceByMigration(AddressSpace space, ulong at, PageFrame source)
    {
        PageEntry entry = space.Table.Peek(at);
        if (!ReferenceEquals(entry.Frame, source) || entry.State == EntryState.Migration)
        {
            return;
        }

        if (source.IsFolio)
        {
            space.Table.BeginMigrationOfWhole(at);
        }
        else
        {
            space.Table.ReplaceByMigration(at);
        }
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
                _pages.Add(null, page);
            }

            return;
        }

        if (frame is null || !frame.IsAnonymous || !IsSelected(entry, frame, select)
            || (entry.IsExclusive && frame.IsPinned) || !frame.TryLock(operation.Activity))
        {
            return;
        }

        space.Table.ReplaceByMigration(page);
        _pages.Add(frame, page);
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
        _pages.FollowSplits();
        _pages.GiveFolioTargets(order => Memory.TryAllocateFolio(order, mayBeMovable, isCleared: false));
        PageFrame?[] many = new PageFrame?[_pages.CountWithoutTarget()];
        int taken = Memory.TryAllocateMany(many, mayBeMovable);
        _pages.GiveTargets(many.AsSpan(0, taken));
        for (int i = 0; i < _pages.Count; i++)
        {
            if (!_pages[i].CanMigrate || _pages[i].Destination is not null)
            {
                continue;
            }

            // None is free: one after the other, each taken from somebody.
            FrameSlot slot = new();
            foreach (Pause pause in Memory.Allocate(operation, slot, mayBeMovable, isCleared: false))
            {
                yield return pause;
            }

            _pages.FollowSplits();
            PageFrame? fresh = slot.Frame;
            if (fresh is null)
            {
                yield break; // StepErrno is ENOMEM; what has a target migrates
            }

            fresh.TryLock(operation.Activity);
            _pages[i].Destination = fresh;
        }
    }

    private IEnumerable<Pause> Copy(IDeviceMemoryDriver driver)
    {
        yield return "copy";
        _pages.FollowSplits();
        PageCopies copies = _pages.ListCopies();
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
            _pages.FollowSplits();
        }

        if (errno != Errno.Success || copies.HasFailures)
        {
            _pages.DropFailed(copies, areAll: errno != Errno.Success);
        }
    }

    // migrate_vma_insert_page: nothing was there when the page was collected, and nothing may be there now.
    private IEnumerable<Pause> Insert(int index, PageFrame to)
    {
        AddressSpace space = _space!;
        ulong page = _pages[index].Page;
        InvalidationRound round = space.StartRound(
            operation.Activity,
            new InvalidateRange(AddressRange.OfPage(page), InvalidateEvent.Migrate, Owner: owner));
        try
        {
            foreach (Pause pause in round.WaitUntilStarted(Memory))
            {
                yield return pause;
            }

            PageEntry entry = space.Table.Peek(page);
            SpaceRegion? region = space.FindRegion(page * PageFrame.SizeBytes);
            bool isStillEmpty =
                entry.State == EntryState.None || (entry.IsPresent && entry.Frame!.IsZeroPage);
            bool canMigrate = round.State == InvalidationState.Started && isStillEmpty && region is not null;
            _pages[index].CanMigrate = canMigrate;
            if (canMigrate)
            {
                space.Table.Clear(page);
                EntryState state = to.Kind == PageFrameKind.DevicePrivate
                    ? EntryState.DevicePrivate
                    : EntryState.Present;
                space.Table.Install(page, to, state, region!.IsWritable, isExclusive: true);
                _pages[index].HasMoved = true;
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

    private static void Restore(ref MigrationPage page)
    {
        page.CanMigrate = false;
        RestoreEntries(page.Source!, page.Source!);
    }

    private void Finish(ref MigrationPage page)
    {
        (PageFrame? source, PageFrame? destination) = (page.Source, page.Destination);
        if (source is not null)
        {
            if (page.HasMoved && source.MigrationEntries.Count == 1 && destination!.MapCount == 0)
            {
                (AddressSpace space, ulong at) = source.MigrationEntries[0];
                space.Table.EndMigration(at, source, destination);
            }
            else
            {
                RestoreEntries(source, page.HasMoved ? destination! : source);
            }
        }

        destination?.EndMigration(references: 1);
        source?.EndMigration(references: 0);
        MigratedCount += page.HasMoved ? page.Count : 0;
    }

    // The list and not what was collected: a fork or a move of the range has changed who waits for the page.
    private static void RestoreEntries(PageFrame source, PageFrame now)
    {
        while (source.MigrationEntries.Count > 0)
        {
            (AddressSpace space, ulong at) = source.MigrationEntries[0];
            if (source.IsFolio)
            {
                space.Table.EndMigration(at, source, now);
            }
            else
            {
                space.Table.RestoreFromMigration(at, now);
            }
        }
    }
}
