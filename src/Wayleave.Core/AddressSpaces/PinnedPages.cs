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
    private readonly PageFrame[] _frames;
    private readonly bool _isPin;
    private readonly long _charged;

    internal PinnedPages(AddressSpace space, PageFrame[] frames, bool isPin, bool isLongTerm, long charged)
    {
        (_space, _frames, _isPin, IsLongTerm, _charged) = (space, frames, isPin, isLongTerm, charged);
    }

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
            Drop(frame, _isPin);
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
        addresses = null;
        List<DeviceRange> ranges = [];
        foreach (PageFrame frame in _frames)
        {
            if (frame.Address.Value == 0)
            {
                return false;
            }

            if (ranges is [.., { } last] && last.Start.Value + last.LengthBytes == frame.Address.Value)
            {
                ranges[^1] = last with { LengthBytes = last.LengthBytes + PageFrame.SizeBytes };
            }
            else
            {
                ranges.Add(new DeviceRange(frame.Address, PageFrame.SizeBytes));
            }
        }

        addresses = new DmaAddressList([.. ranges]);
        return true;
    }

    internal static void Take(PageFrame frame, bool isPin)
    {
        frame.PinCount += isPin ? 1 : 0;
        frame.ReferenceCount += isPin ? 0 : 1;
        PeerFrames.Hold(frame);
    }

    internal static void Drop(PageFrame frame, bool isPin)
    {
        frame.PinCount -= isPin ? 1 : 0;
        frame.ReferenceCount -= isPin ? 0 : 1;
        PeerFrames.LetGo(frame);
        frame.FreeIfUnused();
    }
}
