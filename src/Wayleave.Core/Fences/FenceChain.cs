using Wayleave.Core.Checking;

namespace Wayleave.Core.Fences;

// head (seqno 9) -> (seqno 7) -> (seqno 4) -> ...    each link holds one fence; a link is signalled when its fence and
//                                                    those of all earlier links are
//
// Walking back throws links away that are over, so a chain is as long as what is pending. A link whose fence was forced
// is not over: it is kept until its owner says that the work has ended, or a revoke would not find it.

/// <summary>
/// One point of a timeline that is built as it goes (<c>dma_fence_chain</c>): what a timeline syncobj holds. Its errors
/// stay with its parts; its work has ended when that of all parts has.
/// </summary>
public sealed class FenceChain : Fence
{
    private readonly Fence _fence;
    private readonly ulong _previousSeqno;
    private Fence? _previous;

    /// <param name="host">The host of both fences.</param>
    /// <param name="previous">
    /// The point before. When it is a chain and its number is smaller, this becomes the next point of its context;
    /// otherwise a context of its own begins, with a number that is not smaller.
    /// </param>
    /// <param name="fence">What this point adds. A chain here is a violation; an array is fine.</param>
    /// <param name="seqno">The number of the point.</param>
    public FenceChain(HostContext host, Fence? previous, Fence fence, ulong seqno)
        : this(host, previous, fence, seqno, previous is FenceChain p && IsLater(seqno, p.Seqno, p.Width))
    {
    }

    private FenceChain(HostContext host, Fence? previous, Fence fence, ulong seqno, bool continues)
        : base(
            host,
            continues ? previous!.Context : host.AllocateFenceContexts(),
            continues || previous is not FenceChain ? seqno : Math.Max(previous.Seqno, seqno),
            "fence chain")
    {
        _fence = fence;
        _previous = previous;
        _previousSeqno = continues ? previous!.Seqno : 0;
        if (fence is FenceChain)
        {
            host.Checker.Report(
                ViolationKind.FenceContainer, ToString(),
                $"holds {fence}, itself a chain; that goes before, not inside");
        }
    }

    /// <summary>What this point adds to the ones before it.</summary>
    public Fence Contained => _fence;

    public override bool IsContainer => true;

    public override bool IsUserControlled
    {
        get
        {
            for (Fence? at = this; at is not null; at = (at as FenceChain)?._previous)
            {
                if (Part(at).IsUserControlled)
                {
                    return true;
                }
            }

            return false;
        }
    }

    /// <summary>The number of the point before; 0 for the first of a context.</summary>
    internal ulong PreviousSeqno => _previousSeqno;

    private protected override string OwnDriverName => "dma_fence_chain";

    private protected override string OwnTimelineName => "unbound";

    /// <summary>
    /// The earliest link that stands for point <paramref name="seqno"/> (<c>dma_fence_chain_find_seqno</c>), so what to
    /// wait for.
    /// </summary>
    /// <param name="fence">The newest link, or any fence.</param>
    /// <param name="seqno">The point; 0 finds <paramref name="fence"/> itself.</param>
    /// <param name="found">
    /// Null when the point is over and was thrown away; then there is nothing to wait for. It can also be an earlier
    /// link that is all that is left to wait for.
    /// </param>
    /// <returns><see cref="Errno.EINVAL"/> when this is no chain, or the point does not exist yet.</returns>
    public static Errno TryFindSeqno(Fence? fence, ulong seqno, out Fence? found)
    {
        found = fence;
        if (seqno == 0)
        {
            return Errno.Success;
        }

        if (fence is not FenceChain head || head.Seqno < seqno)
        {
            return Errno.EINVAL;
        }

        for (Fence? at = head; ; at = Walk(at))
        {
            found = at;
            if (at is not FenceChain link || link.Context != head.Context || link._previousSeqno < seqno)
            {
                return Errno.Success;
            }
        }
    }

    /// <summary>
    /// The link before <paramref name="fence"/> that is not over (<c>dma_fence_chain_walk</c>); links that are over are
    /// thrown away on the way. Null at the end, and for what is no chain.
    /// </summary>
    public static Fence? Walk(Fence fence)
    {
        if (fence is not FenceChain link)
        {
            return null;
        }

        link.Host.AssertHeld();
        while (link._previous is { } previous && IsOver(previous))
        {
            link._previous = (previous as FenceChain)?._previous;
        }

        return link._previous;
    }

    public override void ListWaits(WaitEdges edges)
    {
        if (IsSignaled)
        {
            return;
        }

        for (Fence? at = this; at is not null; at = (at as FenceChain)?._previous)
        {
            if (!Part(at).IsSignaled)
            {
                edges.Add("includes", Part(at));
            }
        }
    }

    private protected override bool HandleEnabled()
    {
        for (Fence? at = this; at is not null; at = Walk(at))
        {
            if (Part(at).TryObserve(_ => Host.Defer(LookAgain)))
            {
                return true;
            }
        }

        return false;
    }

    private protected override bool IsDone()
    {
        for (Fence? at = this; at is not null; at = Walk(at))
        {
            if (!Part(at).CheckSignaled())
            {
                return false;
            }
        }

        return true;
    }

    private protected override void ForwardDeadline(TimeSpan deadline)
    {
        if (!Host.Has(CoreDefences.DeadlineForwarding))
        {
            return;
        }

        for (Fence? at = this; at is not null; at = Walk(at))
        {
            Part(at).SetDeadline(deadline);
        }
    }

    private protected override void CompleteFromWithin()
    {
        Fence? running = FirstNotEnded();
        Complete(Errno.Success, forced: running is { IsForced: true }, ended: running is null);
        HandlePartEnded();
    }

    // A link's own fence; a fence that is no link stands for itself, at the end of a chain.
    private static Fence Part(Fence at) => (at as FenceChain)?._fence ?? at;

    private static bool IsOver(Fence at)
    {
        Fence part = Part(at);
        return part.CheckSignaled() && (part.HasEnded || !part.Host.Has(CoreDefences.ChainKeepsEvidence));
    }

    private Fence? FirstNotEnded()
    {
        for (Fence? at = this; at is not null; at = Walk(at))
        {
            if (!Part(at).HasEnded)
            {
                return Part(at);
            }
        }

        return null;
    }

    // The part that was waited for is over; the next one is waited for, or none is left.
    private void LookAgain()
    {
        using (Host.Enter())
        {
            if (!IsSignaled && !HandleEnabled())
            {
                CompleteFromWithin();
            }
        }
    }

    private void HandlePartEnded()
    {
        while (FirstNotEnded() is { } running)
        {
            if (running.TryObserveEnd(_ => HandlePartEnded()))
            {
                return;
            }
        }

        MarkEnded();
    }
}
