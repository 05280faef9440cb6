using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>
/// One connection, made or being made, as its manager sees it (<c>struct rdma_cm_id</c>). Read and changed under the
/// port token.
/// </summary>
public sealed class CmConnection
{
    internal CmConnection(uint localId, Gid remoteGid, ulong transactionId) =>
        (LocalId, RemoteGid, TransactionId) = (localId, remoteGid, transactionId);

    public CmState State { get; internal set; }

    /// <summary>Our name for it: random.</summary>
    public uint LocalId { get; }

    /// <summary>The peer's name for it; 0 before it gave one.</summary>
    public uint RemoteId { get; internal set; }

    public Gid RemoteGid { get; }

    /// <summary>The port that was asked for.</summary>
    public ushort Port { get; internal set; }

    /// <summary>The port that the active side connects from.</summary>
    public ushort SourcePort { get; internal set; }

    /// <summary>Ours; null while an incoming request waits.</summary>
    public QueuePair? Pair { get; internal set; }

    /// <summary>The peer's; 0 before it is known.</summary>
    public uint RemoteQpNumber { get; internal set; }

    /// <summary>
    /// It looks up the queue pair of a datagram service (IBTA 12.11): there is nothing to end afterwards.
    /// </summary>
    public bool IsDatagram { get; internal init; }

    /// <summary>Of the peer's queue pair, for datagrams.</summary>
    public uint RemoteQKey { get; internal set; }

    /// <summary>What a peer that refuses a look-up answered: <c>enum ib_cm_sidr_status</c>.</summary>
    public int DatagramStatus { get; internal set; }

    /// <summary>What the peer asked for, on the side that was asked.</summary>
    public CmRequest? Request { get; internal set; }

    /// <summary>The same, of a look-up.</summary>
    public CmDatagramRequest? DatagramRequest { get; internal set; }

    /// <summary>What the peer's user sent along with a request; empty on the side that asks.</summary>
    public ReadOnlyMemory<byte> AskedData => Request?.PrivateData ?? DatagramRequest?.PrivateData ?? default;

    internal CmListener? Listener { get; set; }

    /// <summary>What names the request of a peer, so that a repetition is known; a look-up has no GUID.</summary>
    internal (Gid Source, uint RemoteId, ulong? Guid)? RequestKey =>
        Request is { } request ? (RemoteGid, request.LocalId, request.NodeGuid)
        : DatagramRequest is { } lookup ? (RemoteGid, lookup.RequestId, null)
        : null;

    /// <summary>The queue pair that a look-up is answered with.</summary>
    internal uint ServedQpNumber { get; set; }

    internal uint ServedQKey { get; set; }

    internal CmParameters Parameters { get; set; } = new();

    /// <summary>Of the dialog that the last message belongs to.</summary>
    internal ulong TransactionId { get; set; }

    /// <summary>
    /// The dialog in which the peer is asked whether it has forgotten the connection; null: it is not asked.
    /// </summary>
    internal ulong? Question { get; set; }

    /// <summary>The PSN that the peer was told to start at.</summary>
    internal uint ReceivePsn { get; set; }

    /// <summary>The PSN that the peer told us to start at.</summary>
    internal uint SendPsn { get; set; }

    internal int ResponderResources { get; set; }

    internal int InitiatorDepth { get; set; }

    internal int AckTimeout { get; set; }

    /// <summary>Of our queue pair: what we asked for, or the peer's request.</summary>
    internal int RetryCount { get; set; }

    /// <summary>Of our queue pair: what the peer's request or reply asks us for; it knows its receives.</summary>
    internal int RnrRetryCount { get; set; }

    internal int RetriesLeft { get; set; }

    /// <summary>When the last message is sent again, or time-wait ends.</summary>
    internal TimeSpan Deadline { get; set; } = TimeSpan.MaxValue;

    internal TimeSpan Interval { get; set; }

    /// <summary>Among those in time-wait; null: it is not.</summary>
    internal LinkedListNode<CmConnection>? TimeWaitPlace { get; set; }

    /// <summary>The passive side says yes: each side's depth is what the other side can answer.</summary>
    internal void Agree(CmRequest request, CmParameters parameters)
    {
        Parameters = parameters;
        (RetryCount, RnrRetryCount) = (request.RetryCount, request.RnrRetryCount);
        ResponderResources = Math.Min(parameters.ResponderResources, request.InitiatorDepth);
        InitiatorDepth = Math.Min(parameters.InitiatorDepth, request.ResponderResources);
        AckTimeout = request.AckTimeout;
    }

    /// <summary>The active side was told yes.</summary>
    internal void Agree(CmReply reply)
    {
        RemoteId = reply.LocalId;
        RemoteQpNumber = reply.QpNumber;
        RnrRetryCount = reply.RnrRetryCount; // cm_rep_handler
        InitiatorDepth = Math.Min(InitiatorDepth, reply.ResponderResources);
        ResponderResources = Math.Min(ResponderResources, reply.InitiatorDepth);
    }

    /// <summary>Its queue pair takes and sends nothing more.</summary>
    internal void StopPair()
    {
        if (Pair is { } pair && !IsDatagram)
        {
            pair.AwaitsFirstPacket = false;
            CmQueuePair.Stop(Parameters.MovesPair ? pair : null);
        }
    }

    public override string ToString() => $"connection 0x{LocalId:x8} with {RemoteGid}, {State}";
}
