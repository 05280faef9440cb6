using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>Which opcode a packet of a message has. Pure.</summary>
internal static class RequestOpcodes
{
    public static Opcode Of(WorkRequestOpcode request, bool isFirst, bool isLast) => (request, isFirst, isLast) switch
    {
        (WorkRequestOpcode.RdmaWrite, true, true) => Opcode.RcWriteOnly,
        (WorkRequestOpcode.RdmaWriteWithImmediate, true, true) => Opcode.RcWriteOnlyWithImmediate,
        (WorkRequestOpcode.Send, true, true) => Opcode.RcSendOnly,
        (WorkRequestOpcode.SendWithImmediate, true, true) => Opcode.RcSendOnlyWithImmediate,
        (WorkRequestOpcode.RdmaWrite or WorkRequestOpcode.RdmaWriteWithImmediate, true, false) => Opcode.RcWriteFirst,
        (WorkRequestOpcode.Send or WorkRequestOpcode.SendWithImmediate, true, false) => Opcode.RcSendFirst,
        (WorkRequestOpcode.RdmaWrite, false, true) => Opcode.RcWriteLast,
        (WorkRequestOpcode.RdmaWriteWithImmediate, false, true) => Opcode.RcWriteLastWithImmediate,
        (WorkRequestOpcode.Send, false, true) => Opcode.RcSendLast,
        (WorkRequestOpcode.SendWithImmediate, false, true) => Opcode.RcSendLastWithImmediate,
        (WorkRequestOpcode.RdmaWrite or WorkRequestOpcode.RdmaWriteWithImmediate, false, false) => Opcode.RcWriteMiddle,
        (WorkRequestOpcode.Send or WorkRequestOpcode.SendWithImmediate, false, false) => Opcode.RcSendMiddle,
        _ => Opcode.RcReadRequest,
    };

    public static WorkCompletionOpcode CompletionOf(WorkRequestOpcode request) => request switch
    {
        WorkRequestOpcode.Send or WorkRequestOpcode.SendWithImmediate => WorkCompletionOpcode.Send,
        WorkRequestOpcode.RdmaRead => WorkCompletionOpcode.RdmaRead,
        _ => WorkCompletionOpcode.RdmaWrite,
    };
}
