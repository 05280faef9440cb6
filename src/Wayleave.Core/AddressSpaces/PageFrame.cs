using Wayleave.Core.Checking;
using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

// What the kernel counts in one word stands apart here: mappings (page-table entries), references (get_user_pages,
// drivers), pins (pin_user_pages). A frame goes back to where it came from when none of them, no page cache and no lock
// hold it. Each life of a frame has a number, so that who kept a frame too long can be told.
//
// A folio is 2^n pages in one piece that have one state: that of the first, its head. The others are parts: they have
// an address and bytes, say what the head says, and are made when somebody looks at one. Whoever would lock, hold
// or pin a single page splits the folio first. One entry shows a folio, or none: a fork splits it.

/// <summary>
/// One page of memory (<c>struct page</c>): 4 KiB of real bytes, who maps it, who holds it. Host lock held by the
/// caller.
/// </summary>
public sealed class PageFrame : IWaitNode
{
    /// <summary><c>PAGE_SIZE</c>.</summary>
    public const int SizeBytes = 4096;

    private readonly Memory<byte> _bytes;
    private readonly IFrameSource _source;
    private FrameMappings _mappings;
    private FrameMappings _migrationEntries;
    private PageFrame? _head; // of the folio that it is a part of
    private bool _hasParts; // of a head: somebody looked at one of its other pages
    private bool _isAllocated, _isAnonymous, _isDirty;
    private int _order, _referenceCount, _pinCount;
    private Activity? _lockOwner;

    internal PageFrame(
        IFrameSource source, PageFrameKind kind, ulong number, Memory<byte> bytes, DeviceAddress address)
    {
        (_source, Kind, Number, _bytes, Address) = (source, kind, number, bytes, address);
    }

    public PageFrameKind Kind { get; }

    /// <summary>Of all frames of the machine (the <c>pfn</c>).</summary>
    public ulong Number { get; }

    /// <summary>
    /// The bytes, for whoever may touch them: the processor for memory it reaches, otherwise the device that has them.
    /// </summary>
    public Memory<byte> Bytes => _bytes;

    /// <summary>
    /// Whether <paramref name="next"/> lies right behind so many pages that begin with this one, in the same piece of
    /// memory of the machine or of a device.
    /// </summary>
    public bool IsFollowedBy(PageFrame next, int pages = 1)
    {
        ArgumentNullException.ThrowIfNull(next);
        return next.Number == Number + (ulong)pages && ReferenceEquals(_source, next._source)
            && Kind is PageFrameKind.System or PageFrameKind.DevicePrivate or PageFrameKind.DeviceCoherent;
    }

    /// <summary>As <see cref="Bytes"/>, of this page and those behind it (<see cref="IsFollowedBy"/>).</summary>
    public Memory<byte> BytesOf(int pages) => pages == 1 ? _bytes : _source.BytesFrom(this, pages);

    /// <summary>The physical address, where a device finds the page through a fabric; 0 for none.</summary>
    public DeviceAddress Address { get; }

    /// <summary>Which life this is: it differs after the frame was free.</summary>
    public ulong Generation { get; private set; }

    /// <summary>Not free.</summary>
    public bool IsAllocated
    {
        get => State._isAllocated;
        internal set => _isAllocated = value;
    }

    public MemoryZoneKind Zone { get; internal init; }

    /// <summary>The device whose memory this is, or null.</summary>
    public DeviceMemory? Device => _source as DeviceMemory;

    /// <summary>The file whose page cache has this page, or null.</summary>
    public MemoryFile? File { get; internal set; }

    /// <summary>Private memory of processes: of no file.</summary>
    public bool IsAnonymous
    {
        get => State._isAnonymous;
        internal set => State._isAnonymous = value;
    }

    /// <summary>Written since it was last written back.</summary>
    public bool IsDirty
    {
        get => State._isDirty;
        internal set => State._isDirty = value;
    }

    /// <summary>Its content is lost (a memory error): whoever touches it gets SIGBUS.</summary>
    public bool IsPoisoned { get; internal set; }

    /// <summary>The page of zeroes that all reads of untouched memory share.</summary>
    public bool IsZeroPage { get; internal init; }

    /// <summary>
    /// Of how many pages it is one that have one state, as a power of two: 0, or 9 in a folio of 2 MiB.
    /// </summary>
    public int Order => State._order;

    /// <summary>How many page-table entries show it.</summary>
    public int MapCount => Mappings.Count;

    /// <summary>References other than mappings, page cache and pins (<c>get_page</c>).</summary>
    public int ReferenceCount
    {
        get => State._referenceCount;
        internal set
        {
            RequireSingle();
            _referenceCount = value;
        }
    }

    /// <summary>Pins of all kinds (<c>pin_user_pages</c>).</summary>
    public int PinCount
    {
        get => State._pinCount;
        internal set
        {
            RequireSingle();
            _pinCount = value;
        }
    }

    /// <summary>
    /// Whether a device may be using it without a mirror (<c>folio_maybe_dma_pinned</c>; exact here).
    /// </summary>
    public bool IsPinned => PinCount > 0;

    /// <summary>Who has locked the page, or null.</summary>
    public Activity? LockOwner => State._lockOwner;

    public bool IsLocked => LockOwner is not null;

    public string Label => $"page {Number}";

    /// <summary>Entries that show this page; of a folio, one entry that stands for all of it.</summary>
    internal ref FrameMappings Mappings => ref State._mappings;

    /// <summary>
    /// Entries that stood for this page before it began to migrate, and will stand for what it becomes.
    /// </summary>
    internal ref FrameMappings MigrationEntries => ref State._migrationEntries;

    /// <summary>The head of several pages that have one state.</summary>
    internal bool IsFolio => _head is null && _order > 0;

    /// <summary>One of the other pages of a folio.</summary>
    internal bool IsPart => _head is not null;

    /// <summary>The head of its folio; itself where it is in none.</summary>
    internal PageFrame Folio => State;

    /// <summary>How many pages share its state: 1, but for a folio.</summary>
    internal int PageCount => 1 << Order;

    internal ulong FileIndex { get; set; }

    /// <summary>The slot of a page that is in the swap cache, or 0.</summary>
    internal long SwapSlot { get; set; }

    // In the list of recently used pages, which is why they are here: no node is allocated for a page.
    internal PageFrame? NewerUsed { get; set; }

    internal PageFrame? OlderUsed { get; set; }

    internal bool IsListed { get; set; }

    internal IFrameSource Source => _source;

    private PageFrame State => _head ?? this;

    /// <summary>How many hold it without mapping it.</summary>
    internal int HolderCount => ReferenceCount + PinCount;

    /// <summary>A device wrote to it, or may have (<c>set_page_dirty</c>).</summary>
    public void MarkDirty() => IsDirty = true;

    public void ListWaits(WaitEdges edges)
    {
        if (LockOwner is { } owner)
        {
            edges.Add("is locked by", owner);
        }
    }

    public override string ToString() => $"{Kind} page {Number}";

    /// <summary>A reference that is no pin (<c>get_page</c>).</summary>
    internal void Get() => ReferenceCount++;

    /// <summary>Lets a reference go; the last one frees the frame.</summary>
    internal void Put()
    {
        if (ReferenceCount == 0)
        {
            throw new InvalidOperationException($"{this} is let go more often than it was held");
        }

        ReferenceCount--;
        FreeIfUnused();
    }

    /// <summary>Takes the page lock if it is free (<c>folio_trylock</c>).</summary>
    internal bool TryLock(Activity activity)
    {
        RequireSingle();
        return TryLockAll(activity);
    }

    /// <summary>As <see cref="TryLock"/>; of a folio, called for its head, it locks all pages.</summary>
    internal bool TryLockAll(Activity activity)
    {
        RequireState();
        if (_lockOwner is not null)
        {
            return false;
        }

        _lockOwner = activity;
        return true;
    }

    internal void Unlock(Activity activity)
    {
        RequireSingle();
        if (!ReferenceEquals(_lockOwner, activity))
        {
            throw new InvalidOperationException($"{this} is unlocked by {activity.Label}, which does not hold it");
        }

        _lockOwner = null;
        FreeIfUnused();
        _source.HandleProgress();
    }

    /// <summary>
    /// What <see cref="Unlock"/> and, with a reference, <see cref="Put"/> do, for many at once and for folios: their
    /// caller tells those who wait.
    /// </summary>
    internal void EndMigration(int references)
    {
        RequireState();
        _lockOwner = null;
        _referenceCount -= references;
        FreeIfUnused();
    }

    /// <summary>As <see cref="Put"/>, also of a folio that one reference has held since it began.</summary>
    internal void EndReference()
    {
        RequireState();
        _referenceCount--;
        FreeIfUnused();
    }

    internal void FreeIfUnused()
    {
        RequireState();
        if (_isAllocated && _mappings.Count == 0 && HolderCount == 0 && File is null && _lockOwner is null
            && SwapSlot == 0)
        {
            _source.Free(this);
        }
    }

    /// <summary>The page is somebody's from now on, held by one reference.</summary>
    /// <param name="order">More than 0: it is the head of a folio; its other pages are free so far.</param>
    internal void Begin(int order)
    {
        RequireSingle();
        (_isAllocated, _referenceCount, _order) = (true, 1, order);
    }

    /// <summary>
    /// The page is nobody's any more; of a folio, nor is any other. Whoever kept one can tell by its
    /// <see cref="Generation"/>.
    /// </summary>
    internal void End()
    {
        RequireState();
        if (_hasParts)
        {
            for (int i = 1; i < 1 << _order; i++)
            {
                PageFrame part = _source.PageBehind(this, i);
                part._head = null;
                part.Generation++;
            }
        }

        (_isAllocated, _isAnonymous, _isDirty, IsPoisoned, _hasParts) = (false, false, false, false, false);
        _order = 0;
        Generation++;
    }

    /// <summary>A page of the folio that begins here; itself for 0.</summary>
    internal PageFrame PartAt(int index)
    {
        if (index == 0)
        {
            return this;
        }

        PageFrame part = _source.PageBehind(this, index);
        if (IsFolio)
        {
            (part._head, _hasParts) = (this, true);
        }

        return part;
    }

    /// <summary>
    /// From now on its pages are single ones with the state that the folio has (<c>split_folio</c>): lock, references,
    /// life. Entries follow with them. Does nothing for a page that is in none.
    /// </summary>
    internal void Split()
    {
        PageFrame head = State;
        if (!head.IsFolio)
        {
            return;
        }

        if (head._mappings.Count > 0)
        {
            (AddressSpace space, ulong page) = head._mappings[0];
            space.Table.SplitWhole(page);
        }
        else if (head._migrationEntries.Count > 0)
        {
            (AddressSpace space, ulong page) = head._migrationEntries[0];
            space.Table.SplitWhole(page);
        }
        else
        {
            head.SplitPages();
        }
    }

    /// <summary>The part of <see cref="Split"/> without entries, for the head, which no entry shows any more.</summary>
    internal void SplitPages()
    {
        int count = PageCount;
        (_order, _hasParts) = (0, false);
        for (int i = 1; i < count; i++)
        {
            PageFrame page = _source.PageBehind(this, i);
            page._head = null;
            (page._isAllocated, page._isAnonymous, page._isDirty) = (_isAllocated, _isAnonymous, _isDirty);
            (page._referenceCount, page._lockOwner) = (_referenceCount, _lockOwner);
        }
    }

    private void RequireState()
    {
        if (_head is not null)
        {
            throw new InvalidOperationException($"{this} is a part of a folio");
        }
    }

    private void RequireSingle()
    {
        if (Order > 0)
        {
            throw new InvalidOperationException($"{this} is in a folio that nobody has split");
        }
    }
}

/// <summary>Where a frame came from and goes back to.</summary>
internal interface IFrameSource
{
    /// <summary>A page, or all pages of a folio, which is still one.</summary>
    void Free(PageFrame frame);

    /// <summary>The page so many behind the first, in the same piece of memory.</summary>
    PageFrame PageBehind(PageFrame first, int index);

    /// <summary>The bytes of that many frames in one piece; the caller knows that they are.</summary>
    Memory<byte> BytesFrom(PageFrame first, int count);

    /// <summary>A page lock was let go: somebody may get on.</summary>
    void HandleProgress();
}
