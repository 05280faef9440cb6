using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>Takes the queue pair of a connection through its states (<c>cma_modify_qp_rtr</c> and its kind).</summary>
internal static class CmQueuePair
{
    /// <summary>
    /// To INIT on a port, from where its receives can be posted. Nothing happens to one that is there.
    /// </summary>
    public static Errno Open(QueuePair pair, int port, AccessFlags access) => pair.State == QueuePairState.Reset
        ? Step(pair, new QueuePairAttributes { Port = port, AccessFlags = access, State = QueuePairState.Init })
        : pair.State == QueuePairState.Init && pair.PortLink.Number == port ? Errno.Success : Errno.EINVAL;

    /// <summary>
    /// From INIT to RTS. The passive side does so before it answers: the peer may send right behind its RTU.
    /// </summary>
    /// <param name="connection">With queue pair, peer and PSN known.</param>
    /// <param name="options">Of the manager.</param>
    /// <param name="sendPsn">Where the peer told us to start.</param>
    /// <param name="pathMtu">Of both sides.</param>
    public static Errno Connect(
        CmConnection connection, ConnectionManagerOptions options, uint sendPsn, PathMtu pathMtu)
    {
        connection.SendPsn = sendPsn;
        QueuePairAttributes attributes = Describe(connection, options, pathMtu) with
        {
            State = QueuePairState.ReadyToReceive,
        };
        Errno errno = Step(connection.Pair!, attributes);
        return errno == Errno.Success
            ? Step(connection.Pair!, attributes with { State = QueuePairState.ReadyToSend })
            : errno;
    }

    /// <summary>What the connection's queue pair has in RTS; its state is left out.</summary>
    public static QueuePairAttributes Describe(
        CmConnection connection, ConnectionManagerOptions options, PathMtu pathMtu)
    {
        CmParameters parameters = connection.Parameters;
        return new QueuePairAttributes
        {
            AccessFlags = parameters.GrantedAccess,
            AddressVector = new AddressVector(
                connection.RemoteGid,
                options.PeerUdpPort,
                connection.RemoteGid.IsIPv4 ? options.PeerIcrc : IcrcMode.Full),
            Profile = options.Profile,
            PeerWindowBytes = parameters.PeerWindowBytes,
            PathMtu = pathMtu,
            DestQpNumber = connection.RemoteQpNumber,
            RqPsn = connection.ReceivePsn,
            SqPsn = connection.SendPsn,
            MaxDestRdAtomic = connection.ResponderResources,
            MaxRdAtomic = connection.InitiatorDepth,
            MinRnrTimer = parameters.MinRnrTimer,
            Timeout = connection.AckTimeout,
            RetryCount = connection.RetryCount,
            RnrRetry = connection.RnrRetryCount,
        };
    }

    /// <summary>To ERR; what was queued completes flushed.</summary>
    public static void Stop(QueuePair? pair)
    {
        if (pair is { State: not QueuePairState.Reset })
        {
            Step(pair, new QueuePairAttributes { State = QueuePairState.Error });
        }
    }

    private static Errno Step(QueuePair pair, QueuePairAttributes attributes)
    {
        QueuePairTransitions.TryGet(
            pair.State, attributes.State, pair.Type, out QueuePairAttributeMask required, out _);
        return pair.Modify(attributes, required | QueuePairAttributeMask.State);
    }
}
