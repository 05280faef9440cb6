using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Where a requester is in its message, as far as <see cref="SendOrder"/> asks. Port token held by the caller.
/// </summary>
internal readonly struct SendTurn(QueuePair pair, SendProgress progress)
{
    /// <summary>
    /// The first packet of a message was the last one sent, and what follows is worth a super-packet that others share.
    /// </summary>
    public bool HasBegun => progress.CursorPacket == 1 && IsWorthBeginning(progress.CursorSlot);

    /// <summary>A part of a message was sent, and the next packet is of it.</summary>
    public bool IsWithinMessage => progress.CursorPacket != 0;

    /// <summary>
    /// Its next packet is the first of a message of several, and as long as that. A hint: it may not be sent after all.
    /// </summary>
    public bool Begins(int packetBytes)
    {
        if (!progress.HasWork || progress.CursorPacket != 0 || !progress.Early.IsEmpty)
        {
            return false;
        }

        ref SendSlot slot = ref progress.CursorSlot;
        return !slot.IsLocal
            && IsWorthBeginning(slot)
            && packetBytes == PayloadPacket.SizeOf(
                OpcodeTraits.Of(RequestHeaders.OpcodeOf(slot.Opcode, isFirst: true, isLast: false)).HeaderBytes,
                pair.MtuBytes);
    }

    /// <summary>
    /// The message at the cursor belongs to the turn of the one before it: an acknowledgement for both is asked for at
    /// its end.
    /// </summary>
    public bool GoesOn => progress.CursorPacket == 1
        && progress.Early.EndedWith(progress.Cursor)
        && progress.AskedPosition != progress.Cursor;

    /// <summary>The rest of a message that was begun fits there; a hint, as <see cref="Begins"/>.</summary>
    public bool EndsWithin(in SuperPacket superPacket) => IsWithinMessage
        && PacketsLeft <= superPacket.RoomFor(PayloadPacket.SizeOf(Bth.Size, pair.MtuBytes));

    /// <summary>As <see cref="EndsWithin"/>, in the next one.</summary>
    public bool EndsInTurn(in SuperPacket superPacket) => IsWithinMessage
        && PacketsLeft <= superPacket.CapacityFor(PayloadPacket.SizeOf(Bth.Size, pair.MtuBytes));

    private int PacketsLeft => progress.CursorSlot.IsAnswered
        ? int.MaxValue
        : progress.CursorSlot.PacketCount - progress.CursorPacket;

    // Of two packets a shorter second one ends the super-packet of the first, which then costs no more than by itself.
    private bool IsWorthBeginning(in SendSlot slot) =>
        !slot.IsAnswered && slot.LengthBytes >= 2 * (uint)pair.MtuBytes;
}
