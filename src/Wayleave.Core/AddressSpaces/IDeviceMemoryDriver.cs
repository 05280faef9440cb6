using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

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

/// <summary>Pages that can be copied in one piece.</summary>
public static class PageCopies
{
    /// <summary>
    /// How many copies from <paramref name="first"/> on are one: sources and destinations lie next to each other, or
    /// there is no source for any of them.
    /// </summary>
    /// <param name="copies">As the driver got them.</param>
    /// <param name="first">Where the run begins.</param>
    /// <param name="pages">How many pages the run has: as many as it has copies where none is a folio.</param>
    public static int CountRun(IReadOnlyList<PageCopy> copies, int first, out int pages)
    {
        ArgumentNullException.ThrowIfNull(copies);
        PageCopy last = copies[first];
        int count = 1;
        pages = last.Pages;
        for (; first + count < copies.Count; count++)
        {
            PageCopy next = copies[first + count];
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
}

/// <summary>
/// What a driver does for its memory (<c>struct dev_pagemap_ops</c>). Called with the host lock held.
/// </summary>
public interface IDeviceMemoryDriver
{
    string Name { get; }

    /// <summary>
    /// Who may ask for pages of this memory: the same object in a <see cref="MirrorRange"/> or a migration
    /// (<c>pgmap-&gt;owner</c>). Devices that can reach each other's memory share one.
    /// </summary>
    object Owner { get; }

    /// <summary>
    /// Whether it copies folios as one (<c>MIGRATE_VMA_SELECT_COMPOUND</c>), and may be told of a free one by its first
    /// page. Without it folios are split before they migrate.
    /// </summary>
    bool TakesFolios => false;

    /// <summary>
    /// Copies pages, to or from the device. No page table shows them meanwhile, and both sides are locked.
    /// </summary>
    /// <param name="copies">Valid until the copy has ended.</param>
    /// <param name="fence">
    /// Signals when the bytes are there, with the error if there was one; null when they are there on return.
    /// </param>
    /// <returns>Anything but success: no page migrates.</returns>
    Errno Copy(IReadOnlyList<PageCopy> copies, out Fence? fence);

    /// <summary>
    /// A page of the device is free again (<c>folio_free</c>), or as many as its <see cref="PageFrame.Order"/> says.
    /// </summary>
    void HandleFree(PageFrame frame);
}

/// <summary>
/// A driver that lets another device reach its private pages where they are. No kernel of today has this: a foreign
/// device's fault brings the page home. An extension, in use only where the mirror asks for it too
/// (<see cref="MirrorRange.AllowsPeerToPeer"/>).
/// </summary>
public interface IPeerReachableMemory : IDeviceMemoryDriver
{
    /// <summary>
    /// The address at which <paramref name="client"/> reaches a page of this device.
    /// </summary>
    /// <returns>
    /// False when there is no route or the page is in no BAR: then the page is brought home as ever.
    /// </returns>
    bool TryGetPeerAddress(PageFrame frame, PciFunction client, out DeviceAddress address);
}
