using System.Net;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Host.Configuration;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Objects;
using Wayleave.Host.Runners;
using Wayleave.Linux;

namespace Wayleave.Host;

/// <summary>
/// An Ethernet NIC of a running host: the device, its TAP interface, its thread and its TCP endpoint, and who uses it.
/// Members take the port token and the host lock themselves and are called with neither.
/// </summary>
public sealed class EthernetHandle : NetNic, IDisposable
{
    private const int SteeredQueues = 32; // bindings in the life of the NIC whose payload need not be copied

    private readonly HostContext _host;
    private bool _disposed;

    internal EthernetHandle(HostContext host, PciFabric fabric, PciFunction function, EthernetConfig config)
        : base(host, config.Name)
    {
        (_host, Config) = (host, config);
        TapDevice tap = OpenTap(config);
        try
        {
            Nic = new HostedNic(
                host, fabric, function, config.ToNicOptions(), config.ToIpOptions(), new TapLink(tap));
        }
        catch
        {
            tap.Dispose();
            throw;
        }

        Nic.Driver.WithToken(() =>
        {
            NicDevice device = Nic.Device;
            HeaderSplitMode mode = config.SplitsHeaders ? HeaderSplitMode.On : HeaderSplitMode.Off;
            device.SetSplit(new HeaderSplit(mode, config.SplitThresholdBytes))
                .ThrowIfFailed($"set tcp-data-split of {Name}");
            FlowSteering steering = device.Port.Steering;
            steering.Change(0, RssChange.Equal(config.RssQueuesInUse, steering.Main.Table.Length))
                .ThrowIfFailed($"spread flows of {Name} over {config.RssQueuesInUse} queues");
        });
    }

    public EthernetConfig Config { get; }

    /// <inheritdoc/>
    public override IReadOnlyList<IpAddress> Addresses => [.. Config.Addresses.Select(a => a.Address)];

    public PciFunction Function => Nic.Device.Function;

    /// <summary>The NIC with its protocols: what programs listen on and connect from.</summary>
    public HostedNic Nic { get; }

    /// <summary>The TAP interface, as the kernel names it.</summary>
    public string Interface => Nic.Driver.LinkName;

    /// <summary>What stopped the NIC's thread, or is wrong with its link; null while it works.</summary>
    public string? Failure => Nic.Driver.Failure?.Message
        ?? (Nic.Driver.LinkError == Errno.Success ? null : $"{Interface}: {Describe(Nic.Driver.LinkError)}");

    /// <inheritdoc/>
    public override Task<IReceiveBinding> BindReceiveAsync(
        WayleaveHost host, DeviceObject o, BindRequest request, Action? revoked = null) =>
        SoftwareReceiveBinding.BindAsync(host, this, o, request, revoked);

    /// <inheritdoc/>
    public override IDisposable Steer(ushort port, IpAddress? address, int queue)
    {
        SteeredPort steered = new(Nic);
        try
        {
            foreach (FlowType type in (ReadOnlySpan<FlowType>)[FlowType.TcpIPv4, FlowType.TcpIPv6])
            {
                FlowRule rule = FlowRule.ForPort(type, port, queue);
                if (address is { } own)
                {
                    if (own.IsIPv4 != (type == FlowType.TcpIPv4))
                    {
                        continue;
                    }

                    rule = rule with { Destination = own, DestinationMask = FlowRule.Exactly };
                }

                Errno errno = steered.Insert(rule);
                errno.ThrowIfFailed(
                    $"steer TCP port {port} to queue {queue} of {Name}",
                    errno == Errno.EOPNOTSUPP ? $"wayleave nic {Name} -K ntuple on" : null);
            }

            return steered;
        }
        catch
        {
            steered.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public override IDevmemListener ListenDevmem(ushort port, IpAddress? address = null, int backlog = 128) =>
        Nic.Listen(port, address, backlog);

    /// <summary>
    /// Starts every queue anew: frames in the rings are lost, and senders send them again. Bindings, rules and tables
    /// stay, and so does every chunk that somebody holds.
    /// </summary>
    /// <returns>Queues, and the frames that were thrown away.</returns>
    /// <exception cref="WayleaveException">ENODEV: it is on its way out.</exception>
    public (int Queues, long Dropped) Reset()
    {
        using IDisposable use = Presence.Use($"reset {Name}");
        return Nic.Driver.WithToken(() =>
        {
            NicPort port = Nic.Device.Port;
            long before = CountResetDrops(port);
            for (int i = 0; i < port.Queues.Count; i++)
            {
                Nic.Device.ResetQueue(i).ThrowIfFailed($"reset queue {i} of {Name}");
            }

            return (port.Queues.Count, CountResetDrops(port) - before);
        });
    }

    /// <summary>
    /// Takes the device away for good (<c>unregister_netdevice</c>): every binding loses its queues.
    /// </summary>
    /// <returns>Ends when the memory of each binding was let go of: chunks that readers hold keep it.</returns>
    internal Task RemoveAsync()
    {
        List<Task> released = [];
        MemoryBinding[] bindings = [];
        TransmitBinding[] sends = [];
        Nic.Driver.WithToken(() =>
        {
            (bindings, sends) = ([.. Nic.Device.Bindings], [.. Nic.Device.TransmitBindings]);
            Nic.Device.Remove();
        });
        released.AddRange(bindings.Select(b => NetBinding.WhenReleased(_host, b.TryAddReleased)));
        released.AddRange(sends.Select(b => NetBinding.WhenReleased(_host, b.TryAddReleased)));
        return Task.WhenAll(released);
    }

    /// <summary>The present bindings whose memory is not let go of, by name.</summary>
    internal IEnumerable<string> ListHolders() => Nic.Driver.WithToken(() => Nic.Device.Bindings
        .Where(b => b.State != BindingState.Released)
        .Select(b => $"{b.Name}, {b.OutstandingTokens} tokens out")
        .ToArray());

    /// <summary>
    /// Stops the thread and closes the link: a TAP interface that the host made goes with it. Twice is fine.
    /// </summary>
    public void Dispose()
    {
        if (!_disposed)
        {
            _disposed = true;
            Nic.Dispose();
        }
    }

    /// <summary>Rules of this host's making; somebody may delete them by hand before.</summary>
    private sealed class SteeredPort(HostedNic nic) : IDisposable
    {
        private readonly List<uint> _rules = [];

        public Errno Insert(FlowRule rule)
        {
            int location = 0;
            Errno errno = nic.Driver.WithToken(() => nic.Device.Port.Steering.InsertRule(rule, out location));
            if (errno == Errno.Success)
            {
                _rules.Add((uint)location);
            }

            return errno;
        }

        public void Dispose()
        {
            nic.Driver.TryWithToken(() => _rules.ForEach(r => nic.Device.Port.Steering.DeleteRule(r)));
            _rules.Clear();
        }
    }

    private static long CountResetDrops(NicPort port) => port.Queues.Sum(q => q.Stats.ResetDrops);

    private static string Describe(Errno errno) => errno switch
    {
        Errno.EIO => "the interface is down (ip link set NAME up)",
        Errno.EBADFD => "the interface was deleted",
        _ => ErrnoMap.Describe(errno),
    };

    private static TapDevice OpenTap(EthernetConfig config)
    {
        string operation = $"link {config.Name} to {config.Tap ?? "a TAP interface"}";
        if (!Support.Tap.IsAvailable)
        {
            throw new WayleaveException(Errno.EOPNOTSUPP, operation, Support.Tap.Detail);
        }

        TapDevice? tap = null;
        try
        {
            bool isNew = config.Tap is null || !NetworkInterface.Exists(config.Tap);
            tap = TapDevice.Open(config.Tap ?? "wl%d", new TapOptions { SteeredQueues = SteeredQueues });
            if (isNew || config.PeerAddresses.Count > 0)
            {
                NetworkInterface.SetUp(tap.Name, config.MtuBytes);
                foreach (InterfaceAddress address in config.PeerAddresses)
                {
                    NetworkInterface.AddAddress(
                        tap.Name, IPAddress.Parse(address.Address.ToString()), address.PrefixLength);
                }
            }

            return tap;
        }
        catch (LinuxException e)
        {
            tap?.Dispose();
            throw ErrnoMap.ToException(e, operation);
        }
    }
}
