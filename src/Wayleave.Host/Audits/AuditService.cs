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

    internal AuditService(HostContext host, ObjectStore objects, LeaseService leases, NicHandle nic) =>
        (_host, _objects, _leases, _nic) = (host, objects, leases, nic);

    /// <summary>Takes an object back and marks its memory for a new owner; see <see cref="TakeBackAudit"/>.</summary>
    /// <exception cref="WayleaveException">
    /// The proof is not sufficient, or there is no room for the new owner.
    /// </exception>
    public async Task<TakeBackAudit> StartAsync(DeviceObject o, RevokePolicy policy, ulong seed)
    {
        ArgumentNullException.ThrowIfNull(o);
        MemoryRegion[] regions = [.. _leases.List(o).Select(l => l.Region)];
        TakeBackAudit audit = await TakeBackAudit
            .StartAsync(_objects, _host, _nic, o, regions, policy, seed).ConfigureAwait(false);
        using (_host.Enter())
        {
            _audits.Add(audit.Id, audit);
        }

        return audit;
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
