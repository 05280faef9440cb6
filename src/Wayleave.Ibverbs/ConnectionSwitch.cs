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
    private const uint ConnectResponse = 5;
    private const uint Unreachable = 7;
    private const uint Rejected = 8;
    private const uint Established = 9;
    private const uint Disconnected = 10;
    private const uint TimeWaitExit = 15;

    private readonly VerbsDevice _device;
    private readonly ConnectionManager _manager;
    private readonly Dictionary<CmConnection, CmIdentifier> _connections = []; // port token
    private readonly Dictionary<(bool IsDatagram, ushort Port), CmIdentifier> _listeners = []; // port token
    private ushort _nextPort;

    /// <summary>Port token held.</summary>
    public ConnectionSwitch(VerbsDevice device, RdmaDevice machine)
    {
        _device = device;
        bool isNear = new EndpointAddress(device.Gid.High, device.Gid.Low, 0).IsLoopback;
        _manager = new ConnectionManager(machine, new ConnectionManagerOptions
        {
            ListenerGrace = TimeSpan.FromSeconds(3), // ib_write_bw -R listens twice, a second apart
            PeerIcrc = isNear ? IcrcMode.OwnIdentification : IcrcMode.SolveIdentification,
        });
        PathMtu = isNear ? PathMtu.Mtu4096 : PathMtu.Mtu1024;
        _nextPort = (ushort)(0x8000 | (machine.RandomPsn() & 0x3FFF));
    }

    /// <summary>What is asked for: over other links than the loopback what a frame of 1500 bytes carries.</summary>
    public PathMtu PathMtu { get; }

    /// <summary>
    /// Lets peers connect to a port, or ask there for a queue pair; 0 takes one that is free. Port token held.
    /// </summary>
    public Errno Listen(CmIdentifier identifier, ref ushort port, int backlog, bool isDatagram)
    {
        ushort chosen = port;
        while (chosen == 0 || (port == 0 && _listeners.ContainsKey((isDatagram, chosen))))
        {
            chosen = _nextPort++;
        }

        port = chosen;
        Errno errno = _manager.Listen(chosen, backlog, out CmListener? listener, isDatagram);
        if (listener is not null)
        {
            (identifier.Switch, identifier.Listener) = (this, listener);
            _listeners.Add((isDatagram, chosen), identifier);
        }

        return errno;
    }

    /// <summary>Asks a peer.</summary>
    /// <param name="identifier">Gets the connection.</param>
    /// <param name="to">The peer.</param>
    /// <param name="port">Where it listens.</param>
    /// <param name="pair">Null for one that the program moves itself.</param>
    /// <param name="number">Of that one.</param>
    /// <param name="parameters">What is asked for.</param>
    public Errno Connect(
        CmIdentifier identifier, Gid to, ushort port, QueuePair? pair, uint number, CmParameters parameters)
    {
        Errno errno = Errno.EINVAL;
        CmParameters asked = parameters with { PathMtu = PathMtu, MovesPair = pair is not null };
        _device.WithToken(() =>
        {
            if ((pair ?? Find(number)) is { } found)
            {
                errno = _manager.Connect(_device.Host.Now, to, port, found, asked, out CmConnection? made);
                Keep(identifier, made);
            }
        });
        return errno;
    }

    /// <summary>Asks a peer for the queue pair that serves a port for datagrams.</summary>
    public Errno Resolve(CmIdentifier identifier, Gid to, ushort port, ReadOnlyMemory<byte> privateData)
    {
        Errno errno = Errno.EINVAL;
        _device.WithToken(() =>
        {
            errno = _manager.Resolve(_device.Host.Now, to, port, privateData, out CmConnection? made);
            Keep(identifier, made);
        });
        return errno;
    }

    /// <summary>Answers a peer who asks for one.</summary>
    public Errno Serve(CmIdentifier identifier, uint number, uint qKey, ReadOnlyMemory<byte> privateData)
    {
        Errno errno = Errno.EINVAL;
        _device.WithToken(() => errno = identifier.Connection is { } connection
            ? _manager.Serve(connection, number, qKey, privateData)
            : Errno.EINVAL);
        return errno;
    }

    /// <summary>The program has its queue pair ready, or has seen the peer's data.</summary>
    public Errno Establish(CmIdentifier identifier)
    {
        Errno errno = Errno.EINVAL;
        _device.WithToken(() => errno = identifier.Connection is { } connection
            ? _manager.Establish(connection)
            : Errno.EINVAL);
        return errno;
    }

    /// <summary>What the queue pair needs; null before the peer has said anything.</summary>
    public QueuePairAttributes? Describe(CmIdentifier identifier)
    {
        QueuePairAttributes? attributes = null;
        _device.WithToken(() => attributes = identifier.Connection is { } connection
            ? _manager.Describe(connection)
            : null);
        return attributes;
    }

    /// <summary>The program has taken the request out of its channel. False: it is over, and is not told.</summary>
    public bool Take(CmIdentifier request)
    {
        bool waits = false;
        _device.WithToken(() =>
        {
            waits = request.Connection is { } connection && _manager.Take(connection);
            if (!waits && request.Connection is { } over)
            {
                _connections.Remove(over);
            }
        });
        return waits;
    }

    /// <summary>Takes a queue pair to INIT, so that receives can be posted.</summary>
    public Errno Prepare(QueuePair pair)
    {
        Errno errno = Errno.Success;
        _device.WithToken(() => errno = _manager.Prepare(pair, new CmParameters()));
        return errno;
    }

    /// <summary>Says yes to a request.</summary>
    public Errno Accept(CmIdentifier identifier, QueuePair? pair, uint number, CmParameters parameters)
    {
        Errno errno = Errno.EINVAL;
        _device.WithToken(() => errno = identifier.Connection is { } connection
                && (pair ?? Find(number)) is { } found
            ? _manager.Accept(
                _device.Host.Now, connection, found, parameters with { MovesPair = pair is not null })
            : Errno.EINVAL);
        return errno;
    }

    /// <summary>Says no to a request.</summary>
    public Errno Reject(CmIdentifier identifier, ReadOnlyMemory<byte> privateData)
    {
        Errno errno = Errno.EINVAL;
        _device.WithToken(() =>
        {
            bool waits = identifier.Connection is { State: CmState.RequestReceived or CmState.ReplyReceived } c
                && privateData.Length <= (c.IsDatagram
                    ? CmDatagramReply.PrivateDataMax : CmNotice.RejectPrivateDataMax);
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
            _listeners.Remove((listener.IsDatagram, listener.Port));
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
                    CmEventKind.ConnectResponse => (ConnectResponse, 0),
                    CmEventKind.Established => (Established, 0),
                    CmEventKind.Rejected => (Rejected, (int)e.Reason),
                    CmEventKind.Unreachable when e.Connection.DatagramStatus != 0 =>
                        (Unreachable, e.Connection.DatagramStatus),
                    CmEventKind.Unreachable => (Unreachable, -(int)Errno.ETIMEDOUT),
                    CmEventKind.Disconnected => (Disconnected, 0),
                    _ => (TimeWaitExit, 0),
                };
                identifier.Channel.Raise(new CmNote(identifier, kind, status, e.PrivateData));
            }
        }
    }

    // One of the program's own, by the number that it gives. Port token held.
    private QueuePair? Find(uint number) => number > 1 ? _device.Machine.Port.FindQueuePair(number) : null;

    private void Keep(CmIdentifier identifier, CmConnection? made)
    {
        if (made is not null)
        {
            (identifier.Switch, identifier.Connection) = (this, made);
            _connections.Add(made, identifier);
        }
    }

    private void HandleRequest(in CmEvent e)
    {
        (bool, ushort) port = (e.Connection.IsDatagram, e.Connection.Port);
        if (_listeners.TryGetValue(port, out CmIdentifier? listener))
        {
            CmIdentifier made = new(listener.Channel, structure: 0) { Switch = this, Connection = e.Connection };
            _connections.Add(e.Connection, made);
            listener.Channel.Raise(new CmNote(listener, ConnectRequest, 0, e.PrivateData, made));
        }
    }
}
