using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Audits;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Resources;
using Wayleave.Host.Runners;
using Wayleave.Host.Transfers;

namespace Wayleave.Host;

/// <summary>
/// A running host: one lock, one PCI fabric, its GPUs and NICs with their threads, the objects in device memory and the
/// leases on them. The control server, which lets others ask for something, is not part of it.
/// </summary>
public sealed class WayleaveHost : IAsyncDisposable
{
    private readonly PciFabric _fabric;
    private readonly List<GpuHandle> _gpus = [];
    private readonly List<NicHandle> _nics = [];
    private readonly List<NvmeHandle> _nvmes = [];
    private readonly List<AcceleratorHandle> _accelerators = [];
    private readonly List<VfioHandle> _vfios = [];
    private readonly List<EthernetHandle> _ethernets = [];
    private readonly List<LinuxNicHandle> _linuxNics = [];
    private long _stagedBytes;
    private bool _disposed;

    private WayleaveHost(HostConfig config, WayleaveHostOptions options)
    {
        Config = config;
        _fabric = new PciFabric(TopologyPlacement.Build(config));
        Context = new HostContext(options.Clock, options.Trace);
        Deadlines = new DeadlineWatch(Context, options.Clock);
    }

    public HostConfig Config { get; }

    public HostContext Context { get; }

    public PciFabric Fabric => _fabric;

    public IReadOnlyList<GpuHandle> Gpus => _gpus;

    public IReadOnlyList<NicHandle> Nics => _nics;

    public IReadOnlyList<NvmeHandle> Nvmes => _nvmes;

    public IReadOnlyList<AcceleratorHandle> Accelerators => _accelerators;

    public IReadOnlyList<VfioHandle> Vfios => _vfios;

    public IReadOnlyList<EthernetHandle> Ethernets => _ethernets;

    /// <summary>NICs of the kernel that memory of this host may be bound to.</summary>
    public IReadOnlyList<LinuxNicHandle> LinuxNics => _linuxNics;

    /// <summary>Everything that receives TCP into memory of this host.</summary>
    public IReadOnlyList<NetNic> NetNics => [.. _ethernets, .. _linuxNics];

    /// <summary>Every device whose memory objects are made of: GPUs first, drives last.</summary>
    public IReadOnlyList<IObjectDevice> MemoryDevices => [.. _gpus, .. _accelerators, .. _vfios, .. _nvmes];

    /// <summary>Files that peers write to drives just now.</summary>
    public DriveFiles Files { get; private set; } = null!;

    /// <summary>Tells what has a deadline when that is over.</summary>
    internal DeadlineWatch Deadlines { get; }

    public ObjectStore Objects { get; private set; } = null!;

    public LeaseService Leases { get; private set; } = null!;

    /// <summary>Ranges of device memory that are lent by a handle.</summary>
    public ResourceService Resources { get; private set; } = null!;

    /// <summary>Commands of clients on the GPUs.</summary>
    public ComputeService Compute { get; private set; } = null!;

    /// <summary>What programs of this machine share; null while no broker runs.</summary>
    internal Broker.BrokerStore? Broker { get; set; }

    /// <summary>Tries of proofs that are under way.</summary>
    public AuditService Audits { get; private set; } = null!;

    /// <summary>Objects that are sent to other hosts.</summary>
    public TransferService Transfers { get; private set; } = null!;

    /// <summary>
    /// Bytes on their way from one device to another that passed through system memory, because nothing shorter was
    /// allowed. Each is counted once.
    /// </summary>
    public long StagedBytes => Interlocked.Read(ref _stagedBytes);

    /// <summary>What the rules say about the way from a device to the memory of another. Host lock not held.</summary>
    /// <exception cref="WayleaveException">ENODEV: the owner was pulled out.</exception>
    public PeerVerdict VerdictFor(IObjectDevice owner, PciFunction client)
    {
        ArgumentNullException.ThrowIfNull(owner);
        using (Context.Enter())
        {
            return owner.Function.PeerDevice?.VerdictFor(client) ?? throw Gone(owner);
        }
    }

    /// <summary>The first NIC that can be used.</summary>
    /// <exception cref="WayleaveException">ENODEV: all were pulled out.</exception>
    public NicHandle FindNic(string operation) => FindNic(_nics, operation);

    internal static NicHandle FindNic(IReadOnlyList<NicHandle> nics, string operation) =>
        nics.FirstOrDefault(n => n.Presence.IsPresent)
        ?? throw new WayleaveException(
            Core.Errno.ENODEV, operation, "the host has no NIC left", "start it again, or another one");

    /// <summary>The names of the devices that can be used: with memory first.</summary>
    internal IEnumerable<string> PresentDevices() => MemoryDevices
        .Where(d => d.Presence.IsPresent).Select(d => d.Name)
        .Concat(_nics.Where(n => n.Presence.IsPresent).Select(n => n.Name))
        .Concat(_ethernets.Where(e => e.Presence.IsPresent).Select(e => e.Name));

    /// <summary>The function of a device by its name; null when there is none, or it was pulled out.</summary>
    public PciFunction? FindFunction(string device)
    {
        using (Context.Enter())
        {
            return MemoryDevices.Select(d => d.Function)
                .Concat(_nics.Select(n => n.Device.Function))
                .Concat(_ethernets.Select(e => e.Function))
                .FirstOrDefault(f => f.Name == device && f.Root is not null);
        }
    }

    /// <summary>
    /// The contracts that were broken so far, as the checker keeps them: in a host that runs well, none but importers
    /// that were told to stop and took longer than their owner's patience, and memory looked up behind a published
    /// fence where a GPU was told to drain locally. Host lock not held.
    /// </summary>
    public IReadOnlyList<Violation> GetViolations()
    {
        using (Context.Enter())
        {
            return [.. Context.Checker.Violations];
        }
    }

    /// <summary>Whoever stages counts each byte when it is in system memory.</summary>
    internal void CountStaged(ulong bytes) => Interlocked.Add(ref _stagedBytes, (long)bytes);

    /// <summary>Makes the devices, starts their threads and checks once that memory can be taken back.</summary>
    /// <exception cref="ConfigurationException">
    /// The configuration has problems; the message names all of them.
    /// </exception>
    /// <exception cref="WayleaveException">
    /// An address is in use, or memory cannot be had; nothing is left running.
    /// </exception>
    public static async Task<WayleaveHost> StartAsync(HostConfig config, WayleaveHostOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(config);
        config.ThrowIfInvalid();
        options ??= new WayleaveHostOptions();
        WayleaveHost host = new(config, options);
        try
        {
            PciTopology topology = host._fabric.Topology;
            foreach (GpuConfig gpu in config.Gpus)
            {
                host._gpus.Add(new GpuHandle(host.Context, host._fabric, topology.Find(gpu.Name)!, gpu, options.Clock));
            }

            foreach (NicConfig nic in config.Nics)
            {
                host._nics.Add(new NicHandle(host.Context, host._fabric, topology.Find(nic.Name)!, nic, options));
            }

            foreach (NvmeConfig nvme in config.Nvmes)
            {
                PciFunction function = topology.Find(nvme.Name)!;
                host._nvmes.Add(new NvmeHandle(host.Context, host._fabric, function, nvme, options.Clock));
            }

            foreach (AcceleratorConfig accelerator in config.Accelerators)
            {
                host._accelerators.Add(new AcceleratorHandle(
                    host.Context, host._fabric, topology.Find(accelerator.Name)!, accelerator, options.Clock));
            }

            foreach (VfioConfig vfio in config.Vfios)
            {
                host._vfios.Add(new VfioHandle(
                    host.Context, host._fabric, topology.Find(vfio.Name)!, vfio, host.Deadlines));
            }

            foreach (EthernetConfig ethernet in config.Ethernets)
            {
                PciFunction function = topology.Find(ethernet.Name)!;
                host._ethernets.Add(new EthernetHandle(host.Context, host._fabric, function, ethernet));
            }

            foreach (LinuxNicConfig nic in config.LinuxNics)
            {
                host._linuxNics.Add(new LinuxNicHandle(host.Context, topology.Find(nic.Name)!, nic));
            }

            host.Objects = new ObjectStore(host.Context, host._fabric, host.MemoryDevices, options.Clock);
            host.Leases = new LeaseService(host.Context, host._nics);
            host.Compute = new ComputeService(host);
            host.Objects.EndUses = host.EndUsesAsync;
            host.Audits = new AuditService(host.Context, host.Objects, host.Leases, host._nics[0]);
            host.Transfers = new TransferService(host);
            host.Files = new DriveFiles(host);
            host.Resources = new ResourceService(host, new CryptographicChoice());
            host.WatchPeerMemory();
            await TakeBackCheck.RunAsync(host).ConfigureAwait(false);
            host.Objects.StartCounting();
            return host;
        }
        catch
        {
            await host.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>
    /// Ends every transfer and lease, takes every object back, stops the threads and closes the sockets. What peers
    /// still send meets a closed port.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        if (_disposed)
        {
            return;
        }

        _disposed = true;
        Deadlines.Dispose();
        if (Transfers is not null)
        {
            foreach (OutgoingTransfer transfer in Transfers.List())
            {
                await Transfers.EndAsync(transfer).ConfigureAwait(false);
            }

            foreach (Lease lease in Leases.List())
            {
                await Leases.EndAsync(lease).ConfigureAwait(false);
            }

            foreach (NetOperation operation in NetNics.SelectMany(e => e.Operations))
            {
                await operation.EndAsync(Stops()).ConfigureAwait(false);
            }

            foreach (ResourceGrant grant in Resources?.List() ?? [])
            {
                await Resources!.EndAsync(grant).ConfigureAwait(false);
            }

            Files?.Dispose();
            await Compute.CloseAllAsync(_ => true, "the host stops").ConfigureAwait(false);
            foreach (DeviceObject o in Objects.List())
            {
                await Objects.RevokeAsync(
                    o, new Core.Retirement.RevokePolicy { Reason = "the host stops" }).ConfigureAwait(false);
            }
        }

        // Ports first, and drives before the memory of others: nobody may reach memory that is about to be unmapped.
        foreach (NicHandle nic in _nics)
        {
            nic.Dispose();
        }

        foreach (EthernetHandle ethernet in _ethernets)
        {
            ethernet.Dispose();
        }

        foreach (NvmeHandle nvme in _nvmes)
        {
            await nvme.StopAsync().ConfigureAwait(false);
            nvme.Dispose();
        }

        foreach (IDisposable device in MemoryDevices.Except(_nvmes).Cast<IDisposable>())
        {
            device.Dispose();
        }

        // So that every test of a running host is a test of its locks and signalling sections too. A GPU that drains
        // locally looks pages up with its fences published: that is reported, and what it was asked for.
        bool drainsLocally = _gpus.Exists(g => g.Compute.UserMemory == GpuUserMemory.DrainLocally);
        IEnumerable<Violation> broken = GetViolations().Where(v => v.Kind != ViolationKind.LateUnmap
            && !(drainsLocally && v.Kind == ViolationKind.SignalingSection));
        Debug.Assert(!broken.Any(), string.Join('\n', broken));
    }

    // For memory whose device cannot make its users stop.
    private async Task EndUsesAsync(DeviceObject o)
    {
        await Leases.EndAllAsync(o).ConfigureAwait(false);
        string use = $"use {o}";
        WayleaveException reason = o.Owner.Presence.IsPresent
            ? new WayleaveException(Core.Errno.ENODEV, use, "its owner took it back")
            : o.Owner.Presence.Gone(use);
        foreach (NetOperation operation in NetNics.SelectMany(e => e.Operations).Where(n => n.Uses(o)))
        {
            await operation.EndAsync(reason).ConfigureAwait(false);
        }

        await Compute.EndUsesAsync(o).ConfigureAwait(false);
    }

    private static WayleaveException Stops() => new(Core.Errno.ENODEV, "go on", "the host stops");

    // Removals of resources that nobody waits for by name: the holder died, or the driver let go.
    private void WatchPeerMemory()
    {
        using (Context.Enter())
        {
            foreach (PeerDevice device in MemoryDevices.Select(d => d.Function.PeerDevice).OfType<PeerDevice>())
            {
                Deadlines.Add(() => device.NextDeadline, device.HandleTimeout);
            }
        }
    }

    private static WayleaveException Gone(IObjectDevice owner) =>
        new(Core.Errno.ENODEV, $"reach {owner.Name}", "it was pulled out");
}
