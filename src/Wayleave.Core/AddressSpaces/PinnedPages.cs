using System.Runtime.InteropServices;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// Pages that somebody holds: they stay where they are, and their bytes at their addresses, until
/// <see cref="Release"/>, whatever the process does. Host lock held by the caller.
/// </summary>
public sealed class PinnedPages
{
    private readonly AddressSpace _space;
    private readonly List<PageFrame> _frames;
    private readonly List<DeviceRange> _addresses;
    private readonly bool _isPin;
    private readonly long _charged;

    internal PinnedPages(
        AddressSpace space,
        List<PageFrame> frames,
        List<DeviceRange> addresses,
        bool isPin,
        bool isLongTerm,
        long charged)
    {
        (_space, _frames, _addresses) = (space, frames, addresses);
        (_isPin, IsLongTerm, _charged) = (isPin, isLongTerm, charged);
    }

    /// <summary>
    /// Where devices find them, pages next to each other in one: at 0 where no device does. Of memory, as a device
    /// without an IOMMU has them.
    /// </summary>
    public IReadOnlyList<DeviceRange> Addresses => _addresses;

    /// <summary>In the order of their addresses.</summary>
    public IReadOnlyList<PageFrame> Frames => _frames;

    public bool IsLongTerm { get; }

    public bool IsReleased { get; private set; }

    /// <summary>
    /// Lets go (<c>unpin_user_pages_dirty_lock</c>): pages that nobody else needs are free, charges are given back.
    /// The second call does nothing.
    /// </summary>
    /// <param name="areDirty">Whether a device may have written to them.</param>
    public void Release(bool areDirty = false)
    {
        _space.Host.AssertHeld();
        if (IsReleased)
        {
            return;
        }

        IsReleased = true;
        foreach (PageFrame frame in _frames)
        {
            frame.IsDirty |= areDirty;
            Drop(_space.Host, frame, _isPin);
        }

        _space.Pins.Uncharge(_charged);
        _space.Memory.HandleProgress();
    }

    /// <summary>
    /// Where devices find the pages, in order; pages next to each other are one entry. Addresses of memory, as a device
    /// without an IOMMU has them.
    /// </summary>
    /// <returns>False when a page has no address that a device could use.</returns>
    public bool TryListAddresses(out DmaAddressList? addresses)
    {
        bool areReachable = _addresses.TrueForAll(r => r.Start.Value != 0);
        addresses = areReachable ? new DmaAddressList(CollectionsMarshal.AsSpan(_addresses)) : null;
        return areReachable;
    }

    internal static void Take(HostContext host, PageFrame frame, bool isPin)
    {
        Count(host, frame, isPin, 1);
        if (frame.Kind == PageFrameKind.PeerToPeer)
        {
            PeerFrames.Hold(frame);
        }
    }

    internal static void Drop(HostContext host, PageFrame frame, bool isPin)
    {
        Count(host, frame, isPin, -1);
        PeerFrames.LetGo(frame);
        frame.FreeIfUnused();
    }

    private static void Count(HostContext host, PageFrame frame, bool isPin, int one)
    {
        if (!host.Has(CoreDefences.CountsPins))
        {
            return;
        }

        if (isPin)
        {
            frame.PinCount += one;
        }
        else
        {
            frame.ReferenceCount += one;
        }
    }
}
