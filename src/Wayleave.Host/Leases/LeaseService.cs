using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Leases;

/// <summary>
/// Lends objects to peers. Each peer address has a protection domain of its own, so that no peer reaches what was lent
/// to another. Members take the host lock themselves.
/// </summary>
public sealed class LeaseService
{
    private readonly HostContext _host;
    private readonly IReadOnlyList<NicHandle> _nics;
    private readonly Dictionary<ulong, Lease> _leases = []; // host lock
    private readonly Dictionary<(NicHandle Nic, Gid Peer), ProtectionDomain> _domains = []; // host lock

    internal LeaseService(HostContext host, IReadOnlyList<NicHandle> nics) => (_host, _nics) = (host, nics);

    /// <summary>Protection domains in use: no more than there are peers with a lease.</summary>
    internal int DomainCount
    {
        get
        {
            using (_host.Enter())
            {
                return _domains.Count;
            }
        }
    }

    /// <summary>Registers the object for one peer and connects a queue pair to it.</summary>
    /// <exception cref="WayleaveException">
    /// The object is gone, cannot be registered, or the peer's numbers make no sense. ENODEV: its device, or the NIC,
    /// is on its way out. EBUSY: for writing, while the content is being checked for its commit.
    /// </exception>
    public async Task<Lease> LendAsync(DeviceObject o, LeaseRequest request)
    {
        ArgumentNullException.ThrowIfNull(o);
        ArgumentNullException.ThrowIfNull(request);
        if (request.Region is not (ImporterKind.Dynamic or ImporterKind.PinnedRevocable))
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP,
                $"lend {o}",
                $"a {request.Region} region cannot be taken back",
                "ask for a dynamic or a pinned-revocable one");
        }

        string operation = $"lend {o}";
        NicHandle nic = WayleaveHost.FindNic(_nics, operation);
        using IDisposable use = nic.Presence.Use(operation);
        using IDisposable useOfOwner = o.Owner.Presence.Use(operation);
        if (request.Port is { } port && (port < 1 || port > nic.Ports.Count))
        {
            throw new WayleaveException(Errno.EINVAL, operation, $"{nic.Name} has no port {port}");
        }

        AccessFlags access = request.Access switch
        {
            LeaseAccess.Read => AccessFlags.RemoteRead,
            LeaseAccess.Write => AccessFlags.LocalWrite | AccessFlags.RemoteWrite,
            _ => AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead,
        };
        ProtectionDomain domain = DomainOf(nic, request.Peer.Gid);
        MemoryRegionRequest wanted = new(0, o.SizeBytes, 0, access, request.Region)
        {
            Holder = request.Peer.Gid.ToString(), // who does not let go is the peer, not the NIC that all share
        };
        MemoryRegion region = await nic
            .RegisterAsync(domain, o.Buffer, wanted, o.Owner.Function).ConfigureAwait(false);
        Lease? lease = null;
        using (_host.Enter())
        {
            // A commit ends the leases that it finds, and then says what the content is: one that was not yet among
            // them must not become one.
            if (request.Access == LeaseAccess.Read || o.State != ObjectState.Committing)
            {
                // What the content hashed to says nothing about an object that somebody may change.
                o.Sha256 = request.Access == LeaseAccess.Read ? o.Sha256 : null;
                lease = new Lease(_host.AllocateId(), o, nic, request, region);
                _leases.Add(lease.Id, lease);
            }
        }

        if (lease is null)
        {
            await nic.DeregisterAsync(region).ConfigureAwait(false);
            throw new WayleaveException(
                Errno.EBUSY, operation, "its content is being checked", "wait until it is committed");
        }

        try
        {
            lease.Local = Connect(lease, request.Peer);
        }
        catch
        {
            await EndAsync(lease).ConfigureAwait(false);
            throw;
        }

        _host.Trace("lease.start", o.ToString(), (long)lease.Id, region.Key);
        return lease;
    }

    /// <summary>
    /// Connects one more queue pair of the same peer in the lease's protection domain, after its first one went to ERR;
    /// those in ERR are destroyed. The region and its key stay what they are: a dead key is still dead.
    /// </summary>
    public ConnectionEnd Reconnect(Lease lease, ConnectionEnd peer)
    {
        ArgumentNullException.ThrowIfNull(lease);
        ArgumentNullException.ThrowIfNull(peer);
        using IDisposable use = lease.Nic.Presence.Use($"reconnect lease {lease.Id}");
        if (peer.Gid != lease.Request.Peer.Gid)
        {
            throw new WayleaveException(
                Errno.EACCES,
                $"reconnect lease {lease.Id}",
                $"it belongs to {lease.Request.Peer.Gid}, not to {peer.Gid}");
        }

        // A peer that reconnects for ever must not fill the port with queue pairs that are of no use.
        QueuePair[] dead;
        using (_host.Enter())
        {
            dead = [.. lease.QueuePairs.Where(p => p.State == QueuePairState.Error)];
            lease.QueuePairs.RemoveAll(p => dead.Contains(p));
        }

        foreach (QueuePair pair in dead)
        {
            lease.Nic.Destroy(pair);
        }

        return Connect(lease, peer);
    }

    /// <summary>A lease by its number, or null when its end has begun.</summary>
    public Lease? Find(ulong id)
    {
        using (_host.Enter())
        {
            return _leases.TryGetValue(id, out Lease? lease) && lease.Ending is null ? lease : null;
        }
    }

    /// <summary>
    /// All leases of an object, or of every object; those that are ending are among them until they have ended.
    /// </summary>
    public IReadOnlyList<Lease> List(DeviceObject? o = null)
    {
        using (_host.Enter())
        {
            return [.. _leases.Values.Where(l => o is null || ReferenceEquals(l.Target, o)).OrderBy(l => l.Id)];
        }
    }

    /// <summary>
    /// Destroys the queue pairs, then deregisters the region: its key is dead and may be given out again. When this
    /// returns nobody of that lease writes any more, also to a caller who found its end begun by another.
    /// </summary>
    public Task EndAsync(Lease lease)
    {
        ArgumentNullException.ThrowIfNull(lease);
        TaskCompletionSource ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
        QueuePair[] pairs;
        using (_host.Enter())
        {
            if (lease.Ending is { } ending)
            {
                return ending;
            }

            lease.Ending = ended.Task;
            pairs = [.. lease.QueuePairs];
            lease.QueuePairs.Clear();
        }

        _ = EndAsync(lease, pairs, ended); // reports by the completion source alone
        return ended.Task;
    }

    /// <summary>Ends all leases of an object: nobody of them uses its memory when this returns.</summary>
    public async Task EndAllAsync(DeviceObject o)
    {
        foreach (Lease lease in List(o))
        {
            await EndAsync(lease).ConfigureAwait(false);
        }
    }

    /// <summary>
    /// Memory of an accelerator stays with its users until they let go: an owner does not take it from them.
    /// </summary>
    /// <exception cref="WayleaveException">EBUSY: somebody uses such memory; says who.</exception>
    public void ThrowIfCannotBeTakenBack(DeviceObject o)
    {
        ArgumentNullException.ThrowIfNull(o);
        if (o.Storage != StorageKind.Static)
        {
            return;
        }

        string[] users;
        using (_host.Enter())
        {
            users = [.. o.Buffer.Attachments.Select(a => a.Name)];
        }

        if (users.Length > 0)
        {
            throw new WayleaveException(
                Errno.EBUSY,
                $"revoke {o}",
                $"{o.Device} does not take memory back from its users, and {string.Join(", ", users)} use it",
                "wait until they let go, or pull the device out: wayleave unplug");
        }
    }

    private async Task EndAsync(Lease lease, QueuePair[] pairs, TaskCompletionSource ended)
    {
        try
        {
            foreach (QueuePair pair in pairs)
            {
                lease.Nic.Destroy(pair);
            }

            await lease.Nic.DeregisterAsync(lease.Region).ConfigureAwait(false);
            using (_host.Enter())
            {
                _leases.Remove(lease.Id);
                ForgetDomainLocked(lease);
            }

            _host.Trace("lease.end", lease.Target.ToString(), (long)lease.Id);
            ended.SetResult();
        }
        catch (Exception e)
        {
            ended.SetException(e);
        }
    }

    private ConnectionEnd Connect(Lease lease, ConnectionEnd peer)
    {
        QueuePair pair = lease.Nic.CreateQueuePair(lease.Region.Domain, lease.Nic.PassiveCompletions);
        AccessFlags access = lease.Region.Access & (AccessFlags.RemoteRead | AccessFlags.RemoteWrite);
        try
        {
            int port = lease.Request.Port ?? lease.Nic.PortTowards(peer.Gid);
            ConnectionEnd local = lease.Nic.Connect(pair, peer, access, lease.Nic.ChoosePsn(), port);
            using (_host.Enter())
            {
                if (lease.Ending is not null)
                {
                    throw new WayleaveException(Errno.ENOENT, $"connect to lease {lease.Id}", "it has ended");
                }

                lease.QueuePairs.Add(pair);
            }

            return local;
        }
        catch
        {
            lease.Nic.Destroy(pair);
            throw;
        }
    }

    // A lease of that peer whose registration is still under way keeps the domain that it was given; only later ones
    // get another, which separates more and not less.
    private void ForgetDomainLocked(Lease ended)
    {
        Gid peer = ended.Request.Peer.Gid;
        if (!_leases.Values.Any(l => ReferenceEquals(l.Nic, ended.Nic) && l.Request.Peer.Gid == peer))
        {
            _domains.Remove((ended.Nic, peer));
        }
    }

    private ProtectionDomain DomainOf(NicHandle nic, Gid peer)
    {
        // Made outside the lock, which the device takes itself; one that loses the race is dropped.
        ProtectionDomain made = nic.Device.CreateProtectionDomain();
        using (_host.Enter())
        {
            if (!_domains.TryGetValue((nic, peer), out ProtectionDomain? domain))
            {
                domain = made;
                _domains.Add((nic, peer), domain);
            }

            return domain;
        }
    }
}
