using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Compute;

/// <summary>
/// The registration caches of a client: one for each protection domain and each kind of access. Host lock held by the
/// caller, unless a member says otherwise.
/// </summary>
internal sealed class ContextRegionCaches
{
    /// <summary>Regions of one cache that stay registered while the client does not use them.</summary>
    public const int UnusedMax = 64;

    private readonly Dictionary<(ProtectionDomain Domain, AccessFlags Access), (NicHandle Nic, RegionCache Cache)>
        _caches = [];

    /// <summary>The cache of that domain and access, made when it is first asked for.</summary>
    public RegionCache Of(NicHandle nic, ProtectionDomain domain, AddressSpace space, AccessFlags access)
    {
        if (!_caches.TryGetValue((domain, access), out (NicHandle Nic, RegionCache Cache) found))
        {
            found = (nic, new RegionCache(nic.Device, domain, space, access, UnusedMax));
            _caches.Add((domain, access), found);
        }

        return found.Cache;
    }

    /// <summary>Unpins what the client does not use at the moment. False when there was nothing.</summary>
    public bool DropUnused()
    {
        bool any = false;
        foreach ((_, RegionCache cache) in _caches.Values)
        {
            any |= cache.DropUnused();
        }

        return any;
    }

    /// <summary>
    /// Deregisters all that a NIC has in caches, once the client's regions have ended. Without the host lock.
    /// </summary>
    public async Task ClearAsync(HostContext host, NicHandle? nic)
    {
        while (true)
        {
            TaskCompletionSource drained = new(TaskCreationOptions.RunContinuationsAsynchronously);
            using (host.Enter())
            {
                Fence? inside = null;
                foreach ((NicHandle owner, RegionCache cache) in _caches.Values)
                {
                    inside ??= nic is null || ReferenceEquals(owner, nic) ? cache.Clear() : null;
                }

                if (inside is null)
                {
                    return;
                }

                if (inside.TryAddEndCallback(_ => drained.SetResult()) != Errno.Success)
                {
                    continue;
                }
            }

            await drained.Task.ConfigureAwait(false);
        }
    }
}
