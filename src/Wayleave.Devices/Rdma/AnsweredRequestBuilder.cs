using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Makes the requests that are answered with more than an acknowledgement, and charges their answers to the window of
/// the own socket. Port token held by the caller.
/// </summary>
internal readonly struct AnsweredRequestBuilder(QueuePair pair, SendProgress progress)
{
    /// <summary>Adds the request at the cursor to a super-packet; of a READ, the next piece of it.</summary>
    /// <param name="superPacket">Takes it.</param>
    /// <param name="outcome">Done, or why the own memory gave nothing when the result is Nothing.</param>
    /// <param name="region">The region that refused, if there is one.</param>
    public BuildResult Build(ref SuperPacket superPacket, out AccessOutcome outcome, out MemoryRegion? region)
    {
        (outcome, region) = (AccessOutcome.Done, null);
        if (progress.AnswersOutstanding >= pair.MaxRdAtomic)
        {
            return BuildResult.Nothing;
        }

        ref SendSlot slot = ref progress.CursorSlot;
        (int end, uint readBytes) = progress.ReadPiece(slot, progress.CursorPacket);
        int charge = progress.ChargeOfRead(end, readBytes);
        if (!pair.Peer.ReadWindow.Admits(charge))
        {
            return BuildResult.ReadWindowClosed;
        }

        Opcode opcode = RequestHeaders.OpcodeOf(slot.Opcode, isFirst: true, isLast: true);
        int headerBytes = OpcodeTraits.Of(opcode).HeaderBytes;
        int payloadBytes = opcode == Opcode.RcAtomicWrite ? (int)slot.LengthBytes : 0;
        int packetBytes = PayloadPacket.SizeOf(headerBytes, payloadBytes);
        if (!superPacket.TryReserve(packetBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        Bth bth = new()
        {
            Opcode = opcode,
            PKey = pair.Port.Options.PKey,
            DestQp = pair.DestQpNumber,
            AckRequest = true,
            Psn = progress.CursorPsn,
        };
        RequestHeaders.WriteAnswered(packet, bth, slot, (uint)progress.CursorPacket * (uint)pair.MtuBytes, readBytes);
        if (payloadBytes != 0)
        {
            outcome = Gather(slot, packet.Slice(headerBytes, payloadBytes), out region);
            if (outcome != AccessOutcome.Done)
            {
                return BuildResult.Nothing;
            }
        }

        if (opcode == Opcode.RcFlush && pair.Profile.FlushChecksumRunsTwice)
        {
            Icrc.SealFlushForRxe(pair.Peer.Outbound, (ushort)superPacket.Count, packet);
        }
        else
        {
            Icrc.Seal(pair.Peer.Outbound, (ushort)superPacket.Count, packet);
        }

        superPacket.Commit(packetBytes);
        pair.Port.Counters.Retransmits += progress.NoteReadSent(end, charge);
        return BuildResult.Built;
    }

    private AccessOutcome Gather(in SendSlot slot, Span<byte> payload, out MemoryRegion? region)
    {
        uint unused = 0; // the packet is sealed as a whole
        if ((slot.Flags & SendFlags.Inline) == 0)
        {
            return pair.Memory.Gather(pair.Sends.Sges(progress.Cursor), 0, payload, ref unused, out region);
        }

        region = null;
        pair.Sends.Inline(progress.Cursor).CopyTo(payload);
        return AccessOutcome.Done;
    }
}
