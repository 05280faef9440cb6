using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

// Read roce.md A13 first; cm.c and cma.c of the kernel are its longer form. CmState has the picture. Commands and
// events are those of rdma_cm. The network is hostile here: anybody can send to queue pair 1.
//
//   a message names a connection   its names, its source and, of a DREQ, the queue pair must fit; else it is ignored
//   it names none                  silence; only a REQ to a closed port and a DREQ are answered, so often per source
//   no state is kept               before a listener is found, and never more than the backlog

/// <summary>
/// The connection manager of a port: REQ, REP, RTU, REJ, MRA, DREQ and DREP on queue pair 1. A machine without I/O: the
/// port feeds it and gives it time; members are called with the port token held.
/// </summary>
public sealed class ConnectionManager : IManagementAgent
{
    private readonly RdmaDevice _device;
    private readonly ConnectionManagerOptions _options;
    private readonly CmOutbox _outbox;
    private readonly CmTable _table;
    private readonly Dictionary<(bool IsDatagram, ushort Port), CmListener> _listeners = [];
    private readonly CmHeldRequests _held;
    private readonly CmDatagrams _datagrams;
    private readonly CmTransitions _transitions;
    private readonly CmInbox _inbox;
    private ushort _nextSourcePort;

    /// <param name="device">Whose port it serves; a port has at most one manager. Its token is held.</param>
    /// <param name="options">Copied.</param>
    /// <param name="port">Which port; connections leave from its address, and are made on it.</param>
    /// <exception cref="ArgumentException">The options do not work together.</exception>
    /// <exception cref="InvalidOperationException">The port has a manager already.</exception>
    public ConnectionManager(RdmaDevice device, ConnectionManagerOptions? options = null, int port = 1)
    {
        _options = options ?? new ConnectionManagerOptions();
        _options.Validate();
        device.Port.AssertHeld();
        _device = device;
        Link = device.Port.Links[port - 1];
        _table = new CmTable(device, _options.TimeWaitMax);
        NodeGuid = device.NextRandom64();
        _outbox = new CmOutbox(device, Link, this, _options, NodeGuid);
        _transitions = new CmTransitions(device, _options, _table, _outbox);
        _held = new CmHeldRequests(_options.ListenerGrace);
        _datagrams = new CmDatagrams(device, Link, _options, _table, _outbox, _transitions);
        _inbox = new CmInbox(device, Link, _options, _listeners, _table, _held, _datagrams, _outbox, _transitions);
        _nextSourcePort = (ushort)(0xC000 | device.NextRandom());
    }

    /// <summary>The adapter's name in requests: random, new with every manager.</summary>
    public ulong NodeGuid { get; }

    /// <summary>The port that it serves.</summary>
    public PortLink Link { get; }

    /// <summary>Connections in any state but <see cref="CmState.Closed"/>.</summary>
    public int Count => _table.Count;

    /// <summary>Datagrams to queue pair 1 that were ignored.</summary>
    public long Ignored { get; private set; }

    TimeSpan IManagementAgent.Deadline =>
        _held.Deadline < _table.Deadline ? _held.Deadline : _table.Deadline;

    private TimeSpan Now => _device.Port.Now;

    /// <summary>Lets peers connect to a port (<c>rdma_listen</c>), or look up a queue pair for datagrams.</summary>
    /// <param name="port">Of the space that <paramref name="isDatagram"/> chooses.</param>
    /// <param name="backlog">Requests that may wait for the application.</param>
    /// <param name="listener">Null unless Success; ends with <see cref="Close"/>.</param>
    /// <param name="isDatagram">RDMA_PS_UDP instead of RDMA_PS_TCP.</param>
    /// <returns>
    /// <see cref="Errno.EADDRINUSE"/> for a port that is listened to, EINVAL for port 0 or no backlog.
    /// </returns>
    public Errno Listen(ushort port, int backlog, out CmListener? listener, bool isDatagram = false)
    {
        _device.Port.AssertHeld();
        listener = null;
        if (port == 0 || backlog < 1)
        {
            return Errno.EINVAL;
        }

        listener = new CmListener(port, backlog, isDatagram);
        if (_listeners.TryAdd((isDatagram, port), listener))
        {
            foreach (CmHeldRequests.Held held in _held.TakeFor(listener))
            {
                _ = held.Request is { } request
                    ? _inbox.HandleRequest(held.Source, held.Header, request)
                    : _inbox.HandleLookup(held.Source, held.Header, held.Lookup!);
            }

            return Errno.Success;
        }

        listener = null;
        return Errno.EADDRINUSE;
    }

    /// <summary>
    /// Ends a listener. Requests that the application has not taken (<see cref="Take"/>) are rejected, or wait for the
    /// next listener (<see cref="ConnectionManagerOptions.ListenerGrace"/>).
    /// </summary>
    public void Close(CmListener listener)
    {
        _device.Port.AssertHeld();
        _listeners.Remove((listener.IsDatagram, listener.Port));
        _held.NoteClosed(listener, Now);
        foreach (CmConnection connection in _table.All(c => ReferenceEquals(c.Listener, listener)))
        {
            if (connection.State == CmState.RequestReceived && TryHold(connection))
            {
                _transitions.LeaveBacklog(connection);
                _table.Close(connection);
            }
            else if (connection.State == CmState.RequestReceived)
            {
                Reject(connection, default, CmRejectReason.InvalidServiceId);
            }
        }

        _transitions.EmptyBacklog(listener); // of those that their peers have taken back
    }

    private bool TryHold(CmConnection connection)
    {
        Gid source = connection.RemoteGid;
        bool isHeld = connection.Request is { } request
            ? _held.TryHold(source, new MadHeader(CmMessageId.ConnectRequest, connection.TransactionId), request, Now)
            : _held.TryHold(
                source,
                new MadHeader(CmMessageId.ServiceIdRequest, connection.TransactionId),
                connection.DatagramRequest!,
                Now);
        _device.Port.NoteDeadline(_held.Deadline);
        return isHeld;
    }

    /// <summary>
    /// The application has taken a request out of its queue: it counts against no backlog any more, and the end of its
    /// listener is not its own. One that is not taken counts until it is answered (<see cref="Accept"/>, <see
    /// cref="Serve"/>, <see cref="Reject"/>, <see cref="Disconnect"/>), also when its peer has taken it back.
    /// </summary>
    /// <returns>False: its peer has taken it back, or its listener has ended; there is nothing to answer.</returns>
    public bool Take(CmConnection connection)
    {
        _device.Port.AssertHeld();
        _transitions.LeaveBacklog(connection);
        return connection.State != CmState.Closed;
    }

    /// <summary>
    /// Takes a queue pair to INIT, so that receives can be posted before it is connected (<c>rdma_create_qp</c>).
    /// </summary>
    /// <returns>EINVAL for one that is further, or on another port.</returns>
    public Errno Prepare(QueuePair pair, CmParameters parameters)
    {
        _device.Port.AssertHeld();
        return CmQueuePair.Open(pair, Link.Number, parameters.GrantedAccess);
    }

    /// <summary>
    /// Asks a peer for a connection (<c>rdma_connect</c>). Post the receives before: there is no later safe moment. An
    /// event says how it went.
    /// </summary>
    /// <param name="now">On the clock of the port, here and below.</param>
    /// <param name="to">Of an address family that the port has.</param>
    /// <param name="port">The port that the peer listens to.</param>
    /// <param name="pair">RC or UC, in RESET or INIT. Stays the caller's.</param>
    /// <param name="parameters">At most <see cref="CmRequest.PrivateDataMax"/> bytes of private data.</param>
    /// <param name="connection">Null unless Success.</param>
    /// <returns>EINVAL for anything that does not fit.</returns>
    public Errno Connect(
        TimeSpan now, Gid to, ushort port, QueuePair pair, CmParameters parameters, out CmConnection? connection)
    {
        _device.Port.AssertHeld();
        connection = null;
        bool fits = to.IsIPv4 == Link.Gid.IsIPv4
            && port != 0
            && pair.Type != QueuePairType.UnreliableDatagram
            && parameters.IsSane(CmRequest.PrivateDataMax);
        bool moves = parameters.MovesPair;
        if (!fits
            || (moves && CmQueuePair.Open(pair, Link.Number, parameters.GrantedAccess) != Errno.Success))
        {
            return Errno.EINVAL;
        }

        connection = new CmConnection(_table.NewId(), to, _device.NextRandom64())
        {
            State = CmState.RequestSent,
            Port = port,
            SourcePort = _nextSourcePort++,
            Pair = pair,
            Parameters = parameters,
            ReceivePsn = _device.RandomPsn(),
            ResponderResources = parameters.ResponderResources,
            InitiatorDepth = parameters.InitiatorDepth,
            AckTimeout = _options.AckTimeoutCode,
            RetryCount = parameters.RetryCount,
        };
        _table.Add(connection);
        _transitions.SendAndWait(connection, now);
        return Errno.Success;
    }

    /// <summary>
    /// Says yes to a request (<c>rdma_accept</c>). The queue pair is in RTS afterwards; data of the peer may come
    /// before the event that says so.
    /// </summary>
    /// <param name="now">Starts the timer of the answer.</param>
    /// <param name="connection">Its request waits.</param>
    /// <param name="pair">Of the type that was asked for, in RESET or INIT. Stays the caller's.</param>
    /// <param name="parameters">At most <see cref="CmReply.PrivateDataMax"/> bytes of private data.</param>
    /// <returns>
    /// EINVAL for anything that does not fit; then the request still waits, unless its peer has taken it back.
    /// </returns>
    public Errno Accept(TimeSpan now, CmConnection connection, QueuePair pair, CmParameters parameters)
    {
        _device.Port.AssertHeld();
        bool fits = connection is { State: CmState.RequestReceived, Request: not null }
            && pair.Type == connection.Request.QueuePairType
            && parameters.IsSane(CmReply.PrivateDataMax)
            && (!parameters.MovesPair
                || CmQueuePair.Open(pair, Link.Number, parameters.GrantedAccess) == Errno.Success);
        if (!fits)
        {
            LeaveIfOver(connection);
            return Errno.EINVAL;
        }

        CmRequest request = connection.Request!;
        connection.Pair = pair;
        connection.Agree(request, parameters);
        Errno errno = parameters.MovesPair
            ? CmQueuePair.Connect(connection, _options, request.StartingPsn, (PathMtu)request.PathMtu)
            : Errno.Success;
        if (errno != Errno.Success)
        {
            connection.Pair = null;
            return errno;
        }

        _transitions.LeaveBacklog(connection);
        connection.State = CmState.ReplySent;
        _table.NotePairs(connection);
        pair.AwaitsFirstPacket = true;
        _transitions.SendAndWait(connection, now);
        return Errno.Success;
    }

    /// <summary>
    /// What the queue pair of a connection needs on its way to RTS (<c>rdma_init_qp_attr</c>, without the state): for
    /// an application that moves it itself. Known once the peer's request, or its answer, is there; null before.
    /// </summary>
    public QueuePairAttributes? Describe(CmConnection connection)
    {
        _device.Port.AssertHeld();
        return connection.IsDatagram || connection.RemoteQpNumber == 0
            ? null
            : CmQueuePair.Describe(
                connection,
                _options,
                connection.Request is { } request ? (PathMtu)request.PathMtu : connection.Parameters.PathMtu);
    }

    /// <summary>
    /// The application has its queue pair ready (<c>rdma_establish</c>), or has seen the peer's data before the word of
    /// it (<c>rdma_notify</c>).
    /// </summary>
    /// <returns>EINVAL for a connection that waits for neither.</returns>
    public Errno Establish(CmConnection connection)
    {
        _device.Port.AssertHeld();
        switch (connection.State)
        {
            case CmState.ReplyReceived:
                _outbox.SendNotice(connection, CmMessageId.ReadyToUse);
                connection.State = CmState.Established;
                _device.Host.Trace(
                    "rdma.connected", connection.Pair!.Name, connection.LocalId, connection.RemoteQpNumber);
                return Errno.Success;
            case CmState.ReplySent:
                _transitions.Establish(connection, default);
                return Errno.Success;
            default:
                return Errno.EINVAL;
        }
    }

    /// <summary>Looks up the queue pair that serves a port for datagrams. An event says how it went.</summary>
    /// <param name="now">Starts the timer.</param>
    /// <param name="to">Of an address family that the port has.</param>
    /// <param name="port">In the space of datagrams.</param>
    /// <param name="privateData">At most <see cref="CmDatagramRequest.PrivateDataMax"/> bytes.</param>
    /// <param name="connection">Null unless Success.</param>
    /// <returns>EINVAL for anything that does not fit.</returns>
    public Errno Resolve(
        TimeSpan now, Gid to, ushort port, ReadOnlyMemory<byte> privateData, out CmConnection? connection)
    {
        _device.Port.AssertHeld();
        return _datagrams.Resolve(now, to, port, _nextSourcePort++, privateData, out connection);
    }

    /// <summary>Answers a look-up that waits.</summary>
    /// <param name="connection">Kept until <see cref="Disconnect"/>, for an answer that is lost.</param>
    /// <param name="qpNumber">The queue pair that serves the peer.</param>
    /// <param name="qKey">Its key.</param>
    /// <param name="privateData">At most <see cref="CmDatagramReply.PrivateDataMax"/> bytes.</param>
    /// <returns>EINVAL for anything that does not fit.</returns>
    public Errno Serve(CmConnection connection, uint qpNumber, uint qKey, ReadOnlyMemory<byte> privateData)
    {
        _device.Port.AssertHeld();
        LeaveIfOver(connection);
        return _datagrams.Serve(connection, qpNumber, qKey, privateData);
    }

    /// <summary>
    /// Says no to a request that waits (<c>rdma_reject</c>), or to an answer. Nothing happens to anything else.
    /// </summary>
    /// <param name="connection">Closed afterwards.</param>
    /// <param name="privateData">At most <see cref="CmNotice.RejectPrivateDataMax"/> bytes.</param>
    /// <param name="reason">What the peer is told.</param>
    public void Reject(
        CmConnection connection,
        ReadOnlyMemory<byte> privateData = default,
        CmRejectReason reason = CmRejectReason.ConsumerDefined)
    {
        _device.Port.AssertHeld();
        LeaveIfOver(connection);
        if (connection.IsDatagram)
        {
            _datagrams.Reject(connection, privateData, reason);
        }
        else if (connection.State == CmState.ReplyReceived)
        {
            _outbox.SendNotice(connection, CmMessageId.ConnectReject, CmSubject.Reply, reason, privateData);
            _table.Close(connection);
        }
        else if (connection.State == CmState.RequestReceived)
        {
            ArgumentOutOfRangeException.ThrowIfGreaterThan(privateData.Length, CmNotice.RejectPrivateDataMax);
            _transitions.LeaveBacklog(connection);
            _outbox.SendNotice(connection, CmMessageId.ConnectReject, CmSubject.Request, reason, privateData);
            _table.Close(connection);
        }
    }

    /// <summary>
    /// Ends a connection (<c>rdma_disconnect</c>), or the attempt to make one: the queue pair is in ERR at once, and
    /// the peer is told. Idempotent.
    /// </summary>
    public void Disconnect(TimeSpan now, CmConnection connection)
    {
        _device.Port.AssertHeld();
        LeaveIfOver(connection);
        switch (connection.State)
        {
            case CmState.RequestReceived or CmState.ReplyReceived:
                Reject(connection);
                break;
            case CmState.RequestSent or CmState.Established when connection.IsDatagram:
                _table.Close(connection);
                break;
            case CmState.RequestSent:
                _outbox.SendNotice(connection, CmMessageId.ConnectReject, CmSubject.None, CmRejectReason.Timeout);
                _table.Close(connection);
                break;
            case CmState.ReplySent or CmState.Established:
                connection.StopPair();
                connection.State = CmState.DisconnectSent;
                connection.TransactionId = _device.NextRandom64();
                _transitions.SendAndWait(connection, now);
                break;
            default:
                break;
        }
    }

    // A request that its peer has taken back has come to the application, which answers it.
    private void LeaveIfOver(CmConnection connection)
    {
        if (connection.State == CmState.Closed)
        {
            _transitions.LeaveBacklog(connection);
        }
    }

    /// <summary>The oldest event that was not polled yet (<c>rdma_get_cm_event</c>, without the wait).</summary>
    public bool PollEvent(out CmEvent cmEvent) => _transitions.PollEvent(out cmEvent);

    void IManagementAgent.HandleMad(in Arrival arrival, uint sourceQp, ReadOnlySpan<byte> mad)
    {
        bool isHandled = MadHeader.TryParse(mad, out MadHeader header)
            && (header.ClassVersion == MadHeader.CmClassVersion
                ? _inbox.Handle(arrival.Source, header, mad)
                : _outbox.RefuseVersion(arrival.Source, header, mad));
        Ignored += isHandled ? 0 : 1;
    }

    void IManagementAgent.HandleTimeout(TimeSpan now)
    {
        foreach (CmHeldRequests.Held held in _held.TakeDue(now))
        {
            _ = held.Request is null
                ? _outbox.RefuseStrangersLookup(
                    held.Source, held.Header, held.RemoteId, CmDatagramReply.Unsupported)
                : _outbox.RefuseStranger(
                    held.Source, held.Header, held.RemoteId, CmRejectReason.InvalidServiceId);
        }

        while (_table.TryTakeDue(now, out CmConnection? connection))
        {
            if (connection.State == CmState.TimeWait)
            {
                _transitions.EndTimeWait(connection);
            }
            else if (connection is { State: CmState.Established, IsDatagram: false })
            {
                _transitions.AskAgain(connection, now);
            }
            else if (connection.RetriesLeft-- > 0)
            {
                _outbox.Send(connection);
                _table.SetDeadline(connection, now + connection.Interval);
            }
            else
            {
                _transitions.GiveUp(connection);
            }
        }
    }

    // Data behind a lost RTU says what the RTU would have said.
    void IManagementAgent.HandleFirstPacket(QueuePair pair)
    {
        pair.AwaitsFirstPacket = false;
        if (_table.FindByPair(pair) is { State: CmState.ReplySent } connection)
        {
            _transitions.Establish(connection, default);
        }
    }

    bool IManagementAgent.HoldsNumber(uint queuePairNumber) => _table.HoldsNumber(queuePairNumber);
}
