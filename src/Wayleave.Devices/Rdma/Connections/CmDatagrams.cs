using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

// IBTA 12.11, and cma.c where it says RDMA_PS_UDP: a look-up is one question and one answer. Who asks repeats the
// question until it is answered; who answers remembers the answer as long as the application keeps the connection.

/// <summary>Service id resolution: which queue pair serves datagrams for a port. Port token held.</summary>
internal sealed class CmDatagrams(
    RdmaDevice device,
    PortLink link,
    ConnectionManagerOptions options,
    CmTable table,
    CmOutbox outbox,
    CmTransitions transitions)
{
    /// <summary>See <see cref="ConnectionManager.Resolve"/>.</summary>
    public Errno Resolve(
        TimeSpan now,
        Gid to,
        ushort port,
        ushort sourcePort,
        ReadOnlyMemory<byte> privateData,
        out CmConnection? connection)
    {
        connection = null;
        if (to.IsIPv4 != link.Gid.IsIPv4 || port == 0
            || privateData.Length > CmDatagramRequest.PrivateDataMax)
        {
            return Errno.EINVAL;
        }

        connection = new CmConnection(table.NewId(), to, device.NextRandom64())
        {
            IsDatagram = true,
            State = CmState.RequestSent,
            Port = port,
            SourcePort = sourcePort,
            Parameters = new CmParameters { PrivateData = privateData },
        };
        table.Add(connection);
        transitions.SendAndWait(connection, now);
        return Errno.Success;
    }

    /// <summary>See <see cref="ConnectionManager.Serve"/>.</summary>
    public Errno Serve(CmConnection connection, uint qpNumber, uint qKey, ReadOnlyMemory<byte> privateData)
    {
        bool fits = connection is { IsDatagram: true, State: CmState.RequestReceived }
            && qpNumber is > 1 and < Psn.Mask
            && privateData.Length <= CmDatagramReply.PrivateDataMax;
        if (!fits)
        {
            return Errno.EINVAL;
        }

        transitions.LeaveBacklog(connection);
        connection.State = CmState.Established;
        (connection.ServedQpNumber, connection.ServedQKey) = (qpNumber, qKey);
        connection.Parameters = new CmParameters { PrivateData = privateData };
        outbox.Send(connection);
        return Errno.Success;
    }

    /// <summary>Says no to a look-up that waits.</summary>
    public void Reject(CmConnection connection, ReadOnlyMemory<byte> privateData, CmRejectReason reason)
    {
        if (connection.State == CmState.RequestReceived)
        {
            ArgumentOutOfRangeException.ThrowIfGreaterThan(privateData.Length, CmDatagramReply.PrivateDataMax);
            transitions.LeaveBacklog(connection);
            outbox.RefuseLookup(
                connection.RemoteGid,
                new MadHeader(CmMessageId.ServiceIdRequest, connection.TransactionId),
                connection.RemoteId,
                reason == CmRejectReason.InvalidServiceId ? CmDatagramReply.Unsupported : CmDatagramReply.Rejected,
                privateData);
            table.Close(connection);
        }
    }

    /// <summary>A peer asks.</summary>
    public bool HandleRequest(Gid source, in MadHeader header, CmDatagramRequest request, CmListener? listener)
    {
        if (table.FindByRequest(source, request) is { } known)
        {
            if (known.State == CmState.Established)
            {
                outbox.Send(known); // the answer was lost
            }

            return true;
        }

        bool isSane = request.LocalGid == source // nobody asks in another's name
            && request.RemoteGid == link.Gid
            && request.IPVersion == (source.IsIPv4 ? 4 : 6);
        if (!isSane)
        {
            return false;
        }

        if (listener is null || request.ServiceId != CmDatagramRequest.ServiceIdOf(request.Port))
        {
            return outbox.RefuseStrangersLookup(
                source, header, request.RequestId, CmDatagramReply.Unsupported);
        }

        if (request.HeaderVersion != 0)
        {
            return outbox.RefuseStrangersLookup(source, header, request.RequestId, CmDatagramReply.Rejected);
        }

        if (listener.Pending >= listener.Backlog || table.Pending >= options.PendingMax)
        {
            return false; // the peer asks again
        }

        CmConnection connection = new(table.NewId(), source, header.TransactionId)
        {
            IsDatagram = true,
            State = CmState.RequestReceived,
            RemoteId = request.RequestId,
            Port = request.Port,
            SourcePort = request.SourcePort,
            DatagramRequest = request,
            Listener = listener,
        };
        table.Add(connection);
        listener.Pending++;
        table.Pending++;
        transitions.Raise(CmEventKind.ConnectRequest, connection, privateData: request.PrivateData);
        return true;
    }

    /// <summary>A peer answers.</summary>
    public bool HandleReply(Gid source, in MadHeader header, CmDatagramReply reply)
    {
        CmConnection? connection = table.Find(reply.RequestId, source);
        bool fits = connection is { IsDatagram: true, State: CmState.RequestSent }
            && header.TransactionId == connection.TransactionId
            && (reply.Status != CmDatagramReply.Success || reply.QpNumber is > 1 and < Psn.Mask);
        if (!fits)
        {
            return false;
        }

        (connection!.RemoteQpNumber, connection.RemoteQKey) = (reply.QpNumber, reply.QKey);
        connection.DatagramStatus = reply.Status;
        table.Close(connection); // there is nothing that could end
        CmEventKind kind = reply.Status == CmDatagramReply.Success ? CmEventKind.Established : CmEventKind.Unreachable;
        transitions.Raise(kind, connection, privateData: reply.PrivateData);
        return true;
    }
}
