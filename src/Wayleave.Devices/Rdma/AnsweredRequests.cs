using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Checks and executes the requests that are answered with more than an acknowledgement: READ, the atomics, ATOMIC
/// WRITE and FLUSH (roce.md A5, R7 to R10). Each is executed once, when it comes in order; its answer is stored. Port
/// token held by the caller.
/// </summary>
internal readonly struct AnsweredRequests(QueuePair pair)
{
    private const uint AtomicBytes = 8;

    /// <summary>Executes one; the caller has checked opcode, rights of the queue pair and resources.</summary>
    /// <param name="packet">The request.</param>
    /// <param name="request">What is to be answered, but for its MSN.</param>
    public Verdict Execute(in PacketView packet, out StoredRequest request)
    {
        request = new StoredRequest { Opcode = packet.Opcode, FirstPsn = packet.Psn, PacketCount = 1 };
        if (!packet.Traits.AllowsPayload(packet.PayloadBytes, pair.MtuBytes) || packet.PadCount != 0)
        {
            return Verdict.Invalid(); // R7
        }

        return packet.Opcode switch
        {
            Opcode.RcReadRequest => CheckRead(packet.Reth, ref request),
            Opcode.RcFlush => Flush(packet.Feth, packet.Reth, ref request),
            Opcode.RcAtomicWrite => WriteAtomic(packet, ref request),
            _ => ExecuteAtomic(packet, ref request),
        };
    }

    private Verdict CheckRead(in Reth reth, ref StoredRequest request)
    {
        if (reth.Length > Reth.LengthMax)
        {
            return Verdict.Invalid(); // R7
        }

        (request.Address, request.LengthBytes, request.Key) = (reth.Va, reth.Length, reth.RKey);
        request.PacketCount = StoredRequest.PacketsOf(reth.Length, pair.MtuBytes);
        RemoteTarget target = default;
        AccessOutcome outcome = reth.Length == 0
            ? AccessOutcome.Done
            : pair.Remote.Find(reth.RKey, AccessFlags.RemoteRead, reth.Va, reth.Length, out target);
        return Verdict.Refused(outcome, target.Region);
    }

    private Verdict ExecuteAtomic(in PacketView packet, ref StoredRequest request)
    {
        AtomicEth header = packet.AtomicEth;
        (request.Address, request.Key) = (header.Va, header.RKey);
        AccessOutcome outcome = pair.Remote.Find(
            header.RKey, AccessFlags.RemoteAtomic, header.Va, AtomicBytes, out RemoteTarget target);
        if (outcome == AccessOutcome.Done && header.Va % AtomicBytes != 0)
        {
            return Verdict.Invalid(); // R9, behind R8
        }

        if (outcome == AccessOutcome.Done)
        {
            outcome = packet.Opcode == Opcode.RcCompareSwap
                ? pair.Port.Memory.CompareSwap(
                    target.Region!, target.Address, header.Compare, header.SwapOrAdd, out request.Original)
                : pair.Port.Memory.FetchAdd(target.Region!, target.Address, header.SwapOrAdd, out request.Original);
        }

        return Verdict.Refused(outcome, target.Region);
    }

    private Verdict WriteAtomic(in PacketView packet, ref StoredRequest request)
    {
        Reth reth = packet.Reth;
        (request.Address, request.Key) = (reth.Va, reth.RKey);
        if (reth.Length != AtomicBytes)
        {
            return Verdict.Invalid(); // R7
        }

        AccessOutcome outcome = pair.Remote.Find(
            reth.RKey, AccessFlags.RemoteWrite, reth.Va, AtomicBytes, out RemoteTarget target);
        if (outcome == AccessOutcome.Done && reth.Va % AtomicBytes != 0)
        {
            return Verdict.Invalid(); // R9
        }

        if (outcome == AccessOutcome.Done)
        {
            outcome = pair.Port.Memory.WriteAtomic(target.Region!, target.Address, packet.Payload);
        }

        return Verdict.Refused(outcome, target.Region);
    }

    // IBTA annex on memory placement extensions; the value of a reserved bit means nothing that could be done.
    private Verdict Flush(in Feth header, in Reth reth, ref StoredRequest request)
    {
        FlushPlacement placement = (FlushPlacement)header.PlacementType;
        bool isWhole = header.Selectivity == (int)FlushSelectivity.MemoryRegion;
        (request.Address, request.Key) = (reth.Va, reth.RKey);
        if (!RequestRules.IsFlushKnown(header) || (!isWhole && reth.Length > Reth.LengthMax))
        {
            return Verdict.Invalid();
        }

        (ulong address, ulong length) = isWhole ? pair.Remote.WholeOf(reth.RKey) : (reth.Va, reth.Length);
        AccessOutcome outcome = pair.Remote.Find(
            reth.RKey, RequestRules.FlushRights(placement), address, length, out RemoteTarget target);
        if (outcome == AccessOutcome.Done)
        {
            bool persists = (placement & FlushPlacement.Persistent) != 0;
            outcome = pair.Port.Memory.Flush(
                target.Region!, target.Address, length, persists ? pair.Port.Options.Persist : null);
        }

        return Verdict.Refused(outcome, target.Region);
    }
}
