using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>What a responder takes at all, and from whom (roce.md A5, R3 and R4). Pure.</summary>
internal static class RequestRules
{
    public static bool IsWrite(Opcode opcode) =>
        opcode is >= Opcode.RcWriteFirst and <= Opcode.RcWriteOnlyWithImmediate;

    // Atomics, FLUSH, ATOMIC WRITE and remote invalidation are not part of this responder: an unsupported opcode is an
    // invalid request (IBTA 9.7.5.2.6), as it is for rxe with a device that lacks them.
    public static bool IsSupported(Opcode opcode) =>
        opcode is <= Opcode.RcWriteOnlyWithImmediate or Opcode.RcReadRequest;

    // R4: what the queue pair, not the region, allows.
    public static bool MayPeer(Opcode opcode, AccessFlags access) => opcode switch
    {
        >= Opcode.RcWriteFirst and <= Opcode.RcWriteOnlyWithImmediate => (access & AccessFlags.RemoteWrite) != 0,
        Opcode.RcReadRequest => (access & AccessFlags.RemoteRead) != 0,
        _ => true,
    };
}
