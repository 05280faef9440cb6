namespace Wayleave.Devices.Rdma.Connections;

/// <summary>What happened to a connection (<c>enum rdma_cm_event_type</c>, those that can happen here).</summary>
public enum CmEventKind
{
    /// <summary>
    /// A peer asks: accept or reject it. One that it takes back before it is polled is not told; later it is, if the
    /// application has taken it (<see cref="ConnectionManager.Take"/>).
    /// </summary>
    ConnectRequest,

    /// <summary>
    /// The peer said yes, and the application moves its queue pair itself: then <see
    /// cref="ConnectionManager.Establish"/>.
    /// </summary>
    ConnectResponse,

    /// <summary>Data may flow both ways; of a datagram service: the peer's queue pair is known.</summary>
    Established,

    /// <summary>The peer said no; the reason says why.</summary>
    Rejected,

    /// <summary>Nobody answered.</summary>
    Unreachable,

    /// <summary>
    /// The peer disconnected, or gave up before it heard that the connection was made, or an own disconnect is done.
    /// The queue pair is in ERR.
    /// </summary>
    Disconnected,

    /// <summary>The connection's time of waiting is over: its queue pair may be destroyed without a thought.</summary>
    TimeWaitOver,
}

/// <summary>Something that happened to a connection.</summary>
/// <param name="Kind">What.</param>
/// <param name="Connection">To which.</param>
/// <param name="Reason">Of a rejection.</param>
/// <param name="PrivateData">What the peer's user sent with it, padded with zeros.</param>
public readonly record struct CmEvent(
    CmEventKind Kind,
    CmConnection Connection,
    CmRejectReason Reason = CmRejectReason.None,
    ReadOnlyMemory<byte> PrivateData = default);
