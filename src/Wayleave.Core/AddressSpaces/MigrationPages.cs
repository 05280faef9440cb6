namespace Wayleave.Core.AddressSpaces;

// A folio is one entry. Others may split it while it is locked (a fork, a partial unmap): its pages are locked one by
// one then, and before the set goes on it takes them up as such.

/// <summary>
/// The pages of a <see cref="MigrationSet"/> and where they go: one array, no object for a page. Host lock held.
/// </summary>
internal sealed class MigrationPages(SpaceOperation operation)
{
    private MigrationPage[] _all = [];
    private int _count;
    private bool _hasFolios;

    public int Count => _count;

    /// <summary>Until one is added.</summary>
    public Span<MigrationPage> All => _all.AsSpan(0, _count);

    /// <summary>Until one is added.</summary>
    public ref MigrationPage this[int index] => ref _all[index];

    /// <summary>A page or folio that the operation has locked, or a place where none is yet.</summary>
    public void Add(PageFrame? frame, ulong page)
    {
        Reserve(1);
        _hasFolios |= frame is { IsFolio: true };
        _all[_count++] = new MigrationPage
        {
            Source = frame,
            Page = page,
            Count = frame?.PageCount ?? 1,
            CanMigrate = true,
        };
    }

    /// <summary>Others may have split a folio of the set: its pages are looked at one by one from now on.</summary>
    public void FollowSplits()
    {
        if (!_hasFolios || !operation.Memory.Host.Has(CoreDefences.FollowsSplits))
        {
            return;
        }

        for (int i = _count - 1; i >= 0; i--)
        {
            if (_all[i] is { Count: > 1, Source.IsFolio: false })
            {
                TakeUpPages(i);
            }
        }
    }

    /// <summary>Room for so many more.</summary>
    public void Reserve(int more)
    {
        if (_count + more > _all.Length)
        {
            Array.Resize(ref _all, Math.Max(_count + more, 2 * _all.Length));
        }
    }

    public int CountWithoutTarget()
    {
        int count = 0;
        foreach (ref readonly MigrationPage page in All)
        {
            count += page.CanMigrate && page.Destination is null ? 1 : 0;
        }

        return count;
    }

    /// <summary>
    /// A folio goes to a folio; where none is free it is split, and its pages go wherever there is room.
    /// </summary>
    public void GiveFolioTargets(Func<int, PageFrame?> allocate)
    {
        for (int i = _hasFolios ? _count - 1 : -1; i >= 0; i--)
        {
            ref MigrationPage page = ref _all[i];
            if (page is not { Count: > 1, CanMigrate: true })
            {
                continue;
            }

            page.Destination = allocate(page.Source!.Order);
            if (page.Destination is { } target)
            {
                target.TryLockAll(operation.Activity);
            }
            else
            {
                TakeUpPages(i);
            }
        }
    }

    /// <summary>Locks targets, and gives them to pages that have none, in order, until there are no more.</summary>
    public void GiveTargets(ReadOnlySpan<PageFrame?> fresh)
    {
        int next = 0;
        for (int i = 0; i < _count && next < fresh.Length; i++)
        {
            ref MigrationPage page = ref _all[i];
            if (page.CanMigrate && page.Destination is null)
            {
                page.Destination = fresh[next++];
                page.Destination!.TryLock(operation.Activity);
            }
        }
    }

    /// <summary>What a driver has to copy: of all that can go and have a target.</summary>
    public PageCopies ListCopies()
    {
        PageCopy[] copies = new PageCopy[_count];
        int count = 0;
        foreach (ref MigrationPage page in All)
        {
            if (page is { CanMigrate: true, Destination: { } to })
            {
                page.CopyIndex = count;
                copies[count++] = new PageCopy(page.Source, to, page.Count);
            }
        }

        Array.Resize(ref copies, count);
        return new PageCopies(copies);
    }

    /// <summary>The driver has copied: what failed goes back to where it was.</summary>
    public void DropFailed(PageCopies copies, bool areAll)
    {
        foreach (ref MigrationPage page in All)
        {
            page.CanMigrate &= !areAll && (page.Destination is null || !copies.HasFailed(page.CopyIndex));
        }
    }

    // A folio of the set is single pages from now on: the first where it was, the others at the end.
    private void TakeUpPages(int index)
    {
        MigrationPage folio = _all[index];
        folio.Source!.Split();
        folio.Destination?.Split();
        Reserve(folio.Count - 1);
        for (int i = 1; i < folio.Count; i++)
        {
            _all[_count++] = folio with
            {
                Count = 1,
                Page = folio.Page + (ulong)i,
                Source = folio.Source.PartAt(i),
                Destination = folio.Destination?.PartAt(i),
            };
        }

        _all[index].Count = 1;
    }
}

/// <summary>A page on its way, or a folio.</summary>
internal struct MigrationPage
{
    /// <summary>Locked; null where the address has no page yet.</summary>
    public PageFrame? Source;

    /// <summary>Locked; null while it has none.</summary>
    public PageFrame? Destination;

    /// <summary>The first, by its number in the address space that was collected.</summary>
    public ulong Page;

    /// <summary>How many pages it is: more than 1 for a folio.</summary>
    public int Count;

    /// <summary>Its place among what the driver copies; that of the folio for a page of one that was split.</summary>
    public int CopyIndex;

    public bool CanMigrate;

    /// <summary>The content is in the destination, and that is what entries show from now on.</summary>
    public bool HasMoved;
}
