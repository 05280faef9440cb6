using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Objects;
using Wayleave.Host.Runners;

namespace Wayleave.Host.Resources;

/// <summary>
/// Ranges of device memory that are lent by a handle (<see cref="PeerResource"/>), for those outside the host. A grant
/// is tied to something that ends with its holder; its end closes the handle, and the last handle removes the resource
/// from everybody who uses it. Members take the host lock themselves and hold none while they wait.
/// </summary>
public sealed class ResourceService
{
    private const AccessFlags Access = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead;

    private readonly WayleaveHost _host;
    private readonly IRandomChoice _random;
    private readonly List<ResourceGrant> _grants = []; // host lock

    internal ResourceService(WayleaveHost host, IRandomChoice random) => (_host, _random) = (host, random);

    /// <summary>Lends a range, and imports it for the NICs that are asked for. On failure nothing stays.</summary>
    /// <exception cref="WayleaveException">
    /// ENODEV: no such device, it is leaving, or nobody offers memory that all reach. EEXIST: there is one of that
    /// name. EOPNOTSUPP: nobody lends memory of that device. Or what its allocator or a NIC says.
    /// </exception>
    public async Task<ResourceGrant> AddAsync(ResourceRequest request)
    {
        ArgumentNullException.ThrowIfNull(request);
        IObjectDevice owner = request.Device is { } device ? FindDevice(device) : FindNearest(request);
        string operation = $"lend {owner.Name}/{request.Name} of {ByteSize.ToText((long)request.SizeBytes)}";
        if (WlUrl.DescribeProblemOfName(request.Name, "resource") is { } problem)
        {
            throw new WayleaveException(Errno.EINVAL, operation, problem);
        }

        ResourceGrant grant;
        using (owner.Presence.Use(operation))
        using (_host.Context.Enter())
        {
            grant = new ResourceGrant(owner, AddLocked(owner, request, operation));
            _grants.Add(grant);
        }

        try
        {
            foreach (ResourceImportRequest import in request.Imports)
            {
                await ImportAsync(grant, import).ConfigureAwait(false);
            }
        }
        catch
        {
            await EndAsync(grant).ConfigureAwait(false);
            throw;
        }

        return grant;
    }

    /// <summary>Grants that have not ended, in the order they were made.</summary>
    public IReadOnlyList<ResourceGrant> List()
    {
        using (_host.Context.Enter())
        {
            return [.. _grants];
        }
    }

    /// <summary>
    /// The holder leaves: its handle is closed, and if it was the last one everybody who uses the resource is told to
    /// stop. Ends when its NICs have let go; the range may stay in quarantine. The second call waits for the same.
    /// </summary>
    public Task EndAsync(ResourceGrant grant)
    {
        ArgumentNullException.ThrowIfNull(grant);
        TaskCompletionSource ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (_host.Context.Enter())
        {
            if (grant.Ending is { } ending)
            {
                return ending;
            }

            grant.Ending = ended.Task;
            grant.Handle.Close();
        }

        _ = LetGoAsync(grant, ended); // reports by the completion source alone
        return ended.Task;
    }

    /// <summary>
    /// Takes a resource away, with its users inside: revoke, drain, retire. One that is being removed is waited for,
    /// and its proof is what there is.
    /// </summary>
    /// <exception cref="WayleaveException">ENOENT: there is no such resource.</exception>
    public async Task<RetirementProof> RemoveAsync(string device, string name, RevokePolicy policy)
    {
        string operation = $"remove {device}/{name}";
        PeerResource? found;
        using (_host.Context.Enter())
        {
            found = Resources(device)
                .Where(r => r.Name == name).MinBy(r => r.State != PeerResourceState.Lent);
        }

        if (found is null)
        {
            throw new WayleaveException(
                Errno.ENOENT, operation, "there is no such resource", "wayleave resources shows what there is");
        }

        // A window to a file of a drive is an object too, and ends as one.
        if (_host.Objects.List().FirstOrDefault(o => ReferenceEquals(o.Buffer, found.Buffer)) is { } window)
        {
            return await _host.Objects.RevokeAsync(window, policy).ConfigureAwait(false);
        }

        return await OwnerWait.AwaitAsync(_host.Context, () =>
        {
            found.TryRemove(policy, out _);
            return found.Removal!;
        }).ConfigureAwait(false);
    }

    private async Task LetGoAsync(ResourceGrant grant, TaskCompletionSource ended)
    {
        try
        {
            _host.Deadlines.Arm();
            foreach (ResourceUse use in grant.Uses)
            {
                using (_host.Context.Enter())
                {
                    use.Import.Close();
                }

                await use.Nic.DeregisterAsync(use.Region).ConfigureAwait(false);
            }

            using (_host.Context.Enter())
            {
                _grants.Remove(grant);
            }

            ended.SetResult();
        }
        catch (Exception e)
        {
            ended.SetException(e);
        }
    }

    private PeerHandle AddLocked(IObjectDevice owner, ResourceRequest request, string operation)
    {
        if (owner.Function.PeerDevice is not { } device)
        {
            throw owner.Presence.Gone(operation);
        }

        if (device.Resources.Any(r => r.Name == request.Name && r.State == PeerResourceState.Lent))
        {
            throw new WayleaveException(
                Errno.EEXIST, operation, "there is one of that name", "wayleave resources shows who has it");
        }

        Errno errno = PeerResource.TryAdd(
            _host.Context, device, request.Name, request.SizeBytes, request.Holder, out PeerHandle? handle);
        return errno == Errno.Success
            ? handle!
            : throw new WayleaveException(errno, operation, errno switch
            {
                Errno.EOPNOTSUPP => $"nobody lends memory of {owner.Name}",
                Errno.ENOSPC or Errno.ENOMEM => $"{owner.Name} has not that much free memory in one piece",
                _ => ErrnoMap.Describe(errno),
            });
    }

    private async Task ImportAsync(ResourceGrant grant, ResourceImportRequest request)
    {
        string operation = $"import {grant} by {request.Nic}";
        NicHandle nic = _host.Nics.FirstOrDefault(n => n.Name == request.Nic && n.Presence.IsPresent)
            ?? throw new WayleaveException(Errno.ENODEV, operation, "the host has no such NIC", NicNames());
        using IDisposable use = nic.Presence.Use(operation);
        SharedBuffer buffer = grant.Resource.Buffer;
        MemoryRegionRequest wanted = new(0, buffer.SizeBytes, 0, Access, ImporterKind.Dynamic)
        {
            Holder = grant.Handle.Holder,
        };
        MemoryRegion region = await nic
            .RegisterAsync(nic.Device.CreateProtectionDomain(), buffer, wanted, grant.Owner.Function)
            .ConfigureAwait(false);
        PeerImport? import = null;
        Errno errno;
        using (_host.Context.Enter())
        {
            errno = grant.Handle.TryImport(buffer.Attachments.First(a => a.Name == region.Name), out import);
            PeerChunk? chunk = null;
            errno = errno == Errno.Success ? import!.TryAllocate(request.SizeBytes, out chunk) : errno;
            if (errno == Errno.Success)
            {
                grant.Imported.Add(new ResourceUse(nic, region, import!, chunk!));
                return;
            }

            import?.Close();
        }

        await nic.DeregisterAsync(region).ConfigureAwait(false);
        throw new WayleaveException(errno, operation, errno switch
        {
            Errno.ENOMEM => "the resource has not that much left in one piece",
            Errno.ENODEV => "it was removed meanwhile",
            _ => ErrnoMap.Describe(errno),
        });
    }

    private IEnumerable<PeerResource> Resources(string device) =>
        _host.MemoryDevices.FirstOrDefault(d => d.Name == device)?.Function.PeerDevice?.Resources ?? [];

    // The memory that the kernel would choose (pci_p2pmem_find_many): published, and nearest to all.
    private IObjectDevice FindNearest(ResourceRequest request)
    {
        string operation = $"find memory for {string.Join(", ", request.Near)}";
        PciFunction[] clients =
        [
            .. request.Near.Select(n => _host.FindFunction(n) ?? throw NoDevice(operation, n)),
        ];
        PciFunction? nearest;
        using (_host.Context.Enter())
        {
            nearest = PeerFinder.FindMany(_host.Fabric.Topology, clients, _random)?.Device.Function;
        }

        return _host.MemoryDevices.FirstOrDefault(d => ReferenceEquals(d.Function, nearest))
            ?? throw new WayleaveException(
                Errno.ENODEV,
                operation,
                "nobody offers memory that all of them reach",
                "give a drive memory_buffer_bytes, or name a device: wayleave explain says who reaches whom");
    }

    private IObjectDevice FindDevice(string device) =>
        _host.MemoryDevices.FirstOrDefault(d => d.Name == device && d.Presence.IsPresent)
        ?? throw NoDevice($"lend memory of {device}", device);

    private WayleaveException NoDevice(string operation, string device) => new(
        Errno.ENODEV, operation, $"the host has no {device}", $"it has {string.Join(", ", _host.PresentDevices())}");

    private string NicNames() =>
        $"it has {string.Join(", ", _host.Nics.Where(n => n.Presence.IsPresent).Select(n => n.Name))}";
}
