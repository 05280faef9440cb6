using System.Net.NetworkInformation;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Host.Configuration;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Objects;

namespace Wayleave.Host;

/// <summary>
/// A NIC of the kernel whose receive queues place payload in memory of this host by the kernel's own devmem TCP. The
/// connections are the kernel's too. Header split, RSS and n-tuple rules are set by whoever administers the NIC, as
/// Linux wants it (<c>Documentation/networking/devmem.rst</c>); what is not set is refused by the kernel. Not exercised
/// on hardware.
/// </summary>
public sealed class LinuxNicHandle : NetNic
{
    internal LinuxNicHandle(HostContext host, PciFunction function, LinuxNicConfig config)
        : base(host, config.Name) => (Function, Config) = (function, config);

    public LinuxNicConfig Config { get; }

    /// <summary>Where it stands in the host's topology: who binds memory to it attaches from there.</summary>
    public PciFunction Function { get; }

    /// <summary>As the kernel names it.</summary>
    public string Interface => Config.Interface;

    /// <summary>Those that the interface has just now; none while there is no such interface.</summary>
    public override IReadOnlyList<IpAddress> Addresses =>
    [
        .. NetworkInterface.GetAllNetworkInterfaces()
            .Where(i => i.Name == Interface)
            .SelectMany(i => i.GetIPProperties().UnicastAddresses)
            .Select(a => IpAddress.TryParse(a.Address.ToString().Split('%')[0], out IpAddress own) ? own : default)
            .Where(a => a != default && !a.IsLinkLocal),
    ];

    /// <inheritdoc/>
    public override async Task<IReceiveBinding> BindReceiveAsync(
        WayleaveHost host, DeviceObject o, BindRequest request, Action? revoked = null) =>
        await LinuxReceiveBinding.BindAsync(host, this, o, request).ConfigureAwait(false);

    /// <summary>
    /// Nothing: an n-tuple rule of the kernel's is made by ethtool. What comes by another queue is read as ordinary
    /// data.
    /// </summary>
    public override IDisposable Steer(ushort port, IpAddress? address, int queue) => new NoRule();

    /// <inheritdoc/>
    public override IDevmemListener ListenDevmem(ushort port, IpAddress? address = null, int backlog = 128) =>
        LinuxDevmemListener.Open(port, address, backlog);

    private sealed class NoRule : IDisposable
    {
        public void Dispose()
        {
            // There is none of this host's making.
        }
    }
}
