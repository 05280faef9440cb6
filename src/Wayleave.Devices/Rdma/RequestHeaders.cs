using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>The headers of request packets. Pure: values in, bytes out.</summary>
internal static class RequestHeaders
{
    /// <summary>Writes what comes before the payload of a SEND or WRITE packet.</summary>
    /// <param name="packet">Room for the headers of <paramref name="bth"/>'s opcode.</param>
    /// <param name="bth">Complete but for nothing.</param>
    /// <param name="slot">The request.</param>
    /// <param name="deth">For a datagram.</param>
    public static void Write(Span<byte> packet, in Bth bth, in SendSlot slot, in Deth deth = default)
    {
        bth.WriteTo(packet);
        ref readonly OpcodeTraits traits = ref OpcodeTraits.Of(bth.Opcode);
        int at = Bth.Size;
        if (traits.Has(ExtensionHeaders.Deth))
        {
            deth.WriteTo(packet[at..]);
            at += Deth.Size;
        }

        if (traits.Has(ExtensionHeaders.Reth))
        {
            new Reth(slot.RemoteAddress, slot.RKey, slot.LengthBytes).WriteTo(packet[at..]);
            at += Reth.Size;
        }

        if (traits.Has(ExtensionHeaders.ImmDt))
        {
            new ImmDt(slot.Data).WriteTo(packet[at..]);
        }

        if (traits.Has(ExtensionHeaders.Ieth))
        {
            new Ieth(slot.Data).WriteTo(packet[at..]);
        }
    }

    /// <summary>Writes the headers of a request that is answered: of a READ, for a piece of it.</summary>
    /// <param name="packet">Room for the headers of <paramref name="bth"/>'s opcode.</param>
    /// <param name="bth">As it is sent.</param>
    /// <param name="slot">The request.</param>
    /// <param name="offset">READ: where the piece starts.</param>
    /// <param name="readBytes">READ: its length.</param>
    public static void WriteAnswered(Span<byte> packet, in Bth bth, in SendSlot slot, uint offset, uint readBytes)
    {
        bth.WriteTo(packet);
        Span<byte> rest = packet[Bth.Size..];
        switch (slot.Opcode)
        {
            case WorkRequestOpcode.AtomicCompareSwap:
                new AtomicEth(slot.RemoteAddress, slot.RKey, slot.Swap, slot.CompareAdd).WriteTo(rest);
                break;
            case WorkRequestOpcode.AtomicFetchAdd:
                new AtomicEth(slot.RemoteAddress, slot.RKey, slot.CompareAdd, 0).WriteTo(rest);
                break;
            case WorkRequestOpcode.Flush:
                new Feth(slot.Data).WriteTo(rest);
                new Reth(slot.RemoteAddress, slot.RKey, slot.LengthBytes).WriteTo(rest[Feth.Size..]);
                break;
            case WorkRequestOpcode.AtomicWrite:
                new Reth(slot.RemoteAddress, slot.RKey, slot.LengthBytes).WriteTo(rest);
                break;
            default:
                new Reth(slot.RemoteAddress + offset, slot.RKey, readBytes).WriteTo(rest);
                break;
        }
    }

    /// <summary>Whether the last packet raises the receiver's solicited event: a plain WRITE has no receiver.</summary>
    public static bool IsSolicited(in SendSlot slot) =>
        (slot.Flags & SendFlags.Solicited) != 0 && slot.Opcode != WorkRequestOpcode.RdmaWrite;

    /// <summary>Which opcode a packet of a message has.</summary>
    public static Opcode OpcodeOf(WorkRequestOpcode kind, bool isFirst, bool isLast) => (kind, isFirst, isLast) switch
    {
        (WorkRequestOpcode.RdmaWrite, true, true) => Opcode.RcWriteOnly,
        (WorkRequestOpcode.RdmaWriteWithImmediate, true, true) => Opcode.RcWriteOnlyWithImmediate,
        (WorkRequestOpcode.Send, true, true) => Opcode.RcSendOnly,
        (WorkRequestOpcode.SendWithImmediate, true, true) => Opcode.RcSendOnlyWithImmediate,
        (WorkRequestOpcode.RdmaWrite or WorkRequestOpcode.RdmaWriteWithImmediate, true, false) => Opcode.RcWriteFirst,
        (WorkRequestOpcode.Send or WorkRequestOpcode.SendWithImmediate, true, false) => Opcode.RcSendFirst,
        (WorkRequestOpcode.SendWithInvalidate, true, true) => Opcode.RcSendOnlyWithInvalidate,
        (WorkRequestOpcode.SendWithInvalidate, false, true) => Opcode.RcSendLastWithInvalidate,
        (WorkRequestOpcode.SendWithInvalidate, true, false) => Opcode.RcSendFirst,
        (WorkRequestOpcode.SendWithInvalidate, false, false) => Opcode.RcSendMiddle,
        (WorkRequestOpcode.RdmaWrite, false, true) => Opcode.RcWriteLast,
        (WorkRequestOpcode.RdmaWriteWithImmediate, false, true) => Opcode.RcWriteLastWithImmediate,
        (WorkRequestOpcode.Send, false, true) => Opcode.RcSendLast,
        (WorkRequestOpcode.SendWithImmediate, false, true) => Opcode.RcSendLastWithImmediate,
        (WorkRequestOpcode.RdmaWrite or WorkRequestOpcode.RdmaWriteWithImmediate, false, false) => Opcode.RcWriteMiddle,
        (WorkRequestOpcode.Send or WorkRequestOpcode.SendWithImmediate, false, false) => Opcode.RcSendMiddle,
        (WorkRequestOpcode.AtomicCompareSwap, _, _) => Opcode.RcCompareSwap,
        (WorkRequestOpcode.AtomicFetchAdd, _, _) => Opcode.RcFetchAdd,
        (WorkRequestOpcode.AtomicWrite, _, _) => Opcode.RcAtomicWrite,
        (WorkRequestOpcode.Flush, _, _) => Opcode.RcFlush,
        _ => Opcode.RcReadRequest,
    };

    /// <summary>The flags of a completed request: there are none but those that rxe sets.</summary>
    public static WorkCompletionFlags SentFlags(PeerProfile profile, WorkRequestOpcode opcode) =>
        profile.CompletionsCarryRxeFlags
            && opcode is WorkRequestOpcode.SendWithImmediate or WorkRequestOpcode.RdmaWriteWithImmediate
            ? WorkCompletionFlags.WithImmediate
            : WorkCompletionFlags.None;

    /// <summary>What the completion of a request says it was.</summary>
    public static WorkCompletionOpcode CompletionOf(WorkRequestOpcode request) => request switch
    {
        WorkRequestOpcode.Send or WorkRequestOpcode.SendWithImmediate or WorkRequestOpcode.SendWithInvalidate =>
            WorkCompletionOpcode.Send,
        WorkRequestOpcode.RdmaRead => WorkCompletionOpcode.RdmaRead,
        WorkRequestOpcode.AtomicCompareSwap => WorkCompletionOpcode.CompareSwap,
        WorkRequestOpcode.AtomicFetchAdd => WorkCompletionOpcode.FetchAdd,
        WorkRequestOpcode.BindWindow => WorkCompletionOpcode.BindWindow,
        WorkRequestOpcode.LocalInvalidate => WorkCompletionOpcode.LocalInvalidate,
        WorkRequestOpcode.Flush => WorkCompletionOpcode.Flush,
        WorkRequestOpcode.AtomicWrite => WorkCompletionOpcode.AtomicWrite,
        _ => WorkCompletionOpcode.RdmaWrite,
    };
}
