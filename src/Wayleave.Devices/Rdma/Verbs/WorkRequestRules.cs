namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>What the kinds of send requests have in common, and who may post which. Pure.</summary>
internal static class WorkRequestRules
{
    private const uint Answered = 1u << (int)WorkRequestOpcode.RdmaRead
        | 1u << (int)WorkRequestOpcode.AtomicCompareSwap | 1u << (int)WorkRequestOpcode.AtomicFetchAdd
        | 1u << (int)WorkRequestOpcode.Flush | 1u << (int)WorkRequestOpcode.AtomicWrite;

    private const uint Local =
        1u << (int)WorkRequestOpcode.LocalInvalidate | 1u << (int)WorkRequestOpcode.BindWindow;

    private const uint Sends = 1u << (int)WorkRequestOpcode.Send | 1u << (int)WorkRequestOpcode.SendWithImmediate;

    private const uint Unreliable = Sends | Local
        | 1u << (int)WorkRequestOpcode.RdmaWrite | 1u << (int)WorkRequestOpcode.RdmaWriteWithImmediate;

    private const uint Reliable = Unreliable | Answered | 1u << (int)WorkRequestOpcode.SendWithInvalidate;

    /// <summary>
    /// The peer answers it with more than an acknowledgement, so it takes one of its responder resources, a fence waits
    /// for it, and nothing behind it completes before its answer is here: READ, the atomics, ATOMIC WRITE and FLUSH.
    /// </summary>
    public static bool IsAnswered(WorkRequestOpcode opcode) => IsIn(Answered, opcode);

    /// <summary>Nothing is sent: it is done here once everything before it is.</summary>
    public static bool IsLocal(WorkRequestOpcode opcode) => IsIn(Local, opcode);

    /// <summary>
    /// Which opcodes a queue pair of that type takes (<c>ibv_post_send(3)</c>; local work needs no peer).
    /// </summary>
    public static bool IsAllowed(QueuePairType type, WorkRequestOpcode opcode) => IsIn(
        type switch
        {
            QueuePairType.ReliableConnection => Reliable,
            QueuePairType.UnreliableConnection => Unreliable,
            _ => Sends,
        },
        opcode);

    /// <summary>Its data may be copied when it is posted: it has data, and sends it.</summary>
    public static bool MayBeInline(WorkRequestOpcode opcode) => opcode is not (WorkRequestOpcode.RdmaRead
        or WorkRequestOpcode.AtomicCompareSwap or WorkRequestOpcode.AtomicFetchAdd or WorkRequestOpcode.Flush
        or WorkRequestOpcode.LocalInvalidate or WorkRequestOpcode.BindWindow);

    /// <summary>
    /// Whether local data of that length fits it: eight bytes for what is atomic, none for what has no data.
    /// </summary>
    public static bool IsLengthAllowed(WorkRequestOpcode opcode, ulong lengthBytes) => opcode switch
    {
        WorkRequestOpcode.AtomicCompareSwap or WorkRequestOpcode.AtomicFetchAdd or WorkRequestOpcode.AtomicWrite =>
            lengthBytes == sizeof(ulong),
        WorkRequestOpcode.Flush or WorkRequestOpcode.LocalInvalidate or WorkRequestOpcode.BindWindow =>
            lengthBytes == 0,
        _ => lengthBytes <= Wire.Reth.LengthMax,
    };

    private static bool IsIn(uint set, WorkRequestOpcode opcode) => (uint)opcode < 32 && (set >> (int)opcode & 1) != 0;
}
