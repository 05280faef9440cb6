using Wayleave.Core.Checking;

namespace Wayleave.Core.Fences;

/// <summary>
/// A place for a fence that is not known yet (<c>drm_syncobj</c>): empty, with one fence, or with a timeline of points.
/// Host lock held by the caller.
/// </summary>
public sealed class SyncObject(HostContext host, string name)
{
    private readonly List<(ulong Point, Action<Fence> Submitted)> _waiting = [];

    public string Name { get; } = name;

    /// <summary>The newest fence or link; null while nothing was submitted.</summary>
    public Fence? Fence { get; private set; }

    /// <summary>
    /// The greatest point that is reached (<c>DRM_IOCTL_SYNCOBJ_QUERY</c>); 0 for what is no timeline.
    /// </summary>
    public ulong ReachedPoint
    {
        get
        {
            host.AssertHeld();
            if (Fence is not FenceChain head)
            {
                return 0;
            }

            FenceChain last = head;
            for (Fence? at = head; at is FenceChain link && link.Context == head.Context; at = FenceChain.Walk(at))
            {
                last = link;
            }

            return last.CheckSignaled() ? last.Seqno : last.PreviousSeqno;
        }
    }

    /// <summary>Puts a fence, or nothing, in the place of all there was (<c>drm_syncobj_replace_fence</c>).</summary>
    public void Replace(Fence? fence)
    {
        host.AssertHeld();
        Fence = fence;
        TellSubmitted();
    }

    /// <summary>
    /// Adds a point (<c>drm_syncobj_add_point</c>). One that is not greater than the last is a violation: it begins a
    /// new context, and who waits for the old points waits for this one too.
    /// </summary>
    public void AddPoint(Fence fence, ulong point)
    {
        host.AssertHeld();
        if (Fence is FenceChain last && last.Seqno >= point)
        {
            host.Checker.Report(
                ViolationKind.FenceOrder, Name, $"point {point} comes after {last.Seqno}; points only grow");
        }

        Fence = new FenceChain(host, Fence, fence, point);
        for (Fence? at = Fence; at is not null; at = FenceChain.Walk(at))
        {
            // One walk throws away what is over, so that the chain does not grow with time.
        }

        TellSubmitted();
    }

    /// <summary>What to wait for until a point is reached (<c>drm_syncobj_find_fence</c>); 0 means all.</summary>
    /// <param name="point">0, or a point of the timeline.</param>
    /// <param name="fence">A signalled one when the point is over.</param>
    /// <returns><see cref="Errno.EINVAL"/> when nothing was submitted for that point yet.</returns>
    public Errno TryFindFence(ulong point, out Fence? fence)
    {
        host.AssertHeld();
        fence = null;
        if (Fence is null || FenceChain.TryFindSeqno(Fence, point, out fence) != Errno.Success)
        {
            return Errno.EINVAL;
        }

        fence ??= host.GetStubFence();
        return Errno.Success;
    }

    /// <summary>
    /// Runs <paramref name="submitted"/> with the fence of a point once somebody has submitted it, after the lock was
    /// released (WAIT_FOR_SUBMIT). The wait is for a program, not for a fence: nobody promised to submit.
    /// </summary>
    /// <returns>False when it is there already, so that the callback was not kept.</returns>
    public bool TryAddSubmitCallback(ulong point, Action<Fence> submitted)
    {
        if (TryFindFence(point, out _) == Errno.Success)
        {
            return false;
        }

        _waiting.Add((point, submitted));
        return true;
    }

    private void TellSubmitted()
    {
        for (int i = _waiting.Count - 1; i >= 0; i--)
        {
            (ulong point, Action<Fence> submitted) = _waiting[i];
            if (TryFindFence(point, out Fence? fence) == Errno.Success)
            {
                _waiting.RemoveAt(i);
                host.Defer(() => submitted(fence!));
            }
        }
    }
}
