using Wayleave.Core;
using Wayleave.Core.AddressSpaces;

namespace Wayleave.Devices.Rdma.Regions;

/// <summary>
/// Sees to it that the policy of a pinned region is kept, from its pins to its end. Host lock held.
/// </summary>
internal sealed class PinnedPolicy : IMirror, ILastResort
{
    private readonly SpaceRegionRequest _request;
    private readonly string _region;
    private RangeHold? _hold;
    private IntervalNotifier? _notifier;
    private bool _hasEnded;

    private PinnedPolicy(SpaceRegionRequest request, string region, long pageCount) =>
        (_request, _region, PageCount) = (request, region, pageCount);

    public string Name => _region;

    public long PageCount { get; }

    /// <summary>Null where there is nothing to see to: the kernel's way, or a process that has ended.</summary>
    public static PinnedPolicy? Start(SpaceRegionRequest request, string region, long pageCount)
    {
        PinnedPolicy policy = new(request, region, pageCount);
        switch (request.Policy)
        {
            case PinnedMemoryPolicy.Refuse:
                policy._hold = request.Space.Hold(request.Addresses, region);
                return policy;
            case PinnedMemoryPolicy.EndProcess:
                request.Space.Memory.AddLastResort(policy);
                return request.Space.Subscribe(WholePages(request.Addresses), policy, out policy._notifier)
                    == Errno.Success
                    ? policy
                    : policy.Drop();
            default:
                return null;
        }
    }

    public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
    {
        notifier.SetSequence(sequence);
        if (range.Event == InvalidateEvent.Unmap && !_request.Space.IsDead)
        {
            End($"it unmapped {range.Addresses}, which {_region} holds for peers");
        }

        return InvalidateAnswer.Done;
    }

    public void GiveUp() => End($"no memory is left, and {_region} holds {PageCount} pages");

    /// <summary>The region lets go of its pages. The second call does nothing.</summary>
    public void Stop()
    {
        _hold?.Release();
        _hold = null;
        _notifier?.Remove();
        _notifier = null;
        _request.Space.Memory.RemoveLastResort(this);
    }

    private void End(string reason)
    {
        if (!_hasEnded)
        {
            _hasEnded = true;
            _request.Space.Host.Trace("rdma.process_ended", _request.Space.Name, PageCount);
            _request.Space.Host.Defer(() => _request.EndProcess!(reason));
        }
    }

    private PinnedPolicy? Drop()
    {
        Stop();
        return null;
    }

    private static AddressRange WholePages(AddressRange range)
    {
        const ulong Mask = PageFrame.SizeBytes - 1;
        ulong start = range.Start & ~Mask;
        return new AddressRange(start, ((range.End + Mask) & ~Mask) - start);
    }
}
