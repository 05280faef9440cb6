using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>
/// What peers, and anybody else, send to the connection manager of a port: whether it fits a connection or a listener,
/// and what follows from it. Port token held by the caller.
/// </summary>
/// <param name="device">Whose port it is.</param>
/// <param name="link">The port.</param>
/// <param name="options">The manager's.</param>
/// <param name="listeners">The manager's, which adds and removes them.</param>
/// <param name="table">Connections.</param>
/// <param name="held">Requests that wait for a listener.</param>
/// <param name="datagrams">Look-ups for datagrams.</param>
/// <param name="outbox">What is answered.</param>
/// <param name="transitions">What becomes of a connection.</param>
internal sealed class CmInbox(
    RdmaDevice device,
    PortLink link,
    ConnectionManagerOptions options,
    IReadOnlyDictionary<(bool IsDatagram, ushort Port), CmListener> listeners,
    CmTable table,
    CmHeldRequests held,
    CmDatagrams datagrams,
    CmOutbox outbox,
    CmTransitions transitions)
{
    /// <summary>A message of the connection manager's class. False: it was ignored.</summary>
    public bool Handle(Gid source, in MadHeader header, ReadOnlySpan<byte> mad) => header.Attribute switch
    {
        CmMessageId.ConnectRequest => HandleRequest(source, header, CmRequest.Parse(mad)),
        CmMessageId.ConnectReply => HandleReply(source, header, CmReply.Parse(mad)),
        CmMessageId.ReadyToUse or CmMessageId.ConnectReject or CmMessageId.MessageReceipt
            or CmMessageId.DisconnectRequest or CmMessageId.DisconnectReply =>
            HandleNotice(source, header, CmNotice.Parse(mad, header.Attribute)),
        CmMessageId.ServiceIdRequest => HandleLookup(source, header, CmDatagramRequest.Parse(mad)),
        CmMessageId.ServiceIdReply => datagrams.HandleReply(source, header, CmDatagramReply.Parse(mad)),
        _ => false,
    };

    /// <summary>A look-up for datagrams; also one that was held until its listener came.</summary>
    public bool HandleLookup(Gid source, in MadHeader header, CmDatagramRequest request)
    {
        listeners.TryGetValue((true, request.Port), out CmListener? listener);
        if (listener is null && held.TryHold(source, header, request, device.Port.Now))
        {
            device.Port.NoteDeadline(held.Deadline);
            return true;
        }

        return datagrams.HandleRequest(source, header, request, listener);
    }

    /// <summary>A request for a connection; also one that was held until its listener came.</summary>
    public bool HandleRequest(Gid source, in MadHeader header, CmRequest request)
    {
        if (table.FindByRequest(source, request) is { } repeated)
        {
            HandleRepeatedRequest(repeated);
            return true;
        }

        if (!CmRequestRules.IsSane(request, source))
        {
            return false;
        }

        listeners.TryGetValue((false, request.Port), out CmListener? listener);
        CmRejectReason reason = CmRequestRules.WhyNot(
            request, link.Gid, device.Options.PortMtu, listener is not null);
        if (table.FindByQueuePair(source, request.QpNumber) is { } known)
        {
            return RefuseStale(known, source, header, request, reason == CmRejectReason.None);
        }

        if (reason == CmRejectReason.InvalidServiceId && held.TryHold(source, header, request, device.Port.Now))
        {
            device.Port.NoteDeadline(held.Deadline);
            return true;
        }

        if (reason != CmRejectReason.None)
        {
            return outbox.RefuseStranger(source, header, request.LocalId, reason);
        }

        if (listener!.Pending >= listener.Backlog || table.Pending >= options.PendingMax)
        {
            return false; // the peer asks again
        }

        CmConnection connection = new(table.NewId(), source, header.TransactionId)
        {
            State = CmState.RequestReceived,
            RemoteId = request.LocalId,
            RemoteQpNumber = request.QpNumber,
            Port = request.Port,
            SourcePort = request.SourcePort,
            Request = request,
            Listener = listener,
            ReceivePsn = device.RandomPsn(),
            SendPsn = request.StartingPsn,
        };
        connection.Agree(request, new CmParameters
        {
            ResponderResources = RdmaDevice.MaxRdAtomic,
            InitiatorDepth = RdmaDevice.MaxRdAtomic,
        });
        table.Add(connection);
        listener.Pending++;
        table.Pending++;
        transitions.Raise(CmEventKind.ConnectRequest, connection, privateData: request.PrivateData);
        return true;
    }

    private void HandleRepeatedRequest(CmConnection connection)
    {
        switch (connection.State)
        {
            case CmState.RequestReceived:
                outbox.SendNotice(connection, CmMessageId.MessageReceipt, CmSubject.Request);
                break;
            case CmState.ReplySent:
                outbox.Send(connection);
                break;
            case CmState.TimeWait:
                outbox.SendNotice(
                    connection, CmMessageId.ConnectReject, CmSubject.None, CmRejectReason.StaleConnection);
                break;
            default:
                break;
        }
    }

    // cm_match_req: a queue pair is in one connection at a time, and in none until the time of waiting is over.
    // Linux, and IBTA 12.9.8.3.1, end the connection that it is in on the word of the request, whoever sent it and
    // whatever it asks for. Here the peer is asked: one that has forgotten its connection says so. A REP that waits for
    // its answer is that question already.
    private bool RefuseStale(
        CmConnection known, Gid source, in MadHeader header, CmRequest request, bool isAcceptable)
    {
        bool isRefused = outbox.RefuseStranger(source, header, request.LocalId, CmRejectReason.StaleConnection);
        if (isRefused && isAcceptable && known is { State: CmState.Established, IsDatagram: false })
        {
            transitions.Doubt(known);
        }

        return isRefused;
    }

    // Look-ups have names from the same space, and nothing that these messages could be about: no queue pair of ours,
    // and no end.
    private CmConnection? FindPeers(uint localId, Gid source) =>
        table.Find(localId, source) is { IsDatagram: false } found ? found : null;

    private bool HandleReply(Gid source, in MadHeader header, CmReply reply)
    {
        CmConnection? connection = FindPeers(reply.RemoteId, source);
        bool isRepeated = connection is { State: CmState.Established, Request: null }
            && connection.RemoteId == reply.LocalId;
        if (isRepeated)
        {
            outbox.SendNotice(connection!, CmMessageId.ReadyToUse);
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
        connection.SendPsn = reply.StartingPsn;
        if (!connection.Parameters.MovesPair)
        {
            connection.State = CmState.ReplyReceived;
            table.NotePairs(connection);
            table.SetDeadline(connection, TimeSpan.MaxValue);
            transitions.Raise(CmEventKind.ConnectResponse, connection, privateData: reply.PrivateData);
            return true;
        }

        Errno errno = CmQueuePair.Connect(
            connection, options, reply.StartingPsn, connection.Parameters.PathMtu);
        if (errno != Errno.Success)
        {
            outbox.SendNotice(
                connection, CmMessageId.ConnectReject, CmSubject.Reply, CmRejectReason.ConsumerDefined);
            transitions.Refused(connection, CmRejectReason.ConsumerDefined, default);
            return true;
        }

        outbox.SendNotice(connection, CmMessageId.ReadyToUse);
        transitions.Establish(connection, reply.PrivateData);
        return true;
    }

    private bool HandleNotice(Gid source, in MadHeader header, CmNotice notice)
    {
        CmConnection? connection = FindPeers(notice.RemoteId, source);
        bool isNamed = connection is not null
            && (notice.LocalId == connection.RemoteId
                || (notice.Kind is CmMessageId.ConnectReject or CmMessageId.MessageReceipt
                    && connection.State == CmState.RequestSent));
        if (!isNamed)
        {
            return notice.Kind == CmMessageId.DisconnectRequest
                && table.FindById(notice.RemoteId) is null
                && outbox.AnswerStranger(source, header, notice);
        }

        return notice.Kind switch
        {
            CmMessageId.ReadyToUse => HandleReady(connection!, notice),
            CmMessageId.ConnectReject => HandleReject(connection!, header, notice),
            CmMessageId.MessageReceipt => HandleReceipt(connection!, notice),
            CmMessageId.DisconnectRequest => HandleDisconnect(connection!, header, notice),
            _ => HandleDisconnected(connection!, header),
        };
    }

    private bool HandleReady(CmConnection connection, CmNotice notice)
    {
        if (connection.State == CmState.ReplySent)
        {
            transitions.Establish(connection, notice.PrivateData);
        }

        return true;
    }

    // A peer that heard no RTU gives up its REP, whose answer this is: a REJ ends a connection that is made here too
    // (cm_rej_handler). The application is told that it has ended, as it expects of one that was made; Linux says that
    // it was rejected. A DREQ names our queue pair besides both names. A REJ has no such field, so it must repeat the
    // transaction, as every answer does (A13), though Linux does not look.
    private bool HandleReject(CmConnection connection, in MadHeader header, CmNotice notice)
    {
        switch (connection.State)
        {
            case CmState.RequestSent or CmState.ReplySent or CmState.ReplyReceived:
                transitions.Refused(connection, notice.Reason, notice.PrivateData);
                return true;
            case CmState.RequestReceived:
                transitions.Withdrawn(connection, notice.Reason, notice.PrivateData);
                return true;
            case CmState.Established when header.TransactionId == connection.TransactionId:
                transitions.EnterTimeWait(connection);
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
            table.SetDeadline(connection, device.Port.Now + more);
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
        outbox.SendNotice(connection, CmMessageId.DisconnectReply);
        if (connection.State != CmState.TimeWait)
        {
            transitions.EnterTimeWait(connection);
        }

        return true;
    }

    private bool HandleDisconnected(CmConnection connection, in MadHeader header)
    {
        bool isForgotten = connection is { State: CmState.Established, Question: { } question }
            && header.TransactionId == question;
        if (connection.State == CmState.DisconnectSent || isForgotten)
        {
            transitions.EnterTimeWait(connection);
        }

        return true;
    }
}
