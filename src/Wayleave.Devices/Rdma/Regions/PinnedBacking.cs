using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Regions;

/// <summary>
/// Pages that a registration has pinned for long (<c>ib_umem</c>): they stay where they are until it ends, whatever the
/// process does. Shared by a region and by what a reregistration makes of it. Host lock held.
/// </summary>
internal sealed class PinnedBacking : RegionBacking
{
    private MemoryRegion _region;
    private readonly HostContext _host;
    private readonly PinnedPages _pages;
    private readonly Translation _translation;
    private readonly Timeline _timeline;
    private readonly bool _isWritable;
    private readonly PinnedPolicy? _policy;
    private Fence? _drain;

    public PinnedBacking(MemoryRegion region, HostContext host, SpaceRegionRequest request, PinnedPages pages)
    {
        (_region, _host, _pages) = (region, host, pages);
        _isWritable = request.IsWritable;
        _policy = PinnedPolicy.Start(request, region.Name, pages.Frames.Count);
        _timeline = new Timeline(host, region.Name);
        _translation = new Translation(new DmaAddressList([.. pages.Addresses]), new InFlightGate(HandleDrained));
        region.PublishBacked(_translation);
    }

    /// <summary>Whether a right to write may be added without pinning again (<c>ib_umem_check_rereg</c>).</summary>
    public bool IsWritable => _isWritable;

    public PinnedPages Pages => _pages;

    /// <summary>
    /// The region that has the key from now on uses the pages; the old one is dead and owns nothing.
    /// </summary>
    public void MoveTo(MemoryRegion next)
    {
        MemoryRegion old = _region;
        _region = next;
        next.PublishBacked(_translation);
        old.KillBacked();
    }

    /// <summary>Nothing is ever missing.</summary>
    public override void ServeFault(Action<Errno>? completed)
    {
        if (completed is not null)
        {
            _host.Defer(() => completed(Errno.Success));
        }
    }

    public override Fence? Release()
    {
        _region.KillBacked();
        if (_drain is null && !_translation.Gate.IsClosed && !_translation.Gate.Close(out _))
        {
            _drain = _timeline.CreateFence(); // signalled by the last one out
        }

        if (_drain is { HasEnded: false } drain)
        {
            return drain;
        }

        _policy?.Stop();
        _pages.Release(areDirty: _isWritable);
        return null;
    }

    /// <summary>
    /// Whether these are the pages that it has, in that order: then its addresses are still right.
    /// </summary>
    public bool IsAt(PinnedPages pages) => !_pages.IsReleased && _pages.Frames.SequenceEqual(pages.Frames);

    private void HandleDrained()
    {
        using (_host.Enter())
        {
            using SignalingSection section = new(_region.Name, "drain");
            _drain?.Signal();
        }
    }
}
