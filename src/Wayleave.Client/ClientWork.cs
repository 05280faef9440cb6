using Wayleave.Client.Wire;

namespace Wayleave.Client;

/// <summary>What a request does; numbers of <c>enum ibv_wr_opcode</c>.</summary>
public enum ClientWorkOpcode
{
    Write = 0,

    /// <summary>As <see cref="Write"/>; also takes a receive of the peer, whose completion has the number.</summary>
    WriteWithImmediate = 1,

    Send = 2,

    SendWithImmediate = 3,

    Read = 4,

    /// <summary>Swaps eight bytes of the peer if they hold what was expected; what they held comes back.</summary>
    CompareSwap = 5,

    /// <summary>Adds to eight bytes of the peer, modulo 2^64; what they held comes back.</summary>
    FetchAdd = 6,
}

/// <summary>Numbers of <c>enum ibv_send_flags</c>.</summary>
[Flags]
public enum ClientWorkFlags
{
    None = 0,

    /// <summary>Starts only after every earlier READ and atomic of the queue pair has completed.</summary>
    Fence = 1,

    /// <summary>
    /// Success makes a completion. Without it only an error does, and the slot is free after a later one was taken.
    /// </summary>
    Signaled = 2,

    /// <summary>Raises the receiver's solicited event, where it has one.</summary>
    Solicited = 4,
}

/// <summary>How a request ended; numbers of <c>enum ibv_wc_status</c>, of which an RC queue pair has these.</summary>
public enum ClientWorkStatus
{
    Success = 0,

    /// <summary>A message does not fit the receive that it took.</summary>
    LocalLengthError = 1,

    LocalOperationError = 2,

    /// <summary>A key of one's own does not exist, was revoked, or does not allow that.</summary>
    LocalProtectionError = 4,

    /// <summary>It was in the queue when the queue pair went into error.</summary>
    Flushed = 5,

    BadResponse = 7,

    LocalAccessError = 8,

    RemoteInvalidRequest = 9,

    /// <summary>A key of the peer does not exist, was revoked, or does not allow that.</summary>
    RemoteAccessError = 10,

    RemoteOperationError = 11,

    /// <summary>The peer does not answer.</summary>
    RetryExceeded = 12,

    /// <summary>The peer has no receive.</summary>
    ReceiverNotReady = 13,

    RemoteAborted = 16,

    Fatal = 19,

    General = 21,
}

/// <summary>A piece of local memory (<c>struct ibv_sge</c>).</summary>
/// <param name="Address">In the region: counts from the start of its buffer.</param>
/// <param name="LengthBytes">From there on.</param>
/// <param name="Key">Of a region of this connection on the same NIC: <see cref="ClientRegion.Key"/>.</param>
public readonly record struct ClientPiece(ulong Address, uint LengthBytes, uint Key);

/// <summary>A request to the send queue (<c>struct ibv_send_wr</c>).</summary>
/// <param name="Opcode">What it does.</param>
/// <param name="Id">Comes back in the completion.</param>
/// <param name="RemoteAddress">Of what goes to the peer's memory: where there.</param>
/// <param name="RemoteKey">Likewise: the peer's key.</param>
public readonly record struct ClientWorkRequest(
    ClientWorkOpcode Opcode, ulong Id, ulong RemoteAddress = 0, uint RemoteKey = 0)
{
    public ClientWorkFlags Flags { get; init; } = ClientWorkFlags.Signaled;

    /// <summary>Of the opcodes that have one.</summary>
    public uint Immediate { get; init; }

    /// <summary>Compare-and-swap: what the peer's eight bytes must hold. Fetch-and-add: what is added.</summary>
    public ulong CompareOrAdd { get; init; }

    /// <summary>Compare-and-swap: what they then become.</summary>
    public ulong Swap { get; init; }
}

/// <summary>
/// The end of a request (<c>struct ibv_wc</c>); without success only the id and the status are defined.
/// </summary>
/// <param name="Id">Of the request.</param>
/// <param name="Status">How it ended.</param>
/// <param name="IsReceive">Of a receive, and not of a request to the send queue.</param>
/// <param name="LengthBytes">Received, or of the request.</param>
/// <param name="Immediate">What came with the message, or null.</param>
public readonly record struct ClientCompletion(
    ulong Id, ClientWorkStatus Status, bool IsReceive, uint LengthBytes, uint? Immediate)
{
    private const uint Receive = 128; // of enum ibv_wc_opcode, the bit of all that are received
    private const uint HasImmediate = 2; // of enum ibv_wc_flags

    internal static bool TryRead(ref BrokerReader body, out ClientCompletion completion)
    {
        bool isRead = body.TryReadUInt64(out ulong id);
        isRead &= body.TryReadUInt32(out uint status);
        isRead &= body.TryReadUInt32(out uint opcode);
        isRead &= body.TryReadUInt32(out uint lengthBytes);
        isRead &= body.TryReadUInt32(out uint immediate);
        isRead &= body.TryReadUInt32(out uint flags);
        isRead &= body.TryReadUInt32(out _);
        completion = new ClientCompletion(
            id,
            (ClientWorkStatus)status,
            (opcode & Receive) != 0,
            lengthBytes,
            (flags & HasImmediate) != 0 ? immediate : null);
        return isRead;
    }
}
