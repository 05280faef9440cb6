using System.Runtime.InteropServices;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Puts what answers a READ or an atomic where the work request wants it. A READ was asked for in pieces that are
/// multiples of the MTU, so the place of a packet follows from its PSN, whatever request or repetition it answers. Port
/// token held by the caller.
/// </summary>
internal sealed class ResponsePlacement(QueuePair pair, SendQueue queue, SendProgress progress)
{
    /// <summary>Where the oldest READ was asked for again: the answer may begin there.</summary>
    public uint RestartPsn { get; set; }

    /// <summary>Where it was asked for instead, when late answers had come first: or the answer begins there.</summary>
    public uint ResumePsn { get; set; }

    /// <summary>Places the response that is next, of the request at the head of the queue.</summary>
    /// <param name="packet">Its PSN is the oldest without an answer.</param>
    /// <param name="endsPiece">It is the last one that its request asked for.</param>
    /// <param name="faulted">The region that has to be mapped first; nothing was placed then.</param>
    /// <returns>Success, or what the request ends with.</returns>
    public WorkCompletionStatus Place(in PacketView packet, out bool endsPiece, out MemoryRegion? faulted)
    {
        ref SendSlot slot = ref progress.HeadSlot;
        if (!slot.IsAtomic)
        {
            return PlaceRead(packet, slot, out endsPiece, out faulted);
        }

        (endsPiece, faulted) = (true, null);
        if (packet.Opcode != Opcode.RcAtomicAcknowledge || packet.Aeth.Kind != AethKind.Acknowledge)
        {
            return WorkCompletionStatus.BadResponse;
        }

        // The value is a number in the order of the host that asked (IBTA 9.4.5).
        Span<byte> original = stackalloc byte[sizeof(ulong)];
        MemoryMarshal.Write(original, packet.AtomicAck);
        return Scatter(0, original, aheadBytes: 0, out faulted);
    }

    /// <summary>
    /// Places the responses that are next, from the middle of a READ and of full length
    /// (<see cref="SendProgress.MiddlesToCome"/>): perhaps none, where one goes to several places.
    /// </summary>
    /// <param name="run">Counts those that were placed.</param>
    /// <param name="faulted">The region that has to be mapped before the next one is placed.</param>
    /// <returns>Success, or what the request ends with because of the next one.</returns>
    public WorkCompletionStatus PlaceRun(ref PacketRun run, out MemoryRegion? faulted)
    {
        uint offset = (uint)Psn.Distance(progress.HeadSlot.FirstPsn, progress.AckPsn) * (uint)pair.MtuBytes;
        AccessOutcome outcome = pair.Memory.ScatterRun(
            queue.Sges(progress.Head), offset, ref run, out MemoryRegion? region);
        return StatusOf(outcome, region, out faulted);
    }

    /// <summary>What a requester without its defence does: places what comes before its turn, with no look.</summary>
    public void PlaceAhead(in PacketView packet)
    {
        if (progress.IsInHead(packet.Psn))
        {
            int index = Psn.Distance(progress.HeadSlot.FirstPsn, packet.Psn);
            Scatter((uint)index * (uint)pair.MtuBytes, packet.Payload, aheadBytes: 0, out _);
        }
    }

    private WorkCompletionStatus PlaceRead(
        in PacketView packet, in SendSlot slot, out bool endsPiece, out MemoryRegion? faulted)
    {
        faulted = null;
        int index = Psn.Distance(slot.FirstPsn, packet.Psn);
        endsPiece = index == progress.ReadPiece(slot, index).End - 1;
        if (!IsExpectedForm(packet.Opcode, index, packet.Psn, endsPiece))
        {
            return WorkCompletionStatus.BadResponse;
        }

        uint offset = (uint)index * (uint)pair.MtuBytes;
        return (uint)packet.PayloadBytes != Math.Min((uint)pair.MtuBytes, slot.ResponseBytes - offset)
            ? WorkCompletionStatus.LocalLengthError
            : Scatter(offset, packet.Payload, AheadOf(slot, offset), out faulted);
    }

    // What the packet behind that one will fill.
    private int AheadOf(in SendSlot slot, uint offset)
    {
        uint mtu = (uint)pair.MtuBytes;
        uint next = offset + mtu;
        return next < slot.ResponseBytes ? (int)Math.Min(mtu, slot.ResponseBytes - next) : 0;
    }

    private WorkCompletionStatus Scatter(
        uint offset, ReadOnlySpan<byte> bytes, int aheadBytes, out MemoryRegion? faulted)
    {
        AccessOutcome outcome = pair.Memory.Scatter(
            queue.Sges(progress.Head), offset, bytes, out MemoryRegion? region, aheadBytes);
        return StatusOf(outcome, region, out faulted);
    }

    private static WorkCompletionStatus StatusOf(
        AccessOutcome outcome, MemoryRegion? region, out MemoryRegion? faulted)
    {
        faulted = outcome == AccessOutcome.Faulted ? region : null;
        return outcome is AccessOutcome.Done or AccessOutcome.Faulted
            ? WorkCompletionStatus.Success
            : WorkCompletionStatus.LocalProtectionError;
    }

    private bool IsExpectedForm(Opcode opcode, int index, uint psn, bool endsPiece)
    {
        bool mayStart = progress.StartsPiece(index) || psn == RestartPsn || psn == ResumePsn;
        return opcode switch
        {
            Opcode.RcReadResponseOnly => endsPiece && mayStart,
            Opcode.RcReadResponseFirst => !endsPiece && mayStart,
            Opcode.RcReadResponseMiddle => !endsPiece && !progress.StartsPiece(index),
            Opcode.RcReadResponseLast => endsPiece && !progress.StartsPiece(index),
            _ => false,
        };
    }
}
