using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Host.Runners;

namespace Wayleave.Host.Ethernet;

/// <summary>
/// An Ethernet NIC of a running host: the device, its link, who drives it, and the protocols above. Members take the
/// port token themselves and are called without it and without the host lock.
/// </summary>
public sealed class HostedNic : IDisposable
{
    private readonly HostContext _host;
    private readonly Lock _lock = new();
    private readonly HashSet<DevmemConnection> _connections = [];
    private readonly HashSet<DevmemListener> _listeners = [];

    /// <param name="host">Whose clock and lock are used.</param>
    /// <param name="fabric">Where the NIC is plugged in.</param>
    /// <param name="function">The NIC's place there.</param>
    /// <param name="nic">Its address is that of the protocols.</param>
    /// <param name="ip">Address and MTU are taken from <paramref name="nic"/>.</param>
    /// <param name="link">Owned by this object.</param>
    /// <param name="driver">How to drive; null for the default.</param>
    /// <exception cref="ArgumentException">An option is out of range.</exception>
    public HostedNic(
        HostContext host,
        PciFabric fabric,
        PciFunction function,
        NicOptions nic,
        IpHostOptions ip,
        IFrameLink link,
        NicDriverOptions? driver = null)
    {
        ArgumentNullException.ThrowIfNull(nic);
        ArgumentNullException.ThrowIfNull(ip);
        _host = host;
        Device = new NicDevice(host, fabric, function, nic);
        ip = ip with { HardwareAddress = nic.Address, Tcp = ip.Tcp with { MtuBytes = nic.MtuBytes } };
        if (!Device.Port.TryEnter())
        {
            throw new InvalidOperationException("a port that was just made is held by somebody");
        }

        Protocols = new IpHost(ip, RandomNumberGenerator.GetBytes(16), new CryptographicChoice(), Device.Port);
        Protocols.Announce();
        Device.Port.Exit();
        Driver = new NicDriver(
            Device.Port, new EventDispatch(Protocols) { Revoked = b => BindingRevoked?.Invoke(b) }, link, host, driver);
        Driver.Wake();
    }

    /// <summary>
    /// The owner of bound memory has taken it back. Raised under the port token, after the connections were reset: a
    /// handler only marks.
    /// </summary>
    internal event Action<MemoryBinding>? BindingRevoked;

    public string Name => Device.Name;

    public NicDevice Device { get; }

    public NicDriver Driver { get; }

    /// <summary>ARP to TCP. Under the port token: <see cref="NicDriver.WithToken{T}"/>.</summary>
    public IpHost Protocols { get; }

    /// <summary>Takes connections to a port from now on.</summary>
    /// <param name="port">Not zero.</param>
    /// <param name="address">Null for each address of the host.</param>
    /// <param name="backlog">Connections that wait to be accepted.</param>
    /// <exception cref="WayleaveException">Somebody listens there (EADDRINUSE).</exception>
    public DevmemListener Listen(ushort port, IpAddress? address = null, int backlog = 128)
    {
        TcpListener? listener = null;
        Errno errno = Driver.WithToken(() => Protocols.Tcp.Listen(address, port, backlog, out listener));
        errno.ThrowIfFailed($"listen on TCP port {port} of {Name}");
        return new DevmemListener(this, listener!);
    }

    /// <summary>Opens a connection. Canceling it resets what was begun.</summary>
    /// <exception cref="WayleaveException">ECONNREFUSED, ETIMEDOUT, ENETUNREACH, EHOSTUNREACH.</exception>
    public async Task<DevmemConnection> ConnectAsync(
        IpAddress remote, ushort port, CancellationToken cancellation = default)
    {
        DevmemConnection? opened = null;
        Errno errno = Driver.WithToken(() =>
        {
            Errno result = Protocols.Connect(_host.Now, remote, port, out TcpConnection? connection);
            opened = result == Errno.Success ? new DevmemConnection(this, connection!) : null;
            return result;
        });
        errno.ThrowIfFailed($"connect to {remote} port {port} from {Name}");
        try
        {
            await opened!.WaitForConnectedAsync(cancellation).ConfigureAwait(false);
        }
        catch
        {
            opened!.Abort();
            throw;
        }

        return opened;
    }

    /// <summary>
    /// Ends what programs have open: peers are reset and whoever waits is told. Then stops driving and closes the link.
    /// </summary>
    public void Dispose()
    {
        DevmemListener[] listeners;
        DevmemConnection[] connections;
        lock (_lock)
        {
            (listeners, connections) = ([.. _listeners], [.. _connections]);
        }

        foreach (DevmemListener listener in listeners)
        {
            listener.Dispose();
        }

        foreach (DevmemConnection connection in connections)
        {
            connection.HandleNicClosing();
        }

        Driver.Dispose();
    }

    /// <summary>Under the port token or not; runs nothing of theirs.</summary>
    internal void Remember(DevmemConnection connection)
    {
        lock (_lock)
        {
            _connections.Add(connection);
        }
    }

    internal void Remember(DevmemListener listener)
    {
        lock (_lock)
        {
            _listeners.Add(listener);
        }
    }

    internal void Forget(DevmemConnection connection)
    {
        lock (_lock)
        {
            _connections.Remove(connection);
        }
    }

    internal void Forget(DevmemListener listener)
    {
        lock (_lock)
        {
            _listeners.Remove(listener);
        }
    }
}
