namespace Wayleave.Core.AddressSpaces;

// Every change of an entry goes through here, so that an entry and its frame's own list of entries never differ.

/// <summary>
/// The entries of an address space, in leaves of 512 that are made when they are touched. Host lock held.
/// </summary>
internal sealed class PageTable(AddressSpace space)
{
    private const int LeafBits = 9;
    private const ulong LeafMask = (1UL << LeafBits) - 1;

    private readonly Dictionary<ulong, PageEntry[]> _leaves = [];
    private ulong _lastKey = ulong.MaxValue;
    private PageEntry[] _last = [];

    /// <summary>The entry of a page; its leaf is made if need be.</summary>
    public ref PageEntry this[ulong page]
    {
        get
        {
            ulong key = page >> LeafBits;
            if (key != _lastKey)
            {
                if (!_leaves.TryGetValue(key, out PageEntry[]? leaf))
                {
                    _leaves.Add(key, leaf = new PageEntry[1 << LeafBits]);
                }

                (_lastKey, _last) = (key, leaf);
            }

            return ref _last[page & LeafMask];
        }
    }

    /// <summary>A copy of the entry; a page whose leaf does not exist has none.</summary>
    public PageEntry Peek(ulong page)
    {
        ulong key = page >> LeafBits;
        if (key == _lastKey)
        {
            return _last[page & LeafMask];
        }

        if (!_leaves.TryGetValue(key, out PageEntry[]? leaf))
        {
            return default;
        }

        (_lastKey, _last) = (key, leaf);
        return leaf[page & LeafMask];
    }

    /// <summary>
    /// Entries from a page on, up to <paramref name="end"/> or the end of a leaf; none where there is no leaf. To be
    /// looked at, until anybody changes one.
    /// </summary>
    public ReadOnlySpan<PageEntry> PeekRun(ulong page, ulong end)
    {
        ulong key = page >> LeafBits;
        if (key != _lastKey)
        {
            if (!_leaves.TryGetValue(key, out PageEntry[]? leaf))
            {
                return [];
            }

            (_lastKey, _last) = (key, leaf);
        }

        int first = (int)(page & LeafMask);
        return _last.AsSpan(first, (int)Math.Min(end - page, (ulong)(_last.Length - first)));
    }

    /// <summary>
    /// The first page at or after <paramref name="page"/> whose leaf exists; the end if there is none.
    /// </summary>
    public ulong SkipHoles(ulong page, ulong end)
    {
        while (page < end && !_leaves.ContainsKey(page >> LeafBits))
        {
            page = ((page >> LeafBits) + 1) << LeafBits;
        }

        return Math.Min(page, end);
    }

    /// <summary>
    /// An entry shows a frame from now on. What it held before was cleared; the caller's reference stays the caller's.
    /// </summary>
    internal void Install(
        ulong page, PageFrame frame, EntryState state, bool isWritable, bool isExclusive = false, byte order = 0)
    {
        this[page] = new PageEntry
        {
            Frame = frame,
            State = state,
            IsWritable = isWritable,
            IsExclusive = isExclusive,
            Order = order,
        };
        if (!frame.IsZeroPage)
        {
            ref FrameMappings mappings = ref MappingsOf(frame, state);
            mappings.Add(space, page);
            space.Memory.Touch(frame);
        }
    }

    /// <summary>
    /// One entry of a huge mapping is about to differ from the others: from now on all are mappings of one page
    /// (<c>split_huge_pmd</c>).
    /// </summary>
    internal void SplitAround(ulong page)
    {
        if (Peek(page).Order is var order and > 0)
        {
            ulong first = page & ~((1UL << order) - 1);
            for (ulong i = 0; i < 1UL << order; i++)
            {
                this[first + i].Order = 0;
            }
        }
    }

    /// <summary>Lets go of what an entry holds; nothing is in it afterwards.</summary>
    internal void Clear(ulong page)
    {
        SplitAround(page);
        ref PageEntry entry = ref this[page];
        PageEntry was = entry;
        entry = default;
        switch (was.State)
        {
            case EntryState.Swap:
                space.Memory.Swap.Put(was.Slot);
                break;
            case EntryState.Migration:
                was.Frame!.MigrationEntries.Remove(space, page);
                break;
            case EntryState.None or EntryState.Poison:
                break;
            default:
                if (!was.Frame!.IsZeroPage)
                {
                    was.Frame.Mappings.Remove(space, page);
                    was.Frame.FreeIfUnused();
                }

                break;
        }
    }

    /// <summary>
    /// Reclaim: the content of an anonymous page is in a slot; that of a file's page is the file's affair.
    /// </summary>
    internal void ReplaceBySlot(ulong page, long slot)
    {
        SplitAround(page);
        PageEntry was = Peek(page);
        was.Frame!.Mappings.Remove(space, page);
        if (slot == 0)
        {
            this[page] = default;
            return;
        }

        space.Memory.Swap.Get(slot);
        this[page] = new PageEntry { State = EntryState.Swap, Slot = slot, IsWritable = was.IsWritable };
    }

    /// <summary>The same page, for others to come: between two places (<c>set_migration_entry</c>).</summary>
    internal void ReplaceByMigration(ulong page)
    {
        SplitAround(page);
        PageEntry was = Peek(page);
        was.Frame!.Mappings.Remove(space, page);
        Install(page, was.Frame, EntryState.Migration, was.IsWritable, was.IsExclusive);
    }

    /// <summary>
    /// As <see cref="ReplaceByMigration"/> for an entry of a mapping of one page whose frame no other entry shows.
    /// </summary>
    internal static void BeginMigration(ref PageEntry entry, PageFrame frame)
    {
        entry.State = EntryState.Migration;
        frame.MigrationEntries.TakeOver(ref frame.Mappings);
    }

    /// <summary>
    /// As <see cref="RestoreFromMigration"/> for the only entry that stands for a page; <paramref name="to"/> is shown
    /// nowhere yet.
    /// </summary>
    internal void EndMigration(ulong page, PageFrame from, PageFrame to)
    {
        ref PageEntry entry = ref this[page];
        entry.Frame = to;
        entry.State = to.Kind == PageFrameKind.DevicePrivate ? EntryState.DevicePrivate : EntryState.Present;
        to.Mappings.TakeOver(ref from.MigrationEntries);
        space.Memory.Touch(to);
    }

    /// <summary>Entries from a page on, to be changed; as <see cref="PeekRun"/>.</summary>
    internal Span<PageEntry> Run(ulong page, ulong end)
    {
        ReadOnlySpan<PageEntry> run = PeekRun(page, end);
        return run.IsEmpty ? [] : _last.AsSpan((int)(page & LeafMask), run.Length);
    }

    /// <summary>Where a page migrated to, or that it did not (<c>remove_migration_ptes</c>).</summary>
    internal void RestoreFromMigration(ulong page, PageFrame frame)
    {
        PageEntry was = Peek(page);
        was.Frame!.MigrationEntries.Remove(space, page);
        EntryState state = frame.Kind == PageFrameKind.DevicePrivate ? EntryState.DevicePrivate : EntryState.Present;
        Install(page, frame, state, was.IsWritable, was.IsExclusive);
    }

    /// <summary>Clears every entry of a range.</summary>
    internal void ClearRange(AddressRange range)
    {
        for (ulong page = range.FirstPage; page < range.EndPage; page++)
        {
            page = SkipHoles(page, range.EndPage);
            if (page < range.EndPage && Peek(page).State != EntryState.None)
            {
                Clear(page);
            }
        }
    }

    /// <summary>A region of less than all rights: no entry of it may have more.</summary>
    internal void RestrictRange(AddressRange range, SpaceProtection protection)
    {
        SplitAcross(range.FirstPage);
        SplitAcross(range.EndPage);
        for (ulong page = range.FirstPage; page < range.EndPage; page++)
        {
            page = SkipHoles(page, range.EndPage);
            if (page < range.EndPage && (protection & SpaceProtection.Write) == 0)
            {
                this[page].IsWritable = false;
            }
        }
    }

    /// <summary>Moves an entry to another page; whoever waits for a migration of it finds it there.</summary>
    internal void MoveEntry(ulong from, ulong to)
    {
        SplitAround(from);
        PageEntry entry = Peek(from);
        this[from] = default;
        this[to] = entry;
        if (entry.Frame is { IsZeroPage: false } frame)
        {
            ref FrameMappings mappings = ref MappingsOf(frame, entry.State);
            mappings.Remove(space, from);
            mappings.Add(space, to);
        }
    }

    private static ref FrameMappings MappingsOf(PageFrame frame, EntryState state) =>
        ref (state == EntryState.Migration ? ref frame.MigrationEntries : ref frame.Mappings);

    // A boundary inside a huge mapping splits it; one between two does not.
    private void SplitAcross(ulong boundary)
    {
        if (Peek(boundary).Order is var order and > 0 && (boundary & ((1UL << order) - 1)) != 0)
        {
            SplitAround(boundary);
        }
    }
}
