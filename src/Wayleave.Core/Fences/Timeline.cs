namespace Wayleave.Core.Fences;

/// <summary>
/// A fence context with its sequence numbers: what one engine, or one mapping, promises in order
/// (<c>dma_fence_context</c> plus the counter that drivers keep beside it). Host lock held by the caller.
/// </summary>
public sealed class Timeline
{
    private readonly HostContext _host;
    private ulong _seqno;
    private ulong _signaled;

    public Timeline(HostContext host, string name)
    {
        _host = host;
        Name = name;
        Context = host.AllocateFenceContexts();
    }

    public string Name { get; }

    public ulong Context { get; }

    /// <summary>The next fence of this context. The owner of the timeline signals it, after all earlier ones.</summary>
    public Fence CreateFence() => new(_host, this, ++_seqno);

    // A reservation drops an earlier fence of a context in favour of a later one, so an order that is not kept would
    // lose a wait: memory would move under work that still runs.
    internal void HandleSignaled(Fence fence)
    {
        if (fence.Seqno != _signaled + 1)
        {
            throw new InvalidOperationException(
                $"{fence} signals before {Context}:{_signaled + 1}; fences of one timeline signal in order, "
                + "so use one timeline per queue");
        }

        _signaled = fence.Seqno;
    }
}
