using Wayleave.Core.Checking;

namespace Wayleave.Core.Fences;

/// <summary>
/// A fence context with its sequence numbers: what one engine, or one mapping, promises in order
/// (<c>dma_fence_context</c> plus the counter that drivers keep beside it). Host lock held by the caller.
/// </summary>
public sealed class Timeline
{
    private readonly HostContext _host;
    private readonly Queue<Fence> _pending = new();
    private ulong _seqno;
    private ulong _signaled;
    private bool _isDropped;

    /// <param name="host">The host whose lock guards it.</param>
    /// <param name="name">Who signals the fences, for people and proofs.</param>
    /// <param name="signaler">
    /// Who must run for a fence to signal, when that can itself wait for something; null for what always gets on.
    /// </param>
    public Timeline(HostContext host, string name, IWaitNode? signaler = null)
    {
        _host = host;
        Name = name;
        Signaler = signaler;
        Context = host.AllocateFenceContexts();
    }

    public string Name { get; }

    public ulong Context { get; }

    /// <summary>Who must run for a fence to signal; see the constructor.</summary>
    public IWaitNode? Signaler { get; }

    /// <summary>How many fences are not signalled.</summary>
    public int PendingCount => _pending.Count;

    /// <summary>
    /// The earliest deadline of all pending fences: when somebody would like this queue to have got on.
    /// </summary>
    public TimeSpan? Deadline
    {
        get
        {
            TimeSpan? earliest = null;
            foreach (Fence fence in _pending)
            {
                if (fence.Deadline is { } deadline && (earliest is null || deadline < earliest))
                {
                    earliest = deadline;
                }
            }

            return earliest;
        }
    }

    internal Fence? OldestPending => _pending.TryPeek(out Fence? oldest) ? oldest : null;

    /// <summary>The next fence of this context. The owner of the timeline signals it, after all earlier ones.</summary>
    public Fence CreateFence()
    {
        ObjectDisposedException.ThrowIf(_isDropped, this);
        Fence fence = new(_host, this, ++_seqno);
        _pending.Enqueue(fence);
        return fence;
    }

    /// <summary>
    /// The owner goes away. Each fence that it has not signalled is a violation and ends with EDEADLK, forced:
    /// see <see cref="Fence.Drop"/>. An orderly owner has none left.
    /// </summary>
    public void Drop()
    {
        _host.AssertHeld();
        _isDropped = true;
        while (OldestPending is { } fence)
        {
            fence.Drop();
        }
    }

    internal IReadOnlyList<Fence> PendingUpTo(Fence last) => [.. _pending.TakeWhile(f => f.Seqno <= last.Seqno)];

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
        _pending.Dequeue();
    }
}
