using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Compute;

/// <summary>
/// Regions over memory of clients' own. Members are called by threads of requests without the host lock, unless they
/// say otherwise.
/// </summary>
internal sealed class OwnRegions(HostContext host, Action<ComputeContext, string> endClient)
{
    /// <summary>Registers what the region says, and waits.</summary>
    /// <exception cref="WayleaveException">As <see cref="RegionService.RegisterAsync"/>.</exception>
    public async Task<MemoryRegion> RegisterAsync(
        ContextRegion made, ProtectionDomain domain, AccessFlags access, bool isCached, string operation)
    {
        AddressRange range = new(made.Address, made.LengthBytes);
        if (isCached)
        {
            using (host.Enter())
            {
                made.Context.ThrowIfEnded(operation);
                if (TryTakeLocked(made, domain, range, access, operation) is { } cached)
                {
                    return cached;
                }
            }
        }

        ulong iova = range.Start;
        if (made.Kind == ContextRegionKind.Implicit)
        {
            (range, iova) = (new AddressRange(0, ulong.MaxValue), 0);
        }

        AccessFlags paged = made.Kind == ContextRegionKind.Pinned ? AccessFlags.None : AccessFlags.OnDemand;
        SpaceRegionRequest request = RequestFor(made, range, iova, access | paged);
        RegionRegistration registration = await StartAsync(made.Nic, domain, request).ConfigureAwait(false);
        if (registration.Errno == Errno.ENOMEM && DropUnused(made.Context))
        {
            registration = await StartAsync(made.Nic, domain, request).ConfigureAwait(false);
        }

        ThrowIfFailed(registration.Errno, made.Context, operation);
        return registration.Region!;
    }

    /// <summary>Changes a region under its key, and waits. The caller has it for itself meanwhile.</summary>
    public async Task ChangeAsync(
        ContextRegion region, ContextRegionChange change, ProtectionDomain? domain, string operation)
    {
        Errno errno = await TryChangeAsync(region, change, domain, operation).ConfigureAwait(false);
        if (errno == Errno.ENOMEM && DropUnused(region.Context))
        {
            errno = await TryChangeAsync(region, change, domain, operation).ConfigureAwait(false);
        }

        ThrowIfFailed(errno, region.Context, operation);
    }

    /// <summary>Deregisters, and waits for the last packet inside.</summary>
    public async Task EndAsync(ContextRegion region)
    {
        while (true)
        {
            TaskCompletionSource drained = new(TaskCreationOptions.RunContinuationsAsynchronously);
            using (host.Enter())
            {
                RegionRegistration.TryDeregister(region.Nic.Device, region.Region, out Fence? drain)
                    .ThrowIfFailed($"deregister region {region.Id}");
                if (drain is null)
                {
                    return;
                }

                if (drain.TryAddEndCallback(_ => drained.SetResult()) != Errno.Success)
                {
                    continue;
                }
            }

            await drained.Task.ConfigureAwait(false);
        }
    }

    private SpaceRegionRequest RequestFor(ContextRegion made, AddressRange range, ulong iova, AccessFlags access) =>
        new(made.Context.Memory!.Space, range, iova, access)
        {
            Policy = (access & AccessFlags.OnDemand) == 0 ? made.Nic.PinnedMemory : PinnedMemoryPolicy.Keep,
            EndProcess = reason => endClient(made.Context, reason),
        };

    private async Task<RegionRegistration> StartAsync(
        NicHandle nic, ProtectionDomain domain, SpaceRegionRequest request)
    {
        TaskCompletionSource completed = new(TaskCreationOptions.RunContinuationsAsynchronously);
        RegionRegistration registration;
        using (host.Enter())
        {
            registration = RegionRegistration.Start(nic.Device, domain, request, _ => completed.SetResult());
        }

        await completed.Task.ConfigureAwait(false);
        return registration;
    }

    // Null when its pages have to be waited for, which a cache does not.
    private static MemoryRegion? TryTakeLocked(
        ContextRegion made, ProtectionDomain domain, AddressRange range, AccessFlags access, string operation)
    {
        ContextMemory memory = made.Context.Memory!;
        RegionCache cache = made.Context.Caches.Of(made.Nic, domain, memory.Space, access);
        Errno errno = cache.TryTake(range, out MemoryRegion? region, out RegionOrigin origin);
        if (errno == Errno.ENOMEM && made.Context.Caches.DropUnused())
        {
            errno = cache.TryTake(range, out region, out origin);
        }

        if (errno == Errno.EAGAIN)
        {
            return null;
        }

        errno.ThrowIfFailed(operation, memory.DescribeLimit(errno));
        (made.Cache, made.Origin) = (cache, origin);
        return region;
    }

    private bool DropUnused(ComputeContext context)
    {
        using (host.Enter())
        {
            return context.Caches.DropUnused();
        }
    }

    private void ThrowIfFailed(Errno errno, ComputeContext context, string operation)
    {
        if (errno != Errno.Success)
        {
            using (host.Enter())
            {
                errno.ThrowIfFailed(operation, context.Memory?.DescribeLimit(errno));
            }
        }
    }

    private async Task<Errno> TryChangeAsync(
        ContextRegion region, ContextRegionChange change, ProtectionDomain? domain, string operation)
    {
        TaskCompletionSource completed = new(TaskCreationOptions.RunContinuationsAsynchronously);
        AccessFlags access = ContextRanges.AccessOf(change.Access);
        ContextBuffer? buffer = null;
        SpaceRegionRequest? memory = null;
        RegionReregistration running;
        using (host.Enter())
        {
            if ((change.Change & RegionChange.Translation) != 0)
            {
                buffer = ContextRanges.BufferOf(region.Context, change.Handle, operation);
                if (buffer.Memory is null)
                {
                    throw new WayleaveException(
                        Errno.EOPNOTSUPP,
                        operation,
                        $"{buffer.Target} is an object, and a region is never moved to one",
                        "register it anew");
                }

                (ulong address, ulong length) =
                    ContextRanges.RangeOf(buffer, change.OffsetBytes, change.LengthBytes, operation);
                memory = RequestFor(region, new AddressRange(address, length), address, access);
            }

            running = RegionReregistration.Start(
                region.Nic.Device,
                region.Region,
                new RegionChangeRequest(change.Change, domain, access, memory),
                _ => completed.SetResult());
            AdoptLocked(region, running, buffer, memory);
        }

        await completed.Task.ConfigureAwait(false);
        using (host.Enter())
        {
            AdoptLocked(region, running, buffer, memory);
        }

        return running.Errno;
    }

    // As soon as it is known: whoever looks at the region meanwhile looks at that of the key.
    private static void AdoptLocked(
        ContextRegion region, RegionReregistration running, ContextBuffer? buffer, SpaceRegionRequest? memory)
    {
        if (running.IsCompleted && running.Errno == Errno.Success)
        {
            region.Region = running.Region;
            if (buffer is not null)
            {
                (region.Buffer, region.Kind) = (buffer, ContextRegionKind.Pinned);
                (region.Address, region.LengthBytes) = (memory!.Addresses.Start, memory.Addresses.LengthBytes);
            }
        }
    }
}
