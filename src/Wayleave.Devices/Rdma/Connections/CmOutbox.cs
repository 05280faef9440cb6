using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>
/// Makes and sends the messages of a connection manager: of a connection, what its state stands for; to strangers, no
/// more than a limit for each source. Port token held.
/// </summary>
internal sealed class CmOutbox(
    RdmaDevice device, PortLink link, IManagementAgent agent, ConnectionManagerOptions options, ulong nodeGuid)
{
    private readonly MadSender _sender = new(device, link, agent, options.PeerUdpPort);
    private readonly SourceLimit _strangers = new(options.StrangerAnswersPerSecond);
    private readonly byte[] _mad = new byte[MadHeader.MadBytes];

    /// <summary>The message that the state stands for; the same again when it is repeated.</summary>
    public void Send(CmConnection connection)
    {
        switch (connection.State)
        {
            case CmState.RequestSent when connection.IsDatagram:
                LookupOf(connection).WriteTo(_mad, connection.TransactionId);
                break;
            case CmState.Established when connection.IsDatagram:
                AnswerOf(connection).WriteTo(_mad, connection.TransactionId);
                break;
            case CmState.RequestSent:
                RequestOf(connection).WriteTo(_mad, connection.TransactionId);
                break;
            case CmState.ReplySent:
                ReplyOf(connection).WriteTo(_mad, connection.TransactionId);
                break;
            default:
                NoticeOf(connection, CmMessageId.DisconnectRequest).WriteTo(_mad, connection.TransactionId);
                break;
        }

        _sender.Send(connection.RemoteGid, _mad);
    }

    /// <summary>Sends one of the short messages.</summary>
    public void SendNotice(
        CmConnection connection,
        CmMessageId kind,
        CmSubject about = CmSubject.None,
        CmRejectReason reason = CmRejectReason.None,
        ReadOnlyMemory<byte> privateData = default)
    {
        CmNotice notice = NoticeOf(connection, kind) with
        {
            About = about,
            Reason = reason,
            ServiceTimeout = options.ServiceTimeoutCode,
            PrivateData = privateData,
        };
        notice.WriteTo(_mad, connection.TransactionId);
        _sender.Send(connection.RemoteGid, _mad);
    }

    /// <summary>
    /// Asks whether the peer knows the connection, and ends nothing if it does: a DREQ for a queue pair that no
    /// connection has is ignored by who knows its names (A13; cm_dreq_handler), and answered with a DREP by others.
    /// </summary>
    public void SendQuestion(CmConnection connection)
    {
        CmNotice notice = NoticeOf(connection, CmMessageId.DisconnectRequest) with { RemoteQpNumber = 0 };
        notice.WriteTo(_mad, connection.Question!.Value);
        _sender.Send(connection.RemoteGid, _mad);
    }

    private CmRequest RequestOf(CmConnection connection) => new()
    {
        LocalId = connection.LocalId,
        ServiceId = CmRequest.ServiceIdOf(connection.Port),
        NodeGuid = nodeGuid,
        QpNumber = connection.Pair!.QpNumber,
        ResponderResources = connection.Parameters.ResponderResources,
        InitiatorDepth = connection.Parameters.InitiatorDepth,
        ResponseTimeout = options.ResponseTimeoutCode,
        Transport = connection.Pair.Type == QueuePairType.ReliableConnection ? 0 : 1,
        StartingPsn = connection.ReceivePsn,
        RetryCount = connection.Parameters.RetryCount,
        PKey = device.Options.PKey,
        PathMtu = (int)connection.Parameters.PathMtu,
        RnrRetryCount = connection.Parameters.RnrRetryCount,
        RetriesMax = options.RetriesMax,
        UsesSharedReceives = connection.Pair.SharedReceives is not null,
        LocalGid = link.Gid,
        RemoteGid = connection.RemoteGid,
        AckTimeout = options.AckTimeoutCode,
        IPVersion = connection.RemoteGid.IsIPv4 ? 4 : 6,
        SourcePort = connection.SourcePort,
        PrivateData = connection.Parameters.PrivateData,
    };

    /// <summary>Says no to a look-up.</summary>
    public void RefuseLookup(
        Gid source, in MadHeader header, uint requestId, int status, ReadOnlyMemory<byte> privateData = default)
    {
        CmDatagramReply reply = new() { RequestId = requestId, Status = status, PrivateData = privateData };
        reply.WriteTo(_mad, header.TransactionId);
        _sender.Send(source, _mad);
    }

    /// <summary>The same to one of whom nothing is kept, so often and no more.</summary>
    public bool RefuseStrangersLookup(Gid source, in MadHeader header, uint requestId, int status)
    {
        bool mayAnswer = _strangers.TryTake(source, device.Port.Now);
        if (mayAnswer)
        {
            RefuseLookup(source, header, requestId, status);
        }

        return mayAnswer;
    }

    private CmDatagramRequest LookupOf(CmConnection connection) => new()
    {
        RequestId = connection.LocalId,
        ServiceId = CmDatagramRequest.ServiceIdOf(connection.Port),
        PKey = device.Options.PKey,
        LocalGid = link.Gid,
        RemoteGid = connection.RemoteGid,
        SourcePort = connection.SourcePort,
        IPVersion = connection.RemoteGid.IsIPv4 ? 4 : 6,
        PrivateData = connection.Parameters.PrivateData,
    };

    private static CmDatagramReply AnswerOf(CmConnection connection) => new()
    {
        RequestId = connection.RemoteId,
        Status = CmDatagramReply.Success,
        QpNumber = connection.ServedQpNumber,
        QKey = connection.ServedQKey,
        ServiceId = CmDatagramRequest.ServiceIdOf(connection.Port),
        PrivateData = connection.Parameters.PrivateData,
    };

    private CmReply ReplyOf(CmConnection connection) => new()
    {
        LocalId = connection.LocalId,
        RemoteId = connection.RemoteId,
        QpNumber = connection.Pair!.QpNumber,
        StartingPsn = connection.ReceivePsn,
        ResponderResources = connection.ResponderResources,
        InitiatorDepth = connection.InitiatorDepth,
        RnrRetryCount = connection.Parameters.RnrRetryCount,
        UsesSharedReceives = connection.Pair.SharedReceives is not null,
        NodeGuid = nodeGuid,
        PrivateData = connection.Parameters.PrivateData,
    };

    private static CmNotice NoticeOf(CmConnection connection, CmMessageId kind) => new()
    {
        Kind = kind,
        LocalId = connection.LocalId,
        RemoteId = connection.RemoteId,
        RemoteQpNumber = connection.RemoteQpNumber,
    };

    /// <summary>Refuses a request of another class version.</summary>
    public bool RefuseVersion(Gid source, in MadHeader header, ReadOnlySpan<byte> mad) =>
        header.Attribute == CmMessageId.ConnectRequest
        && RefuseStranger(source, header, CmRequest.Parse(mad).LocalId, CmRejectReason.InvalidClassVersion);

    /// <summary>Refuses a request that no connection is made of: our name is 0, and nothing is kept.</summary>
    public bool RefuseStranger(Gid source, in MadHeader header, uint remoteId, CmRejectReason reason)
    {
        CmNotice notice = new()
        {
            Kind = CmMessageId.ConnectReject,
            LocalId = 0,
            RemoteId = remoteId,
            About = CmSubject.Request,
            Reason = reason,
        };
        return SendToStranger(source, header, notice);
    }

    /// <summary>The peer of a connection that is forgotten here must be able to forget it too.</summary>
    public bool AnswerStranger(Gid source, in MadHeader header, CmNotice request)
    {
        CmNotice notice = new()
        {
            Kind = CmMessageId.DisconnectReply,
            LocalId = request.RemoteId,
            RemoteId = request.LocalId,
        };
        return SendToStranger(source, header, notice);
    }

    private bool SendToStranger(Gid source, in MadHeader header, CmNotice notice)
    {
        if (!_strangers.TryTake(source, device.Port.Now))
        {
            return false;
        }

        notice.WriteTo(_mad, header.TransactionId);
        _sender.Send(source, _mad);
        return true;
    }
}
