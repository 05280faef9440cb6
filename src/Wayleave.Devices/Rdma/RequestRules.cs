using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>What a responder takes at all, and from whom (roce.md A5, R3 and R4). Pure.</summary>
internal static class RequestRules
{
    public static bool IsWrite(Opcode opcode) =>
        ((byte)opcode & 0x1F) is >= (byte)Opcode.RcWriteFirst and <= (byte)Opcode.RcWriteOnlyWithImmediate;

    /// <summary>Answered with more than an acknowledgement, out of responder resources.</summary>
    public static bool IsAnswered(Opcode opcode) => opcode is Opcode.RcReadRequest or Opcode.RcCompareSwap
        or Opcode.RcFetchAdd or Opcode.RcFlush or Opcode.RcAtomicWrite;

    // R4: what the queue pair, not the region, allows (rxe_resp.c: check_qp_attr_access).
    public static bool MayPeer(in PacketView packet, AccessFlags access)
    {
        AccessFlags need = packet.Opcode switch
        {
            >= Opcode.RcWriteFirst and <= Opcode.RcWriteOnlyWithImmediate => AccessFlags.RemoteWrite,
            >= Opcode.UcWriteFirst and <= Opcode.UcWriteOnlyWithImmediate => AccessFlags.RemoteWrite,
            Opcode.RcAtomicWrite => AccessFlags.RemoteWrite,
            Opcode.RcReadRequest => AccessFlags.RemoteRead,
            Opcode.RcCompareSwap or Opcode.RcFetchAdd => AccessFlags.RemoteAtomic,
            Opcode.RcFlush => FlushRights((FlushPlacement)packet.Feth.PlacementType),
            _ => AccessFlags.None,
        };
        return (access & need) == need;
    }

    public static AccessFlags FlushRights(FlushPlacement placement) =>
        ((placement & FlushPlacement.Global) != 0 ? AccessFlags.FlushGlobal : AccessFlags.None)
        | ((placement & FlushPlacement.Persistent) != 0 ? AccessFlags.FlushPersistent : AccessFlags.None);

    /// <summary>It asks for something, and for nothing that is reserved.</summary>
    public static bool IsFlushKnown(in Feth header) =>
        header.PlacementType is > 0 and <= (int)(FlushPlacement.Global | FlushPlacement.Persistent)
        && header.Selectivity <= (int)FlushSelectivity.MemoryRegion;
}
