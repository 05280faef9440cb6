namespace Wayleave.Core.Fences;

/// <summary>
/// A fence context with its sequence numbers: what one engine, or one mapping, promises in order (<c>dma_fence_context</c> plus
/// the counter that drivers keep beside it). Host lock held by the caller.
/// </summary>
public sealed class Timeline
{
    private readonly HostContext _host;
    private ulong _seqno;

    public Timeline(HostContext host, string name)
    {
        _host = host;
        Name = name;
        Context = host.AllocateFenceContexts();
    }

    public string Name { get; }

    public ulong Context { get; }

    /// <summary>The next fence of this context. The owner of the timeline signals it, after all earlier ones.</summary>
    public Fence CreateFence() => new(_host, Context, ++_seqno, Name);
}
