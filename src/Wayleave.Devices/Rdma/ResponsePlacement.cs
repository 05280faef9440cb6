using System.Runtime.InteropServices;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Puts what answers a READ or an atomic where the work request wants it, and keeps what came before its turn until
/// then. A READ was asked for in pieces that are multiples of the MTU, so the place of a packet follows from its PSN,
/// whatever request or repetition it answers. <see cref="ResponseIntake"/> brings the packets, and
/// <see cref="GoBackN"/> says what was asked for again. Port token held by the caller.
/// </summary>
internal sealed class ResponsePlacement(QueuePair pair, SendProgress progress)
{
    private uint _restartPsn; // where the oldest READ was asked for again: the answer may begin there
    private uint _resumePsn; // where instead, when late answers had come first: or it begins there
    private HeldPackets? _held; // of a peer that answers ahead

    /// <summary>Nothing was asked for, and the first answer has that PSN.</summary>
    public void Reset(uint firstPsn)
    {
        _restartPsn = _resumePsn = firstPsn;
        _held = null;
    }

    /// <summary>What has no answer is asked for again.</summary>
    public void Restart()
    {
        if (pair.Port.Options.Defences.ForgetsHeld)
        {
            _held?.Clear();
        }

        _restartPsn = _resumePsn = progress.AckPsn;
    }

    /// <summary>
    /// Answers of before came late: what was asked for again begins behind them, or still where <see cref="Restart"/>
    /// said.
    /// </summary>
    public void Resume() => _resumePsn = progress.AckPsn;

    /// <summary>No answer will be taken any more.</summary>
    public void End() => _held = null;

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
            pair.Sends.Sges(progress.Head), offset, ref run, out MemoryRegion? region);
        return StatusOf(outcome, region, out faulted);
    }

    /// <summary>
    /// Keeps a response that is not the next one, of a peer that sends both ends of the next answers ahead. Each is
    /// looked at only in its turn, as if it had come then.
    /// </summary>
    /// <returns>
    /// False: none can have been sent ahead, so that something is lost; or what is held already leaves no place for it.
    /// </returns>
    public bool TryHold(in PacketView packet)
    {
        if (pair.Profile.FirstsAhead <= 0
            || !progress.AwaitsMiddle
            || progress.AckPsn == _restartPsn
            || packet.Opcode is not (Opcode.RcReadResponseFirst or Opcode.RcReadResponseLast))
        {
            return false;
        }

        if (!pair.Port.Options.Defences.HoldsEarly)
        {
            PlaceAhead(packet);
        }

        _held ??= new HeldPackets(
            EarlyResponses.PacketsMax(pair.Profile),
            PayloadPacket.SizeOf(packet.Traits.HeaderBytes, pair.MtuBytes));
        bool isHeld = _held.TryAdd(packet.Psn, packet.Bytes, progress.AckPsn, out bool isNew);
        if (isNew)
        {
            _held.NoteFreed(packet.Psn, progress.NoteHeld(packet.PayloadBytes));
            pair.Port.Peers.WakeReadWaiters();
        }

        return isHeld;
    }

    /// <summary>The response that is next, if it came before its turn.</summary>
    /// <param name="packet">Valid until the next call.</param>
    /// <param name="freedBytes">The room that it made when it came.</param>
    public bool TryTakeHeld(out PacketView packet, out int freedBytes)
    {
        packet = default;
        freedBytes = 0;
        return _held is not null
            && progress.IsOnTheWay(progress.AckPsn)
            && _held.TryTake(progress.AckPsn, out ReadOnlySpan<byte> bytes, out freedBytes)
            && PacketView.TryParse(bytes, out packet) == DropReason.None;
    }

    /// <summary>How many responses come before one that is held has its turn.</summary>
    public int CountBeforeHeld => _held?.CountBefore(progress.AckPsn) ?? int.MaxValue;

    // What a requester without its defence does: places what comes before its turn, with no look.
    private void PlaceAhead(in PacketView packet)
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
            pair.Sends.Sges(progress.Head), offset, bytes, out MemoryRegion? region, aheadBytes);
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
        bool mayStart = progress.StartsPiece(index) || psn == _restartPsn || psn == _resumePsn;
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
