using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Objects;
using Wayleave.Host.Removal;

namespace Wayleave.Host;

/// <summary>
/// An Ethernet NIC that a running host receives with: the software NIC (<see cref="EthernetHandle"/>) or one of the
/// kernel's (<see cref="LinuxNicHandle"/>). Whoever reads sees the same pieces and tokens of both. Members take the
/// locks that they need themselves and are called with none.
/// </summary>
public abstract class NetNic
{
    private readonly HostContext _host;
    private readonly List<NetOperation> _operations = []; // host lock

    private protected NetNic(HostContext host, string name) =>
        (_host, Name, Presence) = (host, name, new DevicePresence(name));

    public string Name { get; }

    public DevicePresence Presence { get; }

    /// <summary>What receives and sends by it just now.</summary>
    public IReadOnlyList<NetOperation> Operations
    {
        get
        {
            using (_host.Enter())
            {
                return [.. _operations];
            }
        }
    }

    /// <summary>What peers can connect to.</summary>
    public abstract IReadOnlyList<IpAddress> Addresses { get; }

    /// <summary>
    /// Binds an object to receive queues: payload that is split from its headers lands there from now on. Waits while
    /// its memory moves.
    /// </summary>
    /// <param name="host">Of both.</param>
    /// <param name="o">Ready; stays the caller's, and is in use until the binding was disposed.</param>
    /// <param name="request">Which queues, and how.</param>
    /// <param name="revoked">
    /// Told once when the owner has taken the memory back; by a thread that must not wait, so it only marks.
    /// </param>
    /// <exception cref="WayleaveException">
    /// What the NIC, the route, the kernel or the owner says against it.
    /// </exception>
    public abstract Task<IReceiveBinding> BindReceiveAsync(
        WayleaveHost host, DeviceObject o, BindRequest request, Action? revoked = null);

    /// <summary>Sends connections to a port to a queue, until what is returned is disposed.</summary>
    /// <param name="port">Not zero.</param>
    /// <param name="address">Null for each address.</param>
    /// <param name="queue">Of the NIC.</param>
    /// <exception cref="WayleaveException">The NIC refuses the rule.</exception>
    public abstract IDisposable Steer(ushort port, IpAddress? address, int queue);

    /// <summary>Takes connections to a port from now on.</summary>
    /// <param name="port">Not zero.</param>
    /// <param name="address">Null for each address.</param>
    /// <param name="backlog">Connections that wait to be accepted.</param>
    /// <exception cref="WayleaveException">EADDRINUSE, EADDRNOTAVAIL.</exception>
    public abstract IDevmemListener ListenDevmem(ushort port, IpAddress? address = null, int backlog = 128);

    public override string ToString() => Name;

    internal void Add(NetOperation operation)
    {
        using (_host.Enter())
        {
            _operations.Add(operation);
        }
    }

    internal void Remove(NetOperation operation)
    {
        using (_host.Enter())
        {
            _operations.Remove(operation);
        }
    }
}
