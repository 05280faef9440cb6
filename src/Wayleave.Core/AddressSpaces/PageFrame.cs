using Wayleave.Core.Checking;
using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

// What the kernel counts in one word stands apart here: mappings (page-table entries), references (get_user_pages,
// drivers), pins (pin_user_pages). A frame goes back to where it came from when none of them, no page cache and no lock
// hold it. Each life of a frame has a number, so that who kept a frame too long can be told.

/// <summary>
/// One page of memory (<c>struct page</c>): 4 KiB of real bytes, who maps it, who holds it. Host lock held by the
/// caller.
/// </summary>
public sealed class PageFrame : IWaitNode
{
    /// <summary><c>PAGE_SIZE</c>.</summary>
    public const int SizeBytes = 4096;

    /// <summary>Entries that show this page.</summary>
    internal FrameMappings Mappings;

    /// <summary>
    /// Entries that stood for this page before it began to migrate, and will stand for what it becomes.
    /// </summary>
    internal FrameMappings MigrationEntries;

    private readonly Memory<byte> _bytes;
    private readonly IFrameSource _source;

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
    /// Whether <paramref name="next"/> lies right behind this page, in the same piece of memory of the machine or of a
    /// device.
    /// </summary>
    public bool IsFollowedBy(PageFrame next)
    {
        ArgumentNullException.ThrowIfNull(next);
        return next.Number == Number + 1 && ReferenceEquals(_source, next._source)
            && Kind is PageFrameKind.System or PageFrameKind.DevicePrivate or PageFrameKind.DeviceCoherent;
    }

    /// <summary>As <see cref="Bytes"/>, of this page and those behind it (<see cref="IsFollowedBy"/>).</summary>
    public Memory<byte> BytesOf(int pages) => pages == 1 ? _bytes : _source.BytesFrom(this, pages);

    /// <summary>The physical address, where a device finds the page through a fabric; 0 for none.</summary>
    public DeviceAddress Address { get; }

    /// <summary>Which life this is: it differs after the frame was free.</summary>
    public ulong Generation { get; internal set; }

    /// <summary>Not free.</summary>
    public bool IsAllocated { get; internal set; }

    public MemoryZoneKind Zone { get; internal init; }

    /// <summary>The device whose memory this is, or null.</summary>
    public DeviceMemory? Device => _source as DeviceMemory;

    /// <summary>The file whose page cache has this page, or null.</summary>
    public MemoryFile? File { get; internal set; }

    /// <summary>Private memory of processes: of no file.</summary>
    public bool IsAnonymous { get; internal set; }

    /// <summary>Written since it was last written back.</summary>
    public bool IsDirty { get; internal set; }

    /// <summary>Its content is lost (a memory error): whoever touches it gets SIGBUS.</summary>
    public bool IsPoisoned { get; internal set; }

    /// <summary>The page of zeroes that all reads of untouched memory share.</summary>
    public bool IsZeroPage { get; internal init; }

    /// <summary>Of how many pages it is one in one piece, as a power of two: 0, or 9 for 2 MiB.</summary>
    public int Order { get; internal set; }

    /// <summary>How many page-table entries show it.</summary>
    public int MapCount => Mappings.Count;

    /// <summary>References other than mappings, page cache and pins (<c>get_page</c>).</summary>
    public int ReferenceCount { get; internal set; }

    /// <summary>Pins of all kinds (<c>pin_user_pages</c>).</summary>
    public int PinCount { get; internal set; }

    /// <summary>
    /// Whether a device may be using it without a mirror (<c>folio_maybe_dma_pinned</c>; exact here).
    /// </summary>
    public bool IsPinned => PinCount > 0;

    /// <summary>Who has locked the page, or null.</summary>
    public Activity? LockOwner { get; private set; }

    public bool IsLocked => LockOwner is not null;

    public string Label => $"page {Number}";

    internal ulong FileIndex { get; set; }

    /// <summary>The slot of a page that is in the swap cache, or 0.</summary>
    internal long SwapSlot { get; set; }

    // In the list of recently used pages, which is why they are here: no node is allocated for a page.
    internal PageFrame? NewerUsed { get; set; }

    internal PageFrame? OlderUsed { get; set; }

    internal bool IsListed { get; set; }

    internal IFrameSource Source => _source;

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
        if (--ReferenceCount < 0)
        {
            throw new InvalidOperationException($"{this} is let go more often than it was held");
        }

        FreeIfUnused();
    }

    /// <summary>Takes the page lock if it is free (<c>folio_trylock</c>).</summary>
    internal bool TryLock(Activity activity)
    {
        if (LockOwner is not null)
        {
            return false;
        }

        LockOwner = activity;
        return true;
    }

    internal void Unlock(Activity activity)
    {
        if (!ReferenceEquals(LockOwner, activity))
        {
            throw new InvalidOperationException($"{this} is unlocked by {activity.Label}, which does not hold it");
        }

        LockOwner = null;
        FreeIfUnused();
        _source.HandleProgress();
    }

    /// <summary>
    /// What <see cref="Unlock"/> and, with a reference, <see cref="Put"/> do, for many at once: their caller tells
    /// those who wait.
    /// </summary>
    internal void EndMigration(int references)
    {
        LockOwner = null;
        ReferenceCount -= references;
        FreeIfUnused();
    }

    internal void FreeIfUnused()
    {
        if (IsAllocated && Mappings.Count == 0 && HolderCount == 0 && File is null && LockOwner is null
            && SwapSlot == 0)
        {
            _source.Free(this);
        }
    }
}

/// <summary>Where a frame came from and goes back to.</summary>
internal interface IFrameSource
{
    void Free(PageFrame frame);

    /// <summary>The bytes of that many frames in one piece; the caller knows that they are.</summary>
    Memory<byte> BytesFrom(PageFrame first, int count);

    /// <summary>A page lock was let go: somebody may get on.</summary>
    void HandleProgress();
}
