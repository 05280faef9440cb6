using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>Where a peer's key and address lead, found once for a message.</summary>
/// <param name="Region">Whose memory it is.</param>
/// <param name="Address">In the terms of the region.</param>
/// <param name="Window">The window that the key names, if it is one's.</param>
/// <param name="Binding">Which of its bindings.</param>
internal readonly record struct RemoteTarget(
    MemoryRegion? Region, ulong Address, MemoryWindow? Window = null, uint Binding = 0)
{
    /// <summary>The window has not been taken back since. Always so without one.</summary>
    public bool IsBound => Window is null || Window.Binding == Binding;
}

/// <summary>
/// Finds what a peer may touch (roce.md A5 R8, A10). Every packet of a message asks again, so that a window that was
/// invalidated meanwhile is noticed. Port token held by the caller.
/// </summary>
internal sealed class RemoteMemory(QueuePair pair)
{
    private MemoryRegion? _last; // most requests of a queue pair use one region

    /// <summary>Key, domain, rights and range of a whole message, before its first byte.</summary>
    /// <param name="key">As it came.</param>
    /// <param name="need">Rights.</param>
    /// <param name="address">As it came.</param>
    /// <param name="lengthBytes">Of the whole message.</param>
    /// <param name="target">Where it leads when the outcome is Done; else at most the region.</param>
    public AccessOutcome Find(
        uint key, AccessFlags need, ulong address, ulong lengthBytes, out RemoteTarget target)
    {
        MemoryRegion? region = _last;
        if (region is null || region.Key != key || region.State == MemoryRegionState.Dead)
        {
            Numbered? found = LookUp(key);
            if (found is MemoryWindow window)
            {
                return Find(window, need, address, lengthBytes, out target);
            }

            region = (MemoryRegion?)found;
        }

        target = new RemoteTarget(region, address);
        if (region is null)
        {
            return AccessOutcome.Dead;
        }

        AccessOutcome outcome = pair.Port.Memory.IsDead(region) ? AccessOutcome.Dead
            : pair.Port.Memory.Permits(region, pair.Domain, need, address, lengthBytes) ? AccessOutcome.Done
            : AccessOutcome.Refused;

        // What was refused is looked up again, as a key that names nothing is: a guess takes as long as the last one.
        if (outcome == AccessOutcome.Done || !pair.Port.Options.Defences.ForgetsRefused)
        {
            _last = region;
        }

        return outcome;
    }

    /// <summary>
    /// First address and length of what a key names, as its peer counts; nothing for a key that names nothing.
    /// </summary>
    public (ulong Address, ulong LengthBytes) WholeOf(uint key) => LookUp(key) switch
    {
        MemoryRegion region => (region.Iova, region.LengthBytes),
        MemoryWindow window => window.Range,
        _ => (0, 0),
    };

    private Numbered? LookUp(uint key)
    {
        pair.Port.Counters.KeyLookups++;
        return pair.Device.Keys.Find(key);
    }

    private AccessOutcome Find(
        MemoryWindow window, AccessFlags need, ulong address, ulong lengthBytes, out RemoteTarget target)
    {
        if (!window.Permits(pair, need, address, lengthBytes))
        {
            target = new RemoteTarget(null, address);
            return AccessOutcome.Refused;
        }

        MemoryRegion region = window.Region!;
        target = new RemoteTarget(region, window.AddressOf(address), window, window.Binding);
        return pair.Port.Memory.IsDead(region) ? AccessOutcome.Dead : AccessOutcome.Done;
    }
}
