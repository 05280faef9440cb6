using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Audits;

/// <summary>The audits of a host that are under way. Members take the host lock themselves.</summary>
public sealed class AuditService
{
    private readonly HostContext _host;
    private readonly ObjectStore _objects;
    private readonly LeaseService _leases;
    private readonly NicHandle _nic;
    private readonly Dictionary<ulong, TakeBackAudit> _audits = []; // host lock
    private readonly HashSet<DeviceObject> _starting = []; // host lock

    internal AuditService(HostContext host, ObjectStore objects, LeaseService leases, NicHandle nic) =>
        (_host, _objects, _leases, _nic) = (host, objects, leases, nic);

    /// <summary>Takes an object back and marks its memory for a new owner; see <see cref="TakeBackAudit"/>.</summary>
    /// <param name="o">What is taken back.</param>
    /// <param name="policy">Of the revoke.</param>
    /// <param name="seed">Of the mark.</param>
    /// <param name="cancellation">Ends the marking; the object is taken back all the same.</param>
    /// <exception cref="WayleaveException">
    /// EALREADY: another audit takes it back just now. EBUSY: the proof is not sufficient. ENOSPC: there is no room for
    /// the new owner.
    /// </exception>
    public async Task<TakeBackAudit> StartAsync(
        DeviceObject o, RevokePolicy policy, ulong seed, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(o);
        using (_host.Enter())
        {
            // Both would mark the same memory, and each would find the other's mark.
            if (!_starting.Add(o))
            {
                throw new WayleaveException(
                    Errno.EALREADY, $"audit {o}", "another audit is taking it back", "wait for that one");
            }
        }

        try
        {
            MemoryRegion[] regions = [.. _leases.List(o).Select(l => l.Region)];
            TakeBackAudit audit = await TakeBackAudit
                .StartAsync(_objects, _host, _nic, o, regions, policy, seed, cancellation).ConfigureAwait(false);
            using (_host.Enter())
            {
                _audits.Add(audit.Id, audit);
            }

            return audit;
        }
        finally
        {
            using (_host.Enter())
            {
                _starting.Remove(o);
            }
        }
    }

    /// <summary>Whether an audit is still under way.</summary>
    public bool Contains(TakeBackAudit audit)
    {
        ArgumentNullException.ThrowIfNull(audit);
        using (_host.Enter())
        {
            return _audits.ContainsKey(audit.Id);
        }
    }

    /// <summary>An audit by its number.</summary>
    /// <exception cref="WayleaveException">ENOENT: it has ended.</exception>
    public TakeBackAudit Find(ulong id)
    {
        using (_host.Enter())
        {
            return _audits.GetValueOrDefault(id)
                ?? throw new WayleaveException(Errno.ENOENT, $"find audit {id}", "it has ended", "start another one");
        }
    }

    /// <summary>Ends an audit and gives its memory up. Idempotent.</summary>
    public async Task EndAsync(TakeBackAudit audit)
    {
        ArgumentNullException.ThrowIfNull(audit);
        bool wasThere;
        using (_host.Enter())
        {
            wasThere = _audits.Remove(audit.Id);
        }

        if (wasThere)
        {
            await audit.EndAsync().ConfigureAwait(false);
        }
    }
}
