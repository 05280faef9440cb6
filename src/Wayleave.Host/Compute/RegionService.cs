using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Configuration;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Compute;

// Who runs what. Members are called by threads of requests, and take the host lock for a moment; none is held while
// they wait. Faults of regions on demand are served by whoever drives the port (PortDriver), under the host lock, or
// go on inside the event that they waited for. What a policy ends runs after the host lock was released, on the thread
// of the allocation, unmap or move that was the reason.

/// <summary>
/// Registers memory of clients for peers, and connects peers to it: a protection domain of each client on each NIC, in
/// which its keys and its queue pairs are. Members take the host lock themselves.
/// </summary>
public sealed class RegionService
{
    /// <summary>Regions of one context.</summary>
    public const int RegionsMax = 256;

    /// <summary>Queue pairs of one context.</summary>
    public const int ConnectionsMax = 64;

    private readonly WayleaveHost _host;
    private readonly Action<ComputeContext, string> _endClient;

    internal RegionService(WayleaveHost host, Action<ComputeContext, string> endClient) =>
        (_host, _endClient) = (host, endClient);

    /// <summary>
    /// Off, regions and queue pairs outlive their client, as in a host that forgot them: for the test that must notice.
    /// </summary>
    internal bool EndsWithClient { get; set; } = true;

    private HostContext Lock => _host.Context;

    /// <summary>Registers memory of a context, and waits until peers can reach it.</summary>
    /// <exception cref="WayleaveException">
    /// ENOENT: the handle is none of the context's. EINVAL: the range is not inside it, or the kind is not for such
    /// memory. EOPNOTSUPP: the owner must be able to take the memory back, or the NIC has no such regions. EMFILE: too
    /// many. ENOMEM: its pages cannot be pinned, or the client has as much pinned as it may. EPERM: it may pin nothing.
    /// ENODEV: the NIC leaves, or the object is being taken back.
    /// </exception>
    public async Task<ContextRegion> RegisterAsync(ComputeContext context, ContextRegionRequest request)
    {
        ArgumentNullException.ThrowIfNull(context);
        ArgumentNullException.ThrowIfNull(request);
        string operation = $"register handle {request.Handle} of {context}";
        NicHandle nic = FindNic(request.Nic, operation);
        using IDisposable use = nic.Presence.Use(operation);
        ProtectionDomain domain = DomainOf(context, nic);
        ContextRegion made;
        using (Lock.Enter())
        {
            context.ThrowIfEnded(operation);
            if (context.Regions.Count + context.RegionsComing >= RegionsMax)
            {
                throw new WayleaveException(
                    Errno.EMFILE, operation, $"it has {RegionsMax} regions already", "deregister some");
            }

            ContextBuffer buffer = context.Buffers.Skip(1).FirstOrDefault(b => b.Handle == request.Handle)
                ?? throw new WayleaveException(Errno.ENOENT, operation, "it is none that the client opened");
            CheckKind(nic, buffer, request.Kind, operation);
            made = new ContextRegion(Lock.AllocateId(), context, nic, buffer, request.Kind);
            (made.Address, made.LengthBytes) = RangeOf(buffer, request, operation);
            context.RegionsComing++;
        }

        try
        {
            AccessFlags access = AccessOf(request.Access);
            made.Region = made.Buffer.Target is { } o
                ? await nic.RegisterAsync(domain, o.Buffer, RequestFor(made, request, access), o.Owner.Function)
                    .ConfigureAwait(false)
                : await RegisterOwnAsync(made, domain, access, operation).ConfigureAwait(false);
        }
        finally
        {
            using (Lock.Enter())
            {
                context.RegionsComing--;
                if (made.Region is not null)
                {
                    context.Add(made); // also when it has ended meanwhile: what is registered is ended in one way
                }
            }
        }

        if (context.Ended is { } reason)
        {
            await EndAsync(made).ConfigureAwait(false);
            throw new WayleaveException(Errno.ECANCELED, operation, reason);
        }

        Lock.Trace("compute.region", context.ToString(), (long)made.Id, made.Region!.Key);
        return made;
    }

    /// <summary>A region of a context by its number.</summary>
    /// <exception cref="WayleaveException">ENOENT: it is none of the context's.</exception>
    public ContextRegion Find(ComputeContext context, ulong id)
    {
        ArgumentNullException.ThrowIfNull(context);
        using (Lock.Enter())
        {
            return context.Regions.FirstOrDefault(r => r.Id == id && r.Ending is null)
                ?? throw new WayleaveException(Errno.ENOENT, $"find region {id}", $"it is none of {context}");
        }
    }

    /// <summary>Brings pages of a region on demand into the NIC's reach (<c>ibv_advise_mr</c>), and waits.</summary>
    /// <exception cref="WayleaveException">
    /// EINVAL: it is not on demand, or the range is not inside it. EPERM: a write prefetch of what may only be read.
    /// EFAULT: the client has no memory there. ENOMEM.
    /// </exception>
    public async Task PrefetchAsync(ContextRegion region, AdviceKind kind, ulong address, uint lengthBytes)
    {
        ArgumentNullException.ThrowIfNull(region);
        string operation = $"prefetch region {region.Id} of {region.Context}";
        TaskCompletionSource<Errno> done = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (Lock.Enter())
        {
            RegionAdvice.Advise(
                region.Nic.Device,
                region.Region.Domain,
                kind,
                [new Sge(address, lengthBytes, region.Region.Key)],
                done.SetResult).ThrowIfFailed(operation, "it is on demand, and the range is inside it");
        }

        (await done.Task.ConfigureAwait(false)).ThrowIfFailed(operation);
    }

    /// <summary>Connects one queue pair of a peer to the regions of a context.</summary>
    /// <exception cref="WayleaveException">EMFILE: too many. EINVAL: the peer's numbers make no sense.</exception>
    public ConnectionEnd Connect(ComputeContext context, string? nicName, ConnectionEnd peer)
    {
        ArgumentNullException.ThrowIfNull(context);
        ArgumentNullException.ThrowIfNull(peer);
        string operation = $"connect {peer.Gid} to {context}";
        NicHandle nic = FindNic(nicName, operation);
        using IDisposable use = nic.Presence.Use(operation);
        ProtectionDomain domain = DomainOf(context, nic);
        QueuePair pair = nic.CreateQueuePair(domain, nic.PassiveCompletions);
        try
        {
            ConnectionEnd local = nic.Connect(pair, peer, AccessFlags.RemoteRead | AccessFlags.RemoteWrite);
            using (Lock.Enter())
            {
                context.ThrowIfEnded(operation);
                if (context.Pairs.Count >= ConnectionsMax)
                {
                    throw new WayleaveException(
                        Errno.EMFILE,
                        operation,
                        $"it has {ConnectionsMax} connections already",
                        "disconnect those whose peers have left");
                }

                context.Pairs.Add((nic, pair));
            }

            return local;
        }
        catch
        {
            nic.Destroy(pair);
            throw;
        }
    }

    /// <summary>Ends what <see cref="Connect"/> began: the peer finds nobody there any more.</summary>
    /// <param name="context">Whose.</param>
    /// <param name="nicName">As of <see cref="Connect"/>.</param>
    /// <param name="number">Of the queue pair, as <see cref="Connect"/> has said.</param>
    /// <exception cref="WayleaveException">ENOENT: it is none of the context's. ENODEV: the NIC leaves.</exception>
    public void Disconnect(ComputeContext context, string? nicName, uint number)
    {
        ArgumentNullException.ThrowIfNull(context);
        string operation = $"disconnect queue pair {number} of {context}";
        NicHandle nic = FindNic(nicName, operation);
        using IDisposable use = nic.Presence.Use(operation);
        QueuePair pair;
        using (Lock.Enter())
        {
            int index = context.Pairs.FindIndex(p => ReferenceEquals(p.Nic, nic) && p.Pair.QpNumber == number);
            if (index < 0)
            {
                throw new WayleaveException(Errno.ENOENT, operation, $"it is none of its own on {nic.Name}");
            }

            pair = context.Pairs[index].Pair;
            context.Pairs.RemoveAt(index);
        }

        nic.Destroy(pair);
    }

    /// <summary>
    /// Deregisters a region: its key is dead at once, and may be given out again when this returns, to everybody who
    /// asks.
    /// </summary>
    public Task EndAsync(ContextRegion region)
    {
        ArgumentNullException.ThrowIfNull(region);
        TaskCompletionSource ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (Lock.Enter())
        {
            if (region.Ending is { } ending)
            {
                return ending;
            }

            region.Ending = ended.Task;
        }

        _ = EndAsync(region, ended); // reports by the completion source alone
        return ended.Task;
    }

    /// <summary>Ends what a context has of NICs: queue pairs, then regions.</summary>
    /// <param name="context">Whose.</param>
    /// <param name="nic">Null for all of them.</param>
    internal async Task EndAllAsync(ComputeContext context, NicHandle? nic = null)
    {
        (NicHandle Nic, QueuePair Pair)[] pairs;
        ContextRegion[] regions;
        using (Lock.Enter())
        {
            pairs = [.. context.Pairs.Where(p => nic is null || ReferenceEquals(p.Nic, nic))];
            context.Pairs.RemoveAll(p => pairs.Contains(p));
            regions = [.. context.Regions.Where(r => nic is null || ReferenceEquals(r.Nic, nic))];
        }

        foreach ((NicHandle owner, QueuePair pair) in pairs)
        {
            owner.Destroy(pair);
        }

        foreach (ContextRegion region in regions)
        {
            await EndAsync(region).ConfigureAwait(false);
        }
    }

    private NicHandle FindNic(string? name, string operation) => name is null
        ? _host.FindNic(operation)
        : _host.Nics.FirstOrDefault(n => n.Name == name && n.Presence.IsPresent)
            ?? throw new WayleaveException(
                Errno.ENODEV,
                operation,
                $"the host has no NIC {name}",
                $"it has {string.Join(", ", _host.Nics.Where(n => n.Presence.IsPresent).Select(n => n.Name))}");

    private ProtectionDomain DomainOf(ComputeContext context, NicHandle nic)
    {
        // Made outside the lock, which the device takes itself; one that loses the race is dropped.
        ProtectionDomain made = nic.Device.CreateProtectionDomain();
        using (Lock.Enter())
        {
            return context.Domains.TryAdd(nic, made) ? made : context.Domains[nic];
        }
    }

    private static void CheckKind(NicHandle nic, ContextBuffer buffer, ContextRegionKind kind, string operation)
    {
        bool isForOwn = kind is ContextRegionKind.Pinned or ContextRegionKind.OnDemand or ContextRegionKind.Implicit;
        bool isForObjects = kind is not (ContextRegionKind.OnDemand or ContextRegionKind.Implicit);
        if (buffer.Target is null ? !isForOwn : !isForObjects)
        {
            throw new WayleaveException(
                Errno.EINVAL,
                operation,
                buffer.Target is null
                    ? $"a {kind} region is over an object, and this is the client's own memory"
                    : $"{buffer.Target} is an object, whose pages do not come on demand");
        }

        if (kind == ContextRegionKind.LegacyPeer && nic.LegacyPeers == LegacyPeerPolicy.Refuse)
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP,
                operation,
                $"{nic.Name} has no regions of that kind",
                "ask for a dynamic one, or give the NIC \"legacy_peers\": \"tell\"");
        }
    }

    private static (ulong Address, ulong LengthBytes) RangeOf(
        ContextBuffer buffer, ContextRegionRequest request, string operation)
    {
        ulong left = request.OffsetBytes < buffer.SizeBytes ? buffer.SizeBytes - request.OffsetBytes : 0;
        ulong length = request.LengthBytes ?? left;
        if (length == 0 || length > left)
        {
            throw new WayleaveException(
                Errno.EINVAL,
                operation,
                $"{length} bytes at {request.OffsetBytes} are not inside its {buffer.SizeBytes}");
        }

        return ((buffer.Memory?.Start ?? 0) + request.OffsetBytes, length);
    }

    private static AccessFlags AccessOf(LeaseAccess access) => access switch
    {
        LeaseAccess.Read => AccessFlags.RemoteRead,
        LeaseAccess.Write => AccessFlags.LocalWrite | AccessFlags.RemoteWrite,
        _ => AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead,
    };

    private MemoryRegionRequest RequestFor(ContextRegion made, ContextRegionRequest request, AccessFlags access)
    {
        ImporterKind kind = made.Kind switch
        {
            ContextRegionKind.Pinned => ImporterKind.Pinned,
            ContextRegionKind.PinnedRevocable => ImporterKind.PinnedRevocable,
            _ => ImporterKind.Dynamic,
        };
        bool isLegacy = made.Kind == ContextRegionKind.LegacyPeer;
        string lost = $"{made.Buffer.Target} was moved or taken back, and region {made.Id} of {made.Nic.Name} had it";
        return new MemoryRegionRequest(request.OffsetBytes, made.LengthBytes, made.Address, access, kind)
        {
            Holder = made.Context.Process.Name, // who does not let go is the client, not the NIC that all share
            IsLegacyPeer = isLegacy,
            Lost = isLegacy && made.Nic.LegacyPeers == LegacyPeerPolicy.EndProcess
                ? _ => _endClient(made.Context, lost)
                : null,
        };
    }

    private async Task<MemoryRegion> RegisterOwnAsync(
        ContextRegion made, ProtectionDomain domain, AccessFlags access, string operation)
    {
        AddressRange range = new(made.Address, made.LengthBytes);
        ulong iova = range.Start;
        if (made.Kind == ContextRegionKind.Implicit)
        {
            (range, iova) = (new AddressRange(0, ulong.MaxValue), 0);
        }

        AccessFlags paged = made.Kind == ContextRegionKind.Pinned ? AccessFlags.None : AccessFlags.OnDemand;
        SpaceRegionRequest request = new(made.Context.Memory!.Space, range, iova, access | paged)
        {
            Policy = made.Kind == ContextRegionKind.Pinned ? made.Nic.PinnedMemory : PinnedMemoryPolicy.Keep,
            EndProcess = reason => _endClient(made.Context, reason),
        };
        TaskCompletionSource completed = new(TaskCreationOptions.RunContinuationsAsynchronously);
        RegionRegistration registration;
        using (Lock.Enter())
        {
            registration = RegionRegistration.Start(made.Nic.Device, domain, request, _ => completed.SetResult());
        }

        await completed.Task.ConfigureAwait(false);
        if (registration.Errno != Errno.Success)
        {
            using (Lock.Enter())
            {
                registration.Errno.ThrowIfFailed(operation, made.Context.Memory.DescribeLimit(registration.Errno));
            }
        }

        return registration.Region!;
    }

    private async Task EndAsync(ContextRegion region, TaskCompletionSource ended)
    {
        try
        {
            if (region.Buffer.Target is not null)
            {
                await region.Nic.DeregisterAsync(region.Region).ConfigureAwait(false);
            }
            else
            {
                await EndOwnAsync(region).ConfigureAwait(false);
            }

            using (Lock.Enter())
            {
                region.Context.Remove(region);
            }

            Lock.Trace("compute.region_end", region.Context.ToString(), (long)region.Id);
            ended.SetResult();
        }
        catch (Exception e)
        {
            ended.SetException(e);
        }
    }

    private async Task EndOwnAsync(ContextRegion region)
    {
        while (true)
        {
            TaskCompletionSource drained = new(TaskCreationOptions.RunContinuationsAsynchronously);
            using (Lock.Enter())
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
}
