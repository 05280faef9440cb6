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

    /// <summary>What the peer asked for, on the side that was asked.</summary>
    public CmRequest? Request { get; internal set; }

    internal CmListener? Listener { get; set; }

    internal CmParameters Parameters { get; set; } = new();

    /// <summary>Of the dialog that the last message belongs to.</summary>
    internal ulong TransactionId { get; set; }

    /// <summary>The PSN that the peer was told to start at.</summary>
    internal uint ReceivePsn { get; set; }

    internal int ResponderResources { get; set; }

    internal int InitiatorDepth { get; set; }

    internal int AckTimeout { get; set; }

    internal int RetriesLeft { get; set; }

    /// <summary>When the last message is sent again, or time-wait ends.</summary>
    internal TimeSpan Deadline { get; set; } = TimeSpan.MaxValue;

    internal TimeSpan Interval { get; set; }

    /// <summary>The passive side says yes: each side's depth is what the other side can answer.</summary>
    internal void Agree(CmRequest request, CmParameters parameters)
    {
        Parameters = parameters with
        {
            RetryCount = request.RetryCount,
            RnrRetryCount = request.RnrRetryCount,
        };
        ResponderResources = Math.Min(parameters.ResponderResources, request.InitiatorDepth);
        InitiatorDepth = Math.Min(parameters.InitiatorDepth, request.ResponderResources);
        AckTimeout = request.AckTimeout;
    }

    /// <summary>The active side was told yes.</summary>
    internal void Agree(CmReply reply)
    {
        RemoteId = reply.LocalId;
        RemoteQpNumber = reply.QpNumber;
        InitiatorDepth = Math.Min(InitiatorDepth, reply.ResponderResources);
        ResponderResources = Math.Min(ResponderResources, reply.InitiatorDepth);
    }

    /// <summary>Its queue pair takes and sends nothing more.</summary>
    internal void StopPair()
    {
        if (Pair is { } pair)
        {
            pair.AwaitsFirstPacket = false;
            CmQueuePair.Stop(pair);
        }
    }

    public override string ToString() => $"connection 0x{LocalId:x8} with {RemoteGid}, {State}";
}
