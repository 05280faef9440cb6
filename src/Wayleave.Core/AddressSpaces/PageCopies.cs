using System.Collections;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// One page on its way, or one folio. A page that was never written has no source: the driver clears the target.
/// </summary>
/// <param name="Source">Where the bytes are; null for zeroes.</param>
/// <param name="Destination">Where they go.</param>
/// <param name="Pages">
/// How many: more than 1 for a folio, of which source and destination are the first pages
/// (<see cref="PageFrame.BytesOf"/>). Only for a driver that <see cref="IDeviceMemoryDriver.TakesFolios"/>.
/// </param>
public readonly record struct PageCopy(PageFrame? Source, PageFrame Destination, int Pages = 1);

/// <summary>
/// What a driver is to copy for one migration: the <c>src</c> and <c>dst</c> arrays of <c>struct migrate_vma</c> in
/// their middle, between collecting and finalising. Host lock held by the caller of <see cref="Fail"/>.
/// </summary>
public sealed class PageCopies : IReadOnlyList<PageCopy>
{
    private readonly PageCopy[] _copies;
    private bool[]? _failed; // most copies fail of none

    internal PageCopies(PageCopy[] copies) => _copies = copies;

    public int Count => _copies.Length;

    public PageCopy this[int index] => _copies[index];

    /// <summary>Whether <see cref="Fail"/> was called for one of them.</summary>
    public bool HasFailures => _failed is not null;

    /// <summary>
    /// One page, or folio, could not be copied, and this alone: it stays where it was, whatever is in its target by
    /// now, and all others migrate (<c>MIGRATE_PFN_MIGRATE</c> taken out of one entry by the driver, as
    /// <c>nouveau_dmem_migrate_copy_one</c> does). Until the copy's fence has signalled, or before
    /// <see cref="IDeviceMemoryDriver.Copy"/> returns where there is none.
    /// </summary>
    public void Fail(int index)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)index, (uint)_copies.Length, nameof(index));
        (_failed ??= new bool[_copies.Length])[index] = true;
    }

    /// <summary>Whether that one stays where it was.</summary>
    public bool HasFailed(int index) => _failed is { } failed && failed[index];

    /// <summary>
    /// How many copies from <paramref name="first"/> on are one: sources and destinations lie next to each other, or
    /// there is no source for any of them.
    /// </summary>
    /// <param name="first">Where the run begins.</param>
    /// <param name="pages">How many pages the run has: as many as it has copies where none is a folio.</param>
    public int CountRun(int first, out int pages)
    {
        PageCopy last = _copies[first];
        int count = 1;
        pages = last.Pages;
        for (; first + count < _copies.Length; count++)
        {
            PageCopy next = _copies[first + count];
            bool areSources = last.Source is { } from
                ? next.Source is { } behind && from.IsFollowedBy(behind, last.Pages)
                : next.Source is null;
            if (!areSources || !last.Destination.IsFollowedBy(next.Destination, last.Pages))
            {
                break;
            }

            last = next;
            pages += next.Pages;
        }

        return count;
    }

    public IEnumerator<PageCopy> GetEnumerator() => ((IEnumerable<PageCopy>)_copies).GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}
