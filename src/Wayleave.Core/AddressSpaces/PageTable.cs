namespace Wayleave.Core.AddressSpaces;

// Every change of an entry goes through here, so that an entry and its frame's own list of entries never differ.

/// <summary>
/// The entries of an address space, in leaves of 512 that are made when they are touched. Where a folio is shown as a
/// whole, the first of its entries says so and the others are empty; whoever changes one of them splits it first. Host
/// lock held.
/// </summary>
internal sealed class PageTable(AddressSpace space)
{
    /// <summary>Of how many pages a folio is at most that one entry shows, as a power of two.</summary>
    public const int WholeOrderMax = LeafBits;

    private const int LeafBits = 9;
    private const ulong LeafMask = (1UL << LeafBits) - 1;

    // Of the pages within a folio; 0 where none could lie in one leaf.
    private readonly ulong _wholeMask =
        space.Memory.HugeOrder is > 0 and <= WholeOrderMax ? (1UL << space.Memory.HugeOrder) - 1 : 0;

    private readonly Dictionary<ulong, PageEntry[]> _leaves = [];
    private ulong _lastKey = ulong.MaxValue;
    private PageEntry[] _last = [];

    /// <summary>
    /// The entry of a page, to be changed; its leaf is made if need be, and a folio around it is split.
    /// </summary>
    public ref PageEntry this[ulong page]
    {
        get
        {
            ref PageEntry entry = ref At(page);
            if (_last[page & LeafMask & ~_wholeMask].IsWhole)
            {
                SplitWhole(page);
            }

            return ref entry;
        }
    }

    /// <summary>
    /// A copy of the entry; a page whose leaf does not exist has none. Of a page of a folio: what the folio's entry
    /// says, and that page.
    /// </summary>
    public PageEntry Peek(ulong page)
    {
        if (!HasLeaf(page))
        {
            return default;
        }

        ref readonly PageEntry first = ref _last[page & LeafMask & ~_wholeMask];
        return first.IsWhole
            ? first with { Frame = first.Frame!.PartAt((int)(page & _wholeMask)) }
            : _last[page & LeafMask];
    }

    /// <summary>The entry of the folio that a page is in, and that folio's first page.</summary>
    public bool TryGetWhole(ulong page, out ulong first, out PageEntry whole)
    {
        first = page & ~_wholeMask;
        whole = HasLeaf(page) ? _last[first & LeafMask] : default;
        return whole.IsWhole;
    }

    /// <summary>
    /// Entries from a page on, up to <paramref name="end"/> or the end of a leaf; none where there is no leaf. To be
    /// looked at, until anybody changes one. Folios are not: their pages seem empty.
    /// </summary>
    public ReadOnlySpan<PageEntry> PeekRun(ulong page, ulong end)
    {
        if (!HasLeaf(page))
        {
            return [];
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

    /// <summary>One entry shows a folio from now on; as <see cref="Install"/>.</summary>
    internal void InstallWhole(
        ulong first, PageFrame folio, EntryState state, bool isWritable, bool isExclusive)
    {
        At(first) = new PageEntry
        {
            Frame = folio,
            State = state,
            IsWritable = isWritable,
            IsExclusive = isExclusive,
            Order = (byte)folio.Order,
            IsWhole = true,
        };
        MappingsOf(folio, state).Add(space, first);
        space.Memory.Touch(folio);
    }

    /// <summary>
    /// Where a folio is shown as a whole: each of its pages has an entry from now on, and a state of its own. The
    /// mapping is of the same size as before, until one of them differs (<see cref="SplitAround"/>).
    /// </summary>
    internal void SplitWhole(ulong page)
    {
        if (!TryGetWhole(page, out ulong first, out PageEntry whole))
        {
            return;
        }

        PageFrame folio = whole.Frame!;
        int count = folio.PageCount;
        folio.SplitPages();
        PageEntry entry = whole with { IsWhole = false };
        At(first).IsWhole = false;
        space.Memory.Touch(folio);
        for (int i = 1; i < count; i++)
        {
            entry.Frame = folio.PartAt(i);
            At(first + (ulong)i) = entry;
            MappingsOf(entry.Frame, entry.State).Add(space, first + (ulong)i);
            space.Memory.Touch(entry.Frame);
        }
    }

    /// <summary>
    /// The entry that shows a page: its own, or that of its folio. To change what all its pages share.
    /// </summary>
    internal ref PageEntry Shows(ulong page) => ref At(TryGetWhole(page, out ulong first, out _) ? first : page);

    /// <summary>
    /// One entry of a huge mapping is about to differ from the others: from now on all are mappings of one page
    /// (<c>split_huge_pmd</c>).
    /// </summary>
    internal void SplitAround(ulong page)
    {
        SplitWhole(page);
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

    /// <summary>As <see cref="ReplaceByMigration"/> for the entry of a folio.</summary>
    internal void BeginMigrationOfWhole(ulong first)
    {
        ref PageEntry entry = ref At(first);
        BeginMigration(ref entry, entry.Frame!);
    }

    /// <summary>
    /// As <see cref="RestoreFromMigration"/> for the only entry that stands for a page or a folio;
    /// <paramref name="to"/> is shown nowhere yet, and as large.
    /// </summary>
    internal void EndMigration(ulong page, PageFrame from, PageFrame to)
    {
        ref PageEntry entry = ref At(page);
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
            if (TryGetWholeIn(page, range.EndPage, out PageEntry whole))
            {
                ClearWhole(page, whole);
                page |= _wholeMask;
            }
            else if (page < range.EndPage && Peek(page).State != EntryState.None)
            {
                Clear(page);
            }
        }
    }

    /// <summary>
    /// Whether a folio begins here that ends before <paramref name="end"/>; one that goes on is split.
    /// </summary>
    internal bool TryGetWholeIn(ulong page, ulong end, out PageEntry whole)
    {
        whole = default;
        if (page >= end || !TryGetWhole(page, out ulong first, out whole))
        {
            return false;
        }

        bool isInside = first == page && end - page > _wholeMask;
        if (!isInside)
        {
            SplitWhole(page);
        }

        return isInside;
    }

    /// <summary>Where the next folio could begin.</summary>
    internal ulong EndOfWhole(ulong page) => _wholeMask > 0 ? (page | _wholeMask) + 1 : ulong.MaxValue;

    /// <summary>A region of less than all rights: no entry of it may have more.</summary>
    internal void RestrictRange(AddressRange range, SpaceProtection protection)
    {
        SplitAcross(range.FirstPage);
        SplitAcross(range.EndPage);
        for (ulong page = range.FirstPage; page < range.EndPage; page++)
        {
            page = SkipHoles(page, range.EndPage);
            if (page >= range.EndPage || (protection & SpaceProtection.Write) != 0)
            {
                break;
            }

            bool isWhole = TryGetWholeIn(page, range.EndPage, out _);
            At(page).IsWritable = false;
            page |= isWhole ? _wholeMask : 0;
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

    /// <summary>
    /// Moves the entry of a folio that begins here and ends before <paramref name="end"/> to where it begins as well.
    /// </summary>
    /// <returns>How many pages moved; 0 where each has to move by itself (<see cref="MoveEntry"/>).</returns>
    internal ulong TryMoveWhole(ulong from, ulong end, ulong to)
    {
        if ((to & _wholeMask) != 0 || !TryGetWholeIn(from, end, out PageEntry whole))
        {
            return 0;
        }

        At(from) = default;
        At(to) = whole;
        ref FrameMappings mappings = ref MappingsOf(whole.Frame!, whole.State);
        mappings.Remove(space, from);
        mappings.Add(space, to);
        return _wholeMask + 1;
    }

    private void ClearWhole(ulong first, in PageEntry whole)
    {
        At(first) = default;
        MappingsOf(whole.Frame!, whole.State).Remove(space, first);
        whole.Frame!.FreeIfUnused();
    }

    // The entry as it is stored; its leaf is made if need be.
    private ref PageEntry At(ulong page)
    {
        if (!HasLeaf(page))
        {
            (_lastKey, _last) = (page >> LeafBits, new PageEntry[1 << LeafBits]);
            _leaves.Add(_lastKey, _last);
        }

        return ref _last[page & LeafMask];
    }

    private bool HasLeaf(ulong page)
    {
        ulong key = page >> LeafBits;
        if (key == _lastKey)
        {
            return true;
        }

        if (!_leaves.TryGetValue(key, out PageEntry[]? leaf))
        {
            return false;
        }

        (_lastKey, _last) = (key, leaf);
        return true;
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
