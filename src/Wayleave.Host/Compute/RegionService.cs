using Wayleave.Core;
using Wayleave.Core.Buffers;
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

    /// <summary>Protection domains of one context on one NIC, by number.</summary>
    public const uint DomainsMax = 16;

    private readonly WayleaveHost _host;
    private readonly Action<ComputeContext, string> _endClient;
    private readonly OwnRegions _own;

    internal RegionService(WayleaveHost host, Action<ComputeContext, string> endClient) =>
        (_host, _endClient, _own) = (host, endClient, new OwnRegions(host.Context, endClient));

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
    /// <returns>
    /// The region. One for the cache is not in it (<see cref="ContextRegion.Origin"/> is null) when its pages had to be
    /// waited for; the next one will be.
    /// </returns>
    public async Task<ContextRegion> RegisterAsync(ComputeContext context, ContextRegionRequest request)
    {
        ArgumentNullException.ThrowIfNull(context);
        ArgumentNullException.ThrowIfNull(request);
        string operation = $"register handle {request.Handle} of {context}";
        NicHandle nic = FindNic(request.Nic, operation);
        using IDisposable use = nic.Presence.Use(operation);
        ProtectionDomain domain = DomainOf(context, nic, request.Domain, operation);
        ContextRegion made;
        using (Lock.Enter())
        {
            context.ThrowIfEnded(operation);
            if (context.Regions.Count + context.RegionsComing >= RegionsMax)
            {
                throw new WayleaveException(
                    Errno.EMFILE, operation, $"it has {RegionsMax} regions already", "deregister some");
            }

            ContextBuffer buffer = ContextRanges.BufferOf(context, request.Handle, operation);
            CheckKind(nic, buffer, request, operation);
            made = new ContextRegion(Lock.AllocateId(), context, nic, buffer, request.Kind);
            (made.Address, made.LengthBytes) =
                ContextRanges.RangeOf(buffer, request.OffsetBytes, request.LengthBytes, operation);
            context.RegionsComing++;
        }

        try
        {
            AccessFlags access = ContextRanges.AccessOf(request.Access);
            made.Region = made.Buffer.Target is { } o
                ? await nic.RegisterAsync(domain, o.Buffer, RequestFor(made, request, access), o.Owner.Function)
                    .ConfigureAwait(false)
                : await _own.RegisterAsync(made, domain, access, request.IsCached, operation).ConfigureAwait(false);
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

    /// <summary>
    /// Changes a region under its key (<c>ibv_rereg_mr</c>), and waits until peers find it changed. What a peer has
    /// under way there meanwhile may end as an access error.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// After each the region is as it was. EINVAL: no change, a domain that cannot be, a range outside its memory, or a
    /// dead region that gets no memory. EOPNOTSUPP: a change that does not exist, new memory that is not pinned or not
    /// the client's own, a domain or access alone where nothing is pinned, or a region of a cache. EACCES: a right to
    /// write where pages were pinned to be read. ENOENT: no such handle. EBUSY: another change is under way. ENOMEM,
    /// EPERM, ENODEV: as a registration.
    /// </exception>
    public async Task ReregisterAsync(ContextRegion region, ContextRegionChange change)
    {
        ArgumentNullException.ThrowIfNull(region);
        ArgumentNullException.ThrowIfNull(change);
        string operation = $"reregister region {region.Id} of {region.Context}";
        RegionRules.CheckChange(change.Change).ThrowIfFailed(
            operation, "1 changes the memory, 2 the domain, 4 the access, and their sums several");
        using IDisposable use = region.Nic.Presence.Use(operation);
        ProtectionDomain? domain = (change.Change & RegionChange.Domain) != 0
            ? DomainOf(region.Context, region.Nic, change.Domain, operation)
            : null;
        TaskCompletionSource changing = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (Lock.Enter())
        {
            region.Context.ThrowIfEnded(operation);
            if (region.Cache is not null)
            {
                throw new WayleaveException(
                    Errno.EOPNOTSUPP,
                    operation,
                    "it is a cache's, and others of the client may use it",
                    "deregister it and register anew, or register it without the cache");
            }

            if (region.Ending is not null || region.Changing is not null)
            {
                throw new WayleaveException(Errno.EBUSY, operation, "it is being changed or deregistered");
            }

            region.Changing = changing.Task;
        }

        try
        {
            await _own.ChangeAsync(region, change, domain, operation).ConfigureAwait(false);
        }
        finally
        {
            using (Lock.Enter())
            {
                region.Changing = null;
            }

            changing.SetResult();
        }

        Lock.Trace("compute.region_change", region.Context.ToString(), (long)region.Id, region.Region.Key);
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

    /// <summary>Connects one queue pair of a peer to the regions of one protection domain of a context.</summary>
    /// <exception cref="WayleaveException">
    /// EMFILE: too many. EINVAL: the peer's numbers make no sense, or there is no such domain.
    /// </exception>
    public ConnectionEnd Connect(ComputeContext context, string? nicName, ConnectionEnd peer, uint domainNumber = 0)
    {
        ArgumentNullException.ThrowIfNull(context);
        ArgumentNullException.ThrowIfNull(peer);
        string operation = $"connect {peer.Gid} to {context}";
        NicHandle nic = FindNic(nicName, operation);
        using IDisposable use = nic.Presence.Use(operation);
        ProtectionDomain domain = DomainOf(context, nic, domainNumber, operation);
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
    /// asks. One of a cache goes back there, and its key stays the client's, and alive, until the cache lets it go.
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

        await context.Caches.ClearAsync(Lock, nic).ConfigureAwait(false);
    }

    private NicHandle FindNic(string? name, string operation) => name is null
        ? _host.FindNic(operation)
        : _host.Nics.FirstOrDefault(n => n.Name == name && n.Presence.IsPresent)
            ?? throw new WayleaveException(
                Errno.ENODEV,
                operation,
                $"the host has no NIC {name}",
                $"it has {string.Join(", ", _host.Nics.Where(n => n.Presence.IsPresent).Select(n => n.Name))}");

    private ProtectionDomain DomainOf(ComputeContext context, NicHandle nic, uint number, string operation)
    {
        if (number >= DomainsMax)
        {
            throw new WayleaveException(
                Errno.EINVAL, operation, $"there is no protection domain {number}, only 0 to {DomainsMax - 1}");
        }

        // Made outside the lock, which the device takes itself; one that loses the race is dropped.
        ProtectionDomain made = nic.Device.CreateProtectionDomain();
        using (Lock.Enter())
        {
            return context.Domains.TryAdd((nic, number), made) ? made : context.Domains[(nic, number)];
        }
    }

    private static void CheckKind(
        NicHandle nic, ContextBuffer buffer, ContextRegionRequest request, string operation)
    {
        ContextRegionKind kind = request.Kind;
        bool isForOwn = kind is ContextRegionKind.Pinned or ContextRegionKind.OnDemand or ContextRegionKind.Implicit;
        bool isForObjects = kind is not (ContextRegionKind.OnDemand or ContextRegionKind.Implicit);
        if (buffer is { Target: null, Memory: null })
        {
            throw new WayleaveException(
                Errno.EINVAL,
                operation,
                "the memory is another context's, or a program's of the broker",
                "register it where it is from");
        }

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

        if (request.IsCached && (buffer.Target is not null || kind != ContextRegionKind.Pinned))
        {
            throw new WayleaveException(
                Errno.EINVAL,
                operation,
                "a cache is of regions that pin the client's own memory",
                "all others follow their memory by themselves");
        }

        if (request.IsCached && nic.PinnedMemory != PinnedMemoryPolicy.Keep)
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP,
                operation,
                $"{nic.Name} guards what it has pinned, and nobody would use what a cache keeps",
                "register without the cache, or give the NIC \"pinned_memory\": \"keep\"");
        }
    }

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

    private async Task EndAsync(ContextRegion region, TaskCompletionSource ended)
    {
        try
        {
            Task? changing;
            using (Lock.Enter())
            {
                changing = region.Changing;
            }

            await (changing ?? Task.CompletedTask).ConfigureAwait(false);
            if (region.Cache is { } cache)
            {
                using (Lock.Enter())
                {
                    cache.Return(region.Region);
                }
            }
            else if (region.Buffer.Target is not null)
            {
                await region.Nic.DeregisterAsync(region.Region).ConfigureAwait(false);
            }
            else
            {
                await _own.EndAsync(region).ConfigureAwait(false);
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
}
