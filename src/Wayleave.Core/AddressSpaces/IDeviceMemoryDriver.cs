using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

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
    /// <param name="copies">
    /// Valid until the copy has ended; of those that fail by themselves the driver says so
    /// (<see cref="PageCopies.Fail"/>).
    /// </param>
    /// <param name="fence">
    /// Signals when the bytes are there; with an error where nobody can say of which pages they are, and then none
    /// migrates. Null when they are there on return.
    /// </param>
    /// <returns>Anything but success: no page migrates.</returns>
    Errno Copy(PageCopies copies, out Fence? fence);

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
