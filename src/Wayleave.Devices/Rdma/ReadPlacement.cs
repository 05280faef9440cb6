using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Puts the data of a READ where its PSN says: the READ was asked for in pieces that are multiples of the MTU, so the
/// place does not depend on which request or repetition is answered. Port token held by the caller.
/// </summary>
internal sealed class ReadPlacement(QueuePair pair, SendQueue queue, SendProgress progress)
{
    /// <summary>Where the oldest READ was asked for again: the answer may begin there.</summary>
    public uint RestartPsn { get; set; }

    /// <summary>Places the response that is next, of the READ at the head of the queue.</summary>
    /// <param name="packet">Its PSN is the oldest without an answer.</param>
    /// <param name="endsPiece">It is the last one that its request asked for.</param>
    /// <param name="faulted">The region that has to be mapped first; nothing was placed then.</param>
    /// <returns>Success, or what the request ends with.</returns>
    public WorkCompletionStatus Place(in PacketView packet, out bool endsPiece, out MemoryRegion? faulted)
    {
        faulted = null;
        ref SendSlot slot = ref progress.HeadSlot;
        int index = Psn.Distance(slot.FirstPsn, packet.Psn);
        endsPiece = index == progress.ReadPiece(slot, index).End - 1;
        if (!IsExpectedForm(packet.Opcode, index, packet.Psn, endsPiece))
        {
            return WorkCompletionStatus.BadResponse;
        }

        uint offset = (uint)index * (uint)pair.MtuBytes;
        if ((uint)packet.PayloadBytes != Math.Min((uint)pair.MtuBytes, slot.LengthBytes - offset))
        {
            return WorkCompletionStatus.LocalLengthError;
        }

        AccessOutcome outcome = pair.Memory.Scatter(
            queue.Sges(progress.Head), offset, packet.Payload, out MemoryRegion? region);
        faulted = outcome == AccessOutcome.Faulted ? region : null;
        return outcome is AccessOutcome.Done or AccessOutcome.Faulted
            ? WorkCompletionStatus.Success
            : WorkCompletionStatus.LocalProtectionError;
    }

    private bool IsExpectedForm(Opcode opcode, int index, uint psn, bool endsPiece)
    {
        bool mayStart = progress.StartsPiece(index) || psn == RestartPsn;
        return opcode switch
        {
            Opcode.RcReadResponseOnly => endsPiece && mayStart,
            Opcode.RcReadResponseFirst => !endsPiece && mayStart,
            Opcode.RcReadResponseMiddle => !endsPiece && !progress.StartsPiece(index),
            _ => endsPiece && !progress.StartsPiece(index),
        };
    }
}
