using Wayleave.Core.Retirement;

namespace Wayleave.Core.PeerMemory;

// devres, in reverse: `allocate` goes (mappings zapped, none made), then memunmap_pages kills the page references and
// waits for every allocation, then the provider pointer, the cache and the pool. What waits in the kernel is an
// operation here.

/// <summary>
/// The driver of a function lets go of its peer memory. It waits for whoever has taken memory by pages, without a limit
/// of its own, as the kernel does; importers of resources with a handle are told to stop. Host lock held by the caller.
/// </summary>
public sealed class PeerUnbind
{
    private readonly HostContext _host;
    private int _pending = 1; // the start, the pool, and each resource with a handle
    private Action? _completed;

    internal PeerUnbind(HostContext host, PeerDevice device) => (_host, Device) = (host, device);

    public PeerDevice Device { get; }

    /// <summary>Whether the function's memory is nobody's but the owner's.</summary>
    public bool IsCompleted { get; private set; }

    /// <summary>What is waited for: resources, then allocations by their holders; empty when completed.</summary>
    public IReadOnlyList<string> Holders
    {
        get
        {
            _host.AssertHeld();
            List<string> holders = [];
            if (!IsCompleted)
            {
                holders.AddRange(Device.Resources.Select(r => r.ToString()));
                holders.AddRange(Device.Pool?.Allocations.Select(a => a.Holder) ?? []);
            }

            return holders;
        }
    }

    /// <summary>
    /// Runs <paramref name="callback"/> after the end, when the lock was released; false when that was before.
    /// </summary>
    public bool TryAddCompletion(Action callback)
    {
        _host.AssertHeld();
        if (IsCompleted)
        {
            return false;
        }

        _completed += callback;
        return true;
    }

    internal void Start(RevokePolicy policy)
    {
        _host.Trace("p2pdma.unbind", Device.Function.Name, Device.Pool?.Allocations.Count ?? 0, Device.Resources.Count);
        PeerResource[] resources = [.. Device.Resources];
        foreach (PeerResource resource in resources)
        {
            resource.TryRemove(policy, out _);
        }

        foreach (PeerResource resource in resources)
        {
            _pending++;
            resource.ObserveReturn(HandleOne);
        }

        if (Device.Pool is { } pool)
        {
            _pending++;
            pool.Kill(HandleOne);
        }

        HandleOne();
    }

    private void HandleOne()
    {
        if (--_pending == 0)
        {
            Complete();
        }
    }

    private void Complete()
    {
        if (Device.CountMappings() is var mappings and > 0)
        {
            _host.Trace("violation.provider_destroyed_while_mapped", Device.Function.Name, mappings);
        }

        IsCompleted = true;
        Device.Release();
        _host.Trace("p2pdma.unbound", Device.Function.Name);
        if (_completed is { } callback)
        {
            _host.Defer(callback);
        }
    }
}
