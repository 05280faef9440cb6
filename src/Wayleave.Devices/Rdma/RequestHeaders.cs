using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>The headers of request packets. Pure: values in, bytes out.</summary>
internal static class RequestHeaders
{
    /// <summary>Bytes of a READ request, BTH to ICRC.</summary>
    public const int ReadRequestBytes = Bth.Size + Reth.Size + PacketView.IcrcSize;

    /// <summary>Writes what comes before the payload of a SEND or WRITE packet.</summary>
    /// <param name="packet">Room for the headers of <paramref name="bth"/>'s opcode.</param>
    /// <param name="bth">Complete but for nothing.</param>
    /// <param name="slot">The request.</param>
    public static void Write(Span<byte> packet, in Bth bth, in SendSlot slot)
    {
        bth.WriteTo(packet);
        ref readonly OpcodeTraits traits = ref OpcodeTraits.Of(bth.Opcode);
        int at = Bth.Size;
        if (traits.Has(ExtensionHeaders.Reth))
        {
            new Reth(slot.RemoteAddress, slot.RKey, slot.LengthBytes).WriteTo(packet[at..]);
            at += Reth.Size;
        }

        if (traits.Has(ExtensionHeaders.ImmDt))
        {
            new ImmDt(slot.Immediate).WriteTo(packet[at..]);
        }
    }

    /// <summary>Which opcode a packet of a message has.</summary>
    public static Opcode OpcodeOf(WorkRequestOpcode kind, bool isFirst, bool isLast) => (kind, isFirst, isLast) switch
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

    /// <summary>What the completion of a request says it was.</summary>
    public static WorkCompletionOpcode CompletionOf(WorkRequestOpcode request) => request switch
    {
        WorkRequestOpcode.Send or WorkRequestOpcode.SendWithImmediate => WorkCompletionOpcode.Send,
        WorkRequestOpcode.RdmaRead => WorkCompletionOpcode.RdmaRead,
        _ => WorkCompletionOpcode.RdmaWrite,
    };
}
