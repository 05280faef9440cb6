using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux;

namespace Wayleave.Ibverbs;

// Who runs what: commands run on the program's threads and take the port token for a moment; events are taken at the
// end of each turn by whoever drives the port, under the token, and only go into the queue of a channel there.

/// <summary>The connection manager of a device, and which identifier each of its connections is.</summary>
internal sealed class ConnectionSwitch
{
    // enum rdma_cm_event_type
    private const uint ConnectRequest = 4;
    private const uint Unreachable = 7;
    private const uint Rejected = 8;
    private const uint Established = 9;
    private const uint Disconnected = 10;
    private const uint TimeWaitExit = 15;

    private readonly VerbsDevice _device;
    private readonly ConnectionManager _manager;
    private readonly Dictionary<CmConnection, CmIdentifier> _connections = []; // port token
    private readonly Dictionary<ushort, CmIdentifier> _listeners = []; // port token
    private ushort _nextPort;

    /// <summary>Port token held.</summary>
    public ConnectionSwitch(VerbsDevice device, RdmaDevice machine)
    {
        _device = device;
        bool isNear = new EndpointAddress(device.Gid.High, device.Gid.Low, 0).IsLoopback;
        _manager = new ConnectionManager(machine, new ConnectionManagerOptions
        {
            PeerIcrc = isNear ? IcrcMode.OwnIdentification : IcrcMode.SolveIdentification,
        });
        PathMtu = isNear ? PathMtu.Mtu4096 : PathMtu.Mtu1024;
        _nextPort = (ushort)(0x8000 | (machine.RandomPsn() & 0x3FFF));
    }

    /// <summary>What is asked for: over other links than the loopback what a frame of 1500 bytes carries.</summary>
    public PathMtu PathMtu { get; }

    /// <summary>Lets peers connect to a port; 0 takes one that is free. Port token held.</summary>
    public Errno Listen(CmIdentifier identifier, ref ushort port, int backlog)
    {
        ushort chosen = port;
        while (chosen == 0 || (port == 0 && _listeners.ContainsKey(chosen)))
        {
            chosen = _nextPort++;
        }

        port = chosen;
        Errno errno = _manager.Listen(chosen, backlog, out CmListener? listener);
        if (listener is not null)
        {
            (identifier.Switch, identifier.Listener) = (this, listener);
            _listeners.Add(chosen, identifier);
        }

        return errno;
    }

    /// <summary>Asks a peer.</summary>
    public Errno Connect(CmIdentifier identifier, Gid to, ushort port, QueuePair pair, CmParameters parameters)
    {
        Errno errno = Errno.Success;
        _device.WithToken(() =>
        {
            errno = _manager.Connect(
                _device.Host.Now, to, port, pair, parameters with { PathMtu = PathMtu }, out CmConnection? made);
            if (made is not null)
            {
                (identifier.Switch, identifier.Connection) = (this, made);
                _connections.Add(made, identifier);
            }
        });
        return errno;
    }

    /// <summary>Takes a queue pair to INIT, so that receives can be posted.</summary>
    public Errno Prepare(QueuePair pair)
    {
        Errno errno = Errno.Success;
        _device.WithToken(() => errno = _manager.Prepare(pair, new CmParameters()));
        return errno;
    }

    /// <summary>Says yes to a request.</summary>
    public Errno Accept(CmIdentifier identifier, QueuePair pair, CmParameters parameters)
    {
        Errno errno = Errno.EINVAL;
        _device.WithToken(() => errno = identifier.Connection is { } connection
            ? _manager.Accept(_device.Host.Now, connection, pair, parameters)
            : Errno.EINVAL);
        return errno;
    }

    /// <summary>Says no to a request.</summary>
    public Errno Reject(CmIdentifier identifier, ReadOnlyMemory<byte> privateData)
    {
        Errno errno = Errno.EINVAL;
        _device.WithToken(() =>
        {
            bool waits = identifier.Connection is { State: CmState.RequestReceived }
                && privateData.Length <= CmNotice.RejectPrivateDataMax;
            if (waits)
            {
                _manager.Reject(identifier.Connection!, privateData);
                errno = Errno.Success;
            }
        });
        return errno;
    }

    /// <summary>Ends a connection. EINVAL for one that is none.</summary>
    public Errno Disconnect(CmIdentifier identifier)
    {
        Errno errno = Errno.EINVAL;
        _device.WithToken(() =>
        {
            if (identifier.Connection is { } connection)
            {
                _manager.Disconnect(_device.Host.Now, connection);
                errno = Errno.Success;
            }
        });
        return errno;
    }

    /// <summary>The identifier is destroyed: what it was ends, and its events are nobody's.</summary>
    public void Forget(CmIdentifier identifier) => _device.WithToken(() =>
    {
        if (identifier.Listener is { } listener)
        {
            _listeners.Remove(listener.Port);
            _manager.Close(listener);
        }

        if (identifier.Connection is { } connection)
        {
            _connections.Remove(connection);
            _manager.Disconnect(_device.Host.Now, connection);
        }
    });

    /// <summary>Port token held: see above.</summary>
    public void HandleEvents()
    {
        while (_manager.PollEvent(out CmEvent e))
        {
            if (e.Kind == CmEventKind.ConnectRequest)
            {
                HandleRequest(e);
            }
            else if (_connections.TryGetValue(e.Connection, out CmIdentifier? identifier))
            {
                (uint kind, int status) = e.Kind switch
                {
                    CmEventKind.Established => (Established, 0),
                    CmEventKind.Rejected => (Rejected, (int)e.Reason),
                    CmEventKind.Unreachable => (Unreachable, -(int)Errno.ETIMEDOUT),
                    CmEventKind.Disconnected => (Disconnected, 0),
                    _ => (TimeWaitExit, 0),
                };
                identifier.Channel.Raise(new CmNote(identifier, kind, status, e.PrivateData));
            }
        }
    }

    private void HandleRequest(in CmEvent e)
    {
        if (_listeners.TryGetValue(e.Connection.Port, out CmIdentifier? listener))
        {
            CmIdentifier made = new(listener.Channel, structure: 0) { Switch = this, Connection = e.Connection };
            _connections.Add(e.Connection, made);
            listener.Channel.Raise(new CmNote(listener, ConnectRequest, 0, e.PrivateData, made));
        }
    }
}
