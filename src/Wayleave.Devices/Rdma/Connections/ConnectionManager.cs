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
    private readonly Dictionary<ushort, CmListener> _listeners = [];
    private readonly CmTransitions _transitions;
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

    TimeSpan IManagementAgent.Deadline => _table.Deadline;

    private TimeSpan Now => _device.Port.Now;

    /// <summary>Lets peers connect to a port (<c>rdma_listen</c>).</summary>
    /// <returns>
    /// <see cref="Errno.EADDRINUSE"/> for a port that is listened to, EINVAL for port 0 or no backlog.
    /// </returns>
    public Errno Listen(ushort port, int backlog, out CmListener? listener)
    {
        _device.Port.AssertHeld();
        listener = null;
        if (port == 0 || backlog < 1)
        {
            return Errno.EINVAL;
        }

        listener = new CmListener(port, backlog);
        if (_listeners.TryAdd(port, listener))
        {
            return Errno.Success;
        }

        listener = null;
        return Errno.EADDRINUSE;
    }

    /// <summary>Ends a listener; requests that wait for the application are rejected.</summary>
    public void Close(CmListener listener)
    {
        _device.Port.AssertHeld();
        _listeners.Remove(listener.Port);
        foreach (CmConnection connection in _table.All(c => ReferenceEquals(c.Listener, listener)))
        {
            if (connection.State == CmState.RequestReceived)
            {
                Reject(connection, default, CmRejectReason.InvalidServiceId);
            }
        }
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
        if (!fits || CmQueuePair.Open(pair, Link.Number, parameters.GrantedAccess) != Errno.Success)
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
    /// <returns>EINVAL for anything that does not fit; then the request still waits.</returns>
    public Errno Accept(TimeSpan now, CmConnection connection, QueuePair pair, CmParameters parameters)
    {
        _device.Port.AssertHeld();
        bool fits = connection is { State: CmState.RequestReceived, Request: not null }
            && pair.Type == connection.Request.QueuePairType
            && parameters.IsSane(CmReply.PrivateDataMax)
            && CmQueuePair.Open(pair, Link.Number, parameters.GrantedAccess) == Errno.Success;
        if (!fits)
        {
            return Errno.EINVAL;
        }

        CmRequest request = connection.Request!;
        connection.Pair = pair;
        connection.Agree(request, parameters);
        connection.ReceivePsn = _device.RandomPsn();
        Errno errno = CmQueuePair.Connect(connection, _options, request.StartingPsn, (PathMtu)request.PathMtu);
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

    /// <summary>Says no to a request that waits (<c>rdma_reject</c>). Nothing happens to one that does not.</summary>
    /// <param name="connection">Closed afterwards.</param>
    /// <param name="privateData">At most <see cref="CmNotice.RejectPrivateDataMax"/> bytes.</param>
    /// <param name="reason">What the peer is told.</param>
    public void Reject(
        CmConnection connection,
        ReadOnlyMemory<byte> privateData = default,
        CmRejectReason reason = CmRejectReason.ConsumerDefined)
    {
        _device.Port.AssertHeld();
        if (connection.State == CmState.RequestReceived)
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
        switch (connection.State)
        {
            case CmState.RequestReceived:
                Reject(connection);
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

    /// <summary>The oldest event that was not polled yet (<c>rdma_get_cm_event</c>, without the wait).</summary>
    public bool PollEvent(out CmEvent cmEvent) => _transitions.PollEvent(out cmEvent);

    void IManagementAgent.HandleMad(in Arrival arrival, uint sourceQp, ReadOnlySpan<byte> mad)
    {
        bool isHandled = MadHeader.TryParse(mad, out MadHeader header)
            && (header.ClassVersion == MadHeader.CmClassVersion
                ? Handle(arrival.Source, header, mad)
                : _outbox.RefuseVersion(arrival.Source, header, mad));
        Ignored += isHandled ? 0 : 1;
    }

    void IManagementAgent.HandleTimeout(TimeSpan now)
    {
        foreach (CmConnection connection in _table.TakeDue(now))
        {
            if (connection.State == CmState.TimeWait)
            {
                _table.Close(connection);
                _transitions.Raise(CmEventKind.TimeWaitOver, connection);
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

    private bool Handle(Gid source, in MadHeader header, ReadOnlySpan<byte> mad) => header.Attribute switch
    {
        CmMessageId.ConnectRequest => HandleRequest(source, header, CmRequest.Parse(mad)),
        CmMessageId.ConnectReply => HandleReply(source, header, CmReply.Parse(mad)),
        CmMessageId.ReadyToUse or CmMessageId.ConnectReject or CmMessageId.MessageReceipt
            or CmMessageId.DisconnectRequest or CmMessageId.DisconnectReply =>
            HandleNotice(source, header, CmNotice.Parse(mad, header.Attribute)),
        _ => false,
    };

    private bool HandleRequest(Gid source, in MadHeader header, CmRequest request)
    {
        if (_table.FindByRequest(source, request) is { } known)
        {
            HandleRepeatedRequest(known);
            return true;
        }

        if (!CmRequestRules.IsSane(request, source))
        {
            return false;
        }

        _listeners.TryGetValue(request.Port, out CmListener? listener);
        CmRejectReason reason = CmRequestRules.WhyNot(
            request, Link.Gid, _device.Options.PortMtu, listener is not null);
        if (reason != CmRejectReason.None)
        {
            return _outbox.RefuseStranger(source, header, request.LocalId, reason);
        }

        if (_table.FindByQueuePair(source, request.QpNumber) is { } stale)
        {
            // The peer has forgotten the connection that this queue pair was in.
            _transitions.EnterTimeWait(stale);
            return _outbox.RefuseStranger(source, header, request.LocalId, CmRejectReason.StaleConnection);
        }

        if (listener!.Pending >= listener.Backlog || _table.Pending >= _options.PendingMax)
        {
            return false; // the peer asks again
        }

        CmConnection connection = new(_table.NewId(), source, header.TransactionId)
        {
            State = CmState.RequestReceived,
            RemoteId = request.LocalId,
            RemoteQpNumber = request.QpNumber,
            Port = request.Port,
            SourcePort = request.SourcePort,
            Request = request,
            Listener = listener,
        };
        _table.Add(connection);
        listener.Pending++;
        _table.Pending++;
        _transitions.Raise(CmEventKind.ConnectRequest, connection, privateData: request.PrivateData);
        return true;
    }

    private void HandleRepeatedRequest(CmConnection connection)
    {
        switch (connection.State)
        {
            case CmState.RequestReceived:
                _outbox.SendNotice(connection, CmMessageId.MessageReceipt, CmSubject.Request);
                break;
            case CmState.ReplySent:
                _outbox.Send(connection);
                break;
            default:
                break;
        }
    }

    private bool HandleReply(Gid source, in MadHeader header, CmReply reply)
    {
        CmConnection? connection = _table.Find(reply.RemoteId, source);
        bool isRepeated = connection is { State: CmState.Established, Request: null }
            && connection.RemoteId == reply.LocalId;
        if (isRepeated)
        {
            _outbox.SendNotice(connection!, CmMessageId.ReadyToUse);
            return true;
        }

        bool fits = connection is { State: CmState.RequestSent }
            && header.TransactionId == connection.TransactionId
            && reply.QpNumber is > 1 and < Psn.Mask;
        if (!fits)
        {
            return false;
        }

        connection!.Agree(reply);
        Errno errno = CmQueuePair.Connect(
            connection, _options, reply.StartingPsn, connection.Parameters.PathMtu);
        if (errno != Errno.Success)
        {
            _outbox.SendNotice(
                connection, CmMessageId.ConnectReject, CmSubject.Reply, CmRejectReason.ConsumerDefined);
            _transitions.Refused(connection, CmRejectReason.ConsumerDefined, default);
            return true;
        }

        _outbox.SendNotice(connection, CmMessageId.ReadyToUse);
        _transitions.Establish(connection, reply.PrivateData);
        return true;
    }

    private bool HandleNotice(Gid source, in MadHeader header, CmNotice notice)
    {
        CmConnection? connection = _table.Find(notice.RemoteId, source);
        bool isNamed = connection is not null
            && (notice.LocalId == connection.RemoteId
                || (notice.Kind is CmMessageId.ConnectReject or CmMessageId.MessageReceipt
                    && connection.State == CmState.RequestSent));
        if (!isNamed)
        {
            return notice.Kind == CmMessageId.DisconnectRequest
                && _table.FindById(notice.RemoteId) is null
                && _outbox.AnswerStranger(source, header, notice);
        }

        return notice.Kind switch
        {
            CmMessageId.ReadyToUse => HandleReady(connection!, notice),
            CmMessageId.ConnectReject => HandleReject(connection!, notice),
            CmMessageId.MessageReceipt => HandleReceipt(connection!, notice),
            CmMessageId.DisconnectRequest => HandleDisconnect(connection!, header, notice),
            _ => HandleDisconnected(connection!),
        };
    }

    private bool HandleReady(CmConnection connection, CmNotice notice)
    {
        if (connection.State == CmState.ReplySent)
        {
            _transitions.Establish(connection, notice.PrivateData);
        }

        return true;
    }

    private bool HandleReject(CmConnection connection, CmNotice notice)
    {
        switch (connection.State)
        {
            case CmState.RequestSent or CmState.ReplySent:
                _transitions.Refused(connection, notice.Reason, notice.PrivateData);
                return true;
            case CmState.RequestReceived:
                _transitions.LeaveBacklog(connection);
                _transitions.Refused(connection, notice.Reason, notice.PrivateData);
                return true;
            case CmState.Established when notice.Reason == CmRejectReason.StaleConnection:
                _transitions.EnterTimeWait(connection);
                return true;
            default:
                return false;
        }
    }

    private bool HandleReceipt(CmConnection connection, CmNotice notice)
    {
        bool fits = (connection.State, notice.About) is (CmState.RequestSent, CmSubject.Request)
            or (CmState.ReplySent, CmSubject.Reply);
        if (fits)
        {
            TimeSpan more = CmTimes.Of(notice.ServiceTimeout) + connection.Interval;
            _table.SetDeadline(connection, Now + more);
        }

        return fits;
    }

    private bool HandleDisconnect(CmConnection connection, in MadHeader header, CmNotice notice)
    {
        bool fits = notice.RemoteQpNumber == connection.Pair?.QpNumber
            && connection.State is CmState.Established or CmState.ReplySent or CmState.DisconnectSent
                or CmState.TimeWait;
        if (!fits)
        {
            return false;
        }

        connection.TransactionId = header.TransactionId;
        _outbox.SendNotice(connection, CmMessageId.DisconnectReply);
        if (connection.State != CmState.TimeWait)
        {
            _transitions.EnterTimeWait(connection);
        }

        return true;
    }

    private bool HandleDisconnected(CmConnection connection)
    {
        if (connection.State == CmState.DisconnectSent)
        {
            _transitions.EnterTimeWait(connection);
        }

        return true;
    }
}
