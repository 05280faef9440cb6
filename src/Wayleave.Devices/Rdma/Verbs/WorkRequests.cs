namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>What a send work request does (<c>enum ibv_wr_opcode</c>, same numbers).</summary>
public enum WorkRequestOpcode
{
    RdmaWrite = 0,
    RdmaWriteWithImmediate = 1,
    Send = 2,
    SendWithImmediate = 3,
    RdmaRead = 4,

    /// <summary>Swaps eight bytes of the peer if they hold what was expected; what they held comes back.</summary>
    AtomicCompareSwap = 5,

    /// <summary>Adds to eight bytes of the peer, modulo 2^64; what they held comes back.</summary>
    AtomicFetchAdd = 6,

    /// <summary>Ends the binding of an own window of type 2.</summary>
    LocalInvalidate = 7,

    /// <summary>Binds a window.</summary>
    BindWindow = 8,

    /// <summary>SEND whose arrival ends the binding of a window of the peer.</summary>
    SendWithInvalidate = 9,

    /// <summary>Completes when what was written before is visible, or lasting, at the peer.</summary>
    Flush = 14,

    /// <summary>Writes eight bytes that nobody sees in part.</summary>
    AtomicWrite = 15,
}

/// <summary><c>enum ibv_send_flags</c>, same numbers.</summary>
[Flags]
public enum SendFlags
{
    None = 0,

    /// <summary>
    /// Starts only after every earlier READ, atomic, ATOMIC WRITE and FLUSH of the queue pair has completed.
    /// </summary>
    Fence = 1 << 0,

    /// <summary>
    /// Success makes a completion. Without it only an error does, and the slot is free after a later signalled one was
    /// polled.
    /// </summary>
    Signaled = 1 << 1,

    /// <summary>Raises the receiver's solicited event.</summary>
    Solicited = 1 << 2,

    /// <summary>The data is copied when the request is posted; set by the inline form of the post.</summary>
    Inline = 1 << 3,
}

/// <summary>
/// A piece of local memory (<c>struct ibv_sge</c>): an address within the region that <paramref name="LKey"/> names.
/// </summary>
public readonly record struct Sge(ulong Address, uint LengthBytes, uint LKey);

/// <summary>
/// A request to the send queue (<c>struct ibv_send_wr</c>); its scatter/gather list is a separate argument of the post.
/// </summary>
public readonly record struct SendWorkRequest
{
    /// <summary>Comes back in the completion.</summary>
    public ulong WrId { get; init; }

    public WorkRequestOpcode Opcode { get; init; }

    public SendFlags Flags { get; init; }

    /// <summary>For the opcodes with immediate: the number whose big-endian form travels.</summary>
    public uint Immediate { get; init; }

    /// <summary>
    /// LOCAL INVALIDATE: the own key to end. SEND with invalidate: the peer's.
    /// </summary>
    public uint InvalidateKey { get; init; }

    /// <summary>Where in the peer's region, for everything that goes there.</summary>
    public ulong RemoteAddress { get; init; }

    /// <summary>The peer's key.</summary>
    public uint RKey { get; init; }

    /// <summary>Compare-and-swap: what the peer's eight bytes must hold. Fetch-and-add: what is added.</summary>
    public ulong CompareAdd { get; init; }

    /// <summary>Compare-and-swap: what they then become.</summary>
    public ulong Swap { get; init; }

    /// <summary>FLUSH: how many bytes; not looked at for a whole region.</summary>
    public uint FlushBytes { get; init; }

    public FlushPlacement FlushPlacement { get; init; }

    /// <summary>UD: where it goes. Not destroyed before the completion.</summary>
    public AddressHandle? AddressHandle { get; init; }

    /// <summary>UD: to which queue pair there.</summary>
    public uint RemoteQpNumber { get; init; }

    /// <summary>UD: its key; with the top bit set, that of the own queue pair instead.</summary>
    public uint RemoteQKey { get; init; }

    public FlushSelectivity FlushSelectivity { get; init; }
}

/// <summary>A request to the receive queue (<c>struct ibv_recv_wr</c>).</summary>
/// <param name="WrId">Comes back in the completion.</param>
public readonly record struct ReceiveWorkRequest(ulong WrId);
