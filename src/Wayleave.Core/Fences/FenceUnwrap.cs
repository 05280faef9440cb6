namespace Wayleave.Core.Fences;

/// <summary>
/// Containers as the plain fences that they are made of (dma-fence-unwrap.c). Host lock held by the caller.
/// </summary>
public static class FenceUnwrap
{
    /// <summary>
    /// The plain fences of a chain, an array, or a chain of arrays, from the newest link back; a plain fence is its own
    /// (<c>dma_fence_unwrap_for_each</c>). Links of a chain that are over are not among them.
    /// </summary>
    public static IEnumerable<Fence> Unwrap(Fence fence)
    {
        for (Fence? link = fence; link is not null; link = FenceChain.Walk(link))
        {
            Fence part = (link as FenceChain)?.Contained ?? link;
            if (part is FenceArray array)
            {
                // Arrays of containers are violations, but they exist.
                foreach (Fence inner in array.Fences.SelectMany(Unwrap))
                {
                    yield return inner;
                }
            }
            else if (part is FenceChain)
            {
                foreach (Fence inner in Unwrap(part))
                {
                    yield return inner;
                }
            }
            else
            {
                yield return part;
            }
        }
    }

    /// <summary>
    /// One fence that signals when all of <paramref name="fences"/> have (<c>dma_fence_unwrap_merge</c>). Of each
    /// context only the latest is kept. What is signalled is left out, with its error, unless it was forced and its
    /// work has not ended: that is still somebody's business.
    /// </summary>
    /// <returns>
    /// A signalled fence with the latest time of all when nothing is left; the fence itself when one is left; otherwise
    /// an array in the order of the contexts.
    /// </returns>
    public static Fence Merge(HostContext host, params IReadOnlyCollection<Fence> fences)
    {
        host.AssertHeld();
        TimeSpan latest = TimeSpan.Zero;
        List<Fence> open = [];
        foreach (Fence fence in fences.SelectMany(Unwrap))
        {
            if (fence.CheckSignaled() && fence.HasEnded)
            {
                latest = fence.Timestamp > latest ? fence.Timestamp.Value : latest;
            }
            else
            {
                open.Add(fence);
            }
        }

        open.Sort(CompareByContext);
        List<Fence> kept = [];
        Fence? newest = null; // of its context
        foreach (Fence fence in open)
        {
            if (newest?.Context != fence.Context)
            {
                kept.Add(fence);
                newest = fence;
            }
            else if (fence.IsSignaled && !kept.Contains(fence))
            {
                kept.Add(fence);
            }
            else
            {
                newest.StandFor(fence);
            }
        }

        return kept switch
        {
            [] => Fence.CreateSignaled(host, latest),
            [Fence only] => only,
            _ => new FenceArray(host, kept),
        };
    }

    // The later of one context comes first.
    private static int CompareByContext(Fence one, Fence other) =>
        one.Context != other.Context ? one.Context.CompareTo(other.Context)
        : ReferenceEquals(one, other) || one.Seqno == other.Seqno ? 0
        : one.IsLaterThan(other) ? -1 : 1;
}
