using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Host.Connections;

// Who runs what: commands take the port token for a moment (PortDriver.WithToken); events are taken at the end of each
// turn by whoever drives the port, under the token, and only complete tasks there, whose continuations run elsewhere.

/// <summary>
/// Connections of a NIC by IP address and port, as rdma_cm makes them: any program that uses librdmacm can be the other
/// side. Members are for any thread.
/// </summary>
public sealed class ConnectionService
{
    private static readonly TimeSpan s_closedAnswer = TimeSpan.FromMilliseconds(200);

    private readonly NicHandle _nic;
    private readonly ushort _peerUdpPort;
    private readonly ConnectionManager _manager;
    private readonly Dictionary<ushort, RdmaListener> _listeners = []; // port token
    private readonly Dictionary<CmConnection, RdmaConnection> _connections = []; // port token

    internal ConnectionService(NicHandle nic, int port)
    {
        _nic = nic;
        ConnectionManager? manager = null;
        _peerUdpPort = nic.Ports[port - 1].UdpPort;
        ConnectionManagerOptions options = new() { PeerUdpPort = _peerUdpPort };
        nic.Driver.WithToken(() => manager = new ConnectionManager(nic.Device, options, port));
        _manager = manager!;
        nic.Driver.WithToken(() => nic.Driver.TurnEnded += HandleEvents); // of each port that is used
    }

    /// <summary>Lets peers connect to a port.</summary>
    /// <param name="port">In the port space of librdmacm called TCP; it has nothing to do with TCP's ports.</param>
    /// <param name="backlog">Requests that may wait for <see cref="RdmaListener.AcceptAsync"/>.</param>
    /// <exception cref="WayleaveException">EADDRINUSE: somebody listens there already.</exception>
    public RdmaListener Listen(ushort port, int backlog = 16)
    {
        RdmaListener? listener = null;
        Errno errno = Errno.Success;
        _nic.Driver.WithToken(() =>
        {
            errno = _manager.Listen(port, backlog, out CmListener? made);
            if (made is not null)
            {
                listener = new RdmaListener(this, made);
                _listeners.Add(port, listener);
            }
        });
        errno.ThrowIfFailed($"listen to port {port} of {_nic.Name}");
        return listener!;
    }

    /// <summary>
    /// Takes a queue pair in RESET to where receives can be posted, which must be before it is connected.
    /// </summary>
    /// <param name="pair">To be connected with the same parameters.</param>
    /// <param name="parameters">What the peer will be granted.</param>
    public void Prepare(QueuePair pair, CmParameters? parameters = null)
    {
        ArgumentNullException.ThrowIfNull(pair);
        Errno errno = Errno.Success;
        _nic.Driver.WithToken(() => errno = _manager.Prepare(pair, parameters ?? new CmParameters()));
        errno.ThrowIfFailed($"prepare {pair.Name}");
    }

    /// <summary>Connects to a port of a peer. Post the receives before: its first message may be on its way.</summary>
    /// <param name="peer">Address, and port as in <see cref="Listen"/>.</param>
    /// <param name="pair">RC or UC, in RESET or INIT. Stays the caller's.</param>
    /// <param name="parameters">What this side wants; the path MTU is that of the NIC.</param>
    /// <param name="cancellation">
    /// Ends the wait and the attempt: the peer is told, and the queue pair is in ERR.
    /// </param>
    /// <exception cref="ConnectionRefusedException">
    /// ECONNREFUSED: the peer says no, with its reason and words.
    /// </exception>
    /// <exception cref="WayleaveException">
    /// ETIMEDOUT: nobody answers; EINVAL: what is asked for does not fit.
    /// </exception>
    public async Task<RdmaConnection> ConnectAsync(
        IPEndPoint peer,
        QueuePair pair,
        CmParameters? parameters = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(peer);
        string operation = $"connect to {peer} from {_nic.Name}";
        if (!Gid.TryParse(peer.Address.ToString(), out Gid gid))
        {
            throw new WayleaveException(Errno.EINVAL, operation, "the address has a zone");
        }

        CmParameters asked = (parameters ?? new CmParameters()) with { PathMtu = _nic.PathMtu };
        RdmaConnection? connection = null;
        Errno errno = Errno.Success;
        _nic.Driver.WithToken(() =>
        {
            errno = _manager.Connect(
                _nic.Now, gid, (ushort)peer.Port, pair, asked, out CmConnection? made);
            if (made is not null)
            {
                connection = Track(made, pair);
            }
        });
        errno.ThrowIfFailed(operation);
        using CancellationTokenRegistration end = cancellation.Register(() => Disconnect(connection!));
        await connection!.Made.WaitAsync(cancellation).ConfigureAwait(false);
        return connection;
    }

    /// <summary>
    /// What its host says of a peer that does not answer: that nobody has the UDP port to which packets go. For the
    /// words of an error and no more: anybody may say so in its name (rdma.md). A socket of its own is used, so that
    /// no word of this reaches those of the NIC.
    /// </summary>
    /// <param name="peer">Its address.</param>
    /// <param name="cancellation">Ends the wait, which is short anyway.</param>
    /// <returns>Null when its host says nothing; else a phrase.</returns>
    public Task<string?> WhySilentAsync(IPAddress peer, CancellationToken cancellation = default) =>
        WhySilentAsync(peer, s_closedAnswer, cancellation);

    /// <summary>The same, with another time for the answer.</summary>
    internal async Task<string?> WhySilentAsync(IPAddress peer, TimeSpan answerMax, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(peer);
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        using Socket socket = new(peer.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
        try
        {
            await socket.ConnectAsync(new IPEndPoint(peer, _peerUdpPort), cancellation).ConfigureAwait(false);
            await socket.SendAsync(ReadOnlyMemory<byte>.Empty, cancellation).ConfigureAwait(false);
            limit.CancelAfter(answerMax);
            await socket.ReceiveAsync(new byte[1], limit.Token).ConfigureAwait(false);
            return null;
        }
        catch (SocketException e)
        {
            return DescribeSilence(e.SocketErrorCode);
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            // Nothing was said, or it was said in time and this process had no processor to hear it.
            return DescribeSilence(
                (SocketError)socket.GetSocketOption(SocketOptionLevel.Socket, SocketOptionName.Error)!);
        }
    }

    private string? DescribeSilence(SocketError said) => said switch
    {
        SocketError.Success => null,
        SocketError.ConnectionRefused => $"its UDP port {_peerUdpPort} is closed",
        _ => new SocketException((int)said).Message,
    };

    /// <summary>
    /// The NIC stops: peers are told, nobody waits any longer, and nothing can be made any more.
    /// </summary>
    internal void Stop() => _nic.Driver.WithToken(() =>
    {
        foreach (RdmaListener listener in _listeners.Values)
        {
            listener.Stop();
        }

        foreach (RdmaConnection connection in _connections.Values)
        {
            _manager.Disconnect(_nic.Now, connection.Id);
            connection.Stop();
        }

        _listeners.Clear();
        _connections.Clear();
    });

    internal void Close(CmListener listener) => _nic.Driver.WithToken(() =>
    {
        _manager.Close(listener);
        _listeners.Remove(listener.Port);
    });

    internal RdmaConnection Accept(CmConnection request, QueuePair pair, CmParameters parameters)
    {
        RdmaConnection? connection = null;
        Errno errno = Errno.Success;
        _nic.Driver.WithToken(() =>
        {
            errno = _manager.Accept(_nic.Now, request, pair, parameters);
            connection = errno == Errno.Success ? Track(request, pair) : null;
        });
        errno.ThrowIfFailed($"accept a connection of {request.RemoteGid} on {_nic.Name}");
        return connection!;
    }

    internal void Reject(CmConnection request, ReadOnlyMemory<byte> privateData) =>
        _nic.Driver.WithToken(() => _manager.Reject(request, privateData));

    internal void Disconnect(RdmaConnection connection) =>
        _nic.Driver.WithToken(() => _manager.Disconnect(_nic.Now, connection.Id));

    private RdmaConnection Track(CmConnection id, QueuePair pair)
    {
        RdmaConnection connection = new(this, id, pair);
        _connections.Add(id, connection);
        return connection;
    }

    private void HandleEvents()
    {
        while (_manager.PollEvent(out CmEvent cmEvent))
        {
            if (cmEvent.Kind == CmEventKind.ConnectRequest)
            {
                HandleRequest(cmEvent);
            }
            else if (_connections.TryGetValue(cmEvent.Connection, out RdmaConnection? connection))
            {
                connection.Handle(cmEvent);
                if (cmEvent.Connection.State == CmState.Closed)
                {
                    _connections.Remove(cmEvent.Connection);
                }
            }
        }
    }

    private void HandleRequest(in CmEvent cmEvent)
    {
        if (_listeners.TryGetValue(cmEvent.Connection.Port, out RdmaListener? listener))
        {
            listener.Add(new RdmaConnectionRequest(this, cmEvent.Connection, cmEvent.PrivateData));
        }
    }
}
