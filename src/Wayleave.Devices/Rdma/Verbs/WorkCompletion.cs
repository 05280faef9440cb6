namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>How a work request ended (<c>enum ibv_wc_status</c>, same numbers).</summary>
public enum WorkCompletionStatus
{
    Success = 0,
    LocalLengthError = 1,
    LocalQpOperationError = 2,
    LocalEecOperationError = 3,
    LocalProtectionError = 4,
    WorkRequestFlushed = 5,
    MemoryWindowBindError = 6,
    BadResponse = 7,
    LocalAccessError = 8,
    RemoteInvalidRequest = 9,
    RemoteAccessError = 10,
    RemoteOperationError = 11,
    RetryExceeded = 12,
    RnrRetryExceeded = 13,
    LocalRddViolation = 14,
    RemoteInvalidRdRequest = 15,
    RemoteAborted = 16,
    InvalidEecNumber = 17,
    InvalidEecState = 18,
    Fatal = 19,
    ResponseTimeout = 20,
    General = 21,
}

/// <summary>What completed (<c>enum ibv_wc_opcode</c>, same numbers).</summary>
public enum WorkCompletionOpcode
{
    Send = 0,
    RdmaWrite = 1,
    RdmaRead = 2,
    CompareSwap = 3,
    FetchAdd = 4,
    BindWindow = 5,
    LocalInvalidate = 6,
    Flush = 8,
    AtomicWrite = 9,
    Receive = 128,
    ReceiveRdmaWithImmediate = 129,
}

/// <summary><c>enum ibv_wc_flags</c>, same numbers.</summary>
[Flags]
public enum WorkCompletionFlags
{
    None = 0,
    Grh = 1 << 0,
    WithImmediate = 1 << 1,

    /// <summary>8, as in libibverbs; the kernel's own <c>IB_WC_WITH_INVALIDATE</c> is 4, which means another thing
    /// there.</summary>
    WithInvalidate = 1 << 3,
}

/// <summary>
/// The end of a work request (<c>struct ibv_wc</c>). When <see cref="Status"/> is not success only <see cref="WrId"/>,
/// <see cref="Status"/> and <see cref="QpNumber"/> are defined.
/// </summary>
public readonly record struct WorkCompletion
{
    private readonly uint _data; // one field for two meanings, as in the union of ibv_wc

    public ulong WrId { get; init; }

    public WorkCompletionStatus Status { get; init; }

    public WorkCompletionOpcode Opcode { get; init; }

    /// <summary>Bytes received, or the length of the request.</summary>
    public uint ByteLength { get; init; }

    /// <summary>The immediate as a number; valid with <see cref="WorkCompletionFlags.WithImmediate"/>.</summary>
    public uint Immediate
    {
        get => _data;
        init => _data = value;
    }

    /// <summary>
    /// The own key that the peer's SEND ended; valid with <see cref="WorkCompletionFlags.WithInvalidate"/>.
    /// </summary>
    public uint InvalidatedKey
    {
        get => _data;
        init => _data = value;
    }

    /// <summary>The local queue pair.</summary>
    public uint QpNumber { get; init; }

    public WorkCompletionFlags Flags { get; init; }

    /// <summary>Of a datagram: the queue pair that sent it.</summary>
    public uint SourceQp { get; init; }
}
