using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>The message that a peer is in the middle of.</summary>
internal enum OpenMessage
{
    None,
    Send,
    Write,
}

/// <summary>
/// Puts SENDs and WRITEs where they belong, one packet at a time, and remembers the message in between (roce.md A5, R7
/// to R10). Port token held by the caller.
/// </summary>
internal sealed class MessagePlacement(QueuePair pair, ReceiveQueue receives, RdmaPort port, RemoteMemory remote)
{
    private RemoteTarget _target; // of the open WRITE
    private uint _remainingBytes;
    private ulong _receiveOffset;

    public OpenMessage Open { get; private set; }

    /// <summary>The receive at the head of the queue belongs to the open SEND.</summary>
    public bool IsReceiveOpen { get; private set; }

    /// <summary>Bytes of the message that ended last: of a SEND what came, of a WRITE what was announced.</summary>
    public uint MessageBytes { get; private set; }

    /// <summary>R3: a message is First, Middle..., Last of one kind, or an Only; nothing may come inside it.</summary>
    public bool IsInSequence(Opcode opcode, in OpcodeTraits traits) => traits.StartsMessage
        ? Open == OpenMessage.None
        : Open == (RequestRules.IsWrite(opcode) ? OpenMessage.Write : OpenMessage.Send);

    /// <summary>Forgets the open message; its receive is the next one's.</summary>
    public void Reset()
    {
        Open = OpenMessage.None;
        IsReceiveOpen = false;
        _target = default;
    }

    /// <summary>The receive of the open SEND has completed.</summary>
    public void CloseReceive() => IsReceiveOpen = false;

    /// <summary>
    /// How many Middles of that kind may come next: before the Last of the open WRITE, or into the receive of the open
    /// SEND; 0 without one.
    /// </summary>
    public int MiddlesToCome(Opcode opcode) => (opcode, Open) switch
    {
        (Opcode.RcWriteMiddle, OpenMessage.Write) => (int)((_remainingBytes - 1) / (uint)pair.MtuBytes),
        (Opcode.RcSendMiddle, OpenMessage.Send) =>
            (int)(RoomFor(receives[receives.Head].LengthBytes, _receiveOffset) / (uint)pair.MtuBytes),
        _ => 0,
    };

    public Verdict Place(in PacketView packet, in OpcodeTraits traits) => RequestRules.IsWrite(packet.Opcode)
        ? PlaceWrite(packet, traits)
        : PlaceSend(packet, traits);

    private Verdict PlaceSend(in PacketView packet, in OpcodeTraits traits)
    {
        if (traits.StartsMessage)
        {
            (IsReceiveOpen, _receiveOffset) = (true, 0);
        }

        ref ReceiveSlot receive = ref receives[receives.Head];
        if ((ulong)packet.PayloadBytes > RoomFor(ulong.MaxValue, _receiveOffset))
        {
            return Verdict.Invalid(WorkCompletionStatus.LocalLengthError); // R7, however long the receive is
        }

        if ((ulong)packet.PayloadBytes > RoomFor(receive.LengthBytes, _receiveOffset))
        {
            // R7; rxe calls the receiver's shortage an operational error (Q7).
            return pair.Profile.ReceiveTooSmallIsOperationError
                ? Verdict.Inoperable(WorkCompletionStatus.LocalQpOperationError)
                : Verdict.Invalid(WorkCompletionStatus.LocalLengthError);
        }

        // Nobody says how long the message is: another packet may come, as far as there is room.
        AccessOutcome outcome = pair.Memory.Scatter(
            receives.Sges(receives.Head),
            _receiveOffset,
            packet.Payload,
            out MemoryRegion? region,
            aheadBytes: traits.EndsMessage ? 0 : packet.PayloadBytes);
        if (outcome == AccessOutcome.Done)
        {
            NoteReceived((uint)packet.PayloadBytes);
            Open = traits.EndsMessage ? OpenMessage.None : OpenMessage.Send;
            return Verdict.Accepted;
        }

        IsReceiveOpen &= outcome != AccessOutcome.Faulted || !traits.StartsMessage;
        return RefusedReceive(outcome, region);
    }

    /// <summary>
    /// How much more of a SEND may come into a receive of that length: a message is no longer than any other.
    /// </summary>
    /// <param name="receiveBytes">The receive.</param>
    /// <param name="offset">What came of the message, not more than fits.</param>
    internal static ulong RoomFor(ulong receiveBytes, ulong offset) => Math.Min(receiveBytes, Reth.LengthMax) - offset;

    private static Verdict RefusedReceive(AccessOutcome outcome, MemoryRegion? region) =>
        outcome == AccessOutcome.Faulted
            ? Verdict.Refused(outcome, region)
            : Verdict.Inoperable(WorkCompletionStatus.LocalProtectionError); // R10

    private Verdict PlaceWrite(in PacketView packet, in OpcodeTraits traits)
    {
        int payloadBytes = packet.PayloadBytes;
        if (traits.StartsMessage)
        {
            Reth reth = packet.Reth;
            bool fits = reth.Length <= Reth.LengthMax
                && (traits.EndsMessage ? reth.Length == (uint)payloadBytes : reth.Length > (uint)payloadBytes);
            if (!fits)
            {
                return Verdict.Invalid(); // R7
            }

            // R8, for the whole message before its first byte; a message without bytes needs no key.
            RemoteTarget target = default;
            AccessOutcome found = reth.Length == 0
                ? AccessOutcome.Done
                : remote.Find(reth.RKey, AccessFlags.RemoteWrite, reth.Va, reth.Length, out target);
            if (found != AccessOutcome.Done)
            {
                return Verdict.Refused(found, target.Region);
            }

            (_target, _remainingBytes, MessageBytes) = (target, reth.Length, reth.Length);
        }
        else if (traits.EndsMessage ? (uint)payloadBytes != _remainingBytes : (uint)payloadBytes >= _remainingBytes)
        {
            return Verdict.Invalid(); // R7
        }

        if (payloadBytes != 0)
        {
            AccessOutcome outcome = port.RevokesAt(payloadBytes)
                ? AccessOutcome.Dead
                : PlaceNext(packet.Psn, packet.Payload);
            if (outcome != AccessOutcome.Done)
            {
                return Verdict.Refused(outcome, _target.Region);
            }
        }

        Open = traits.EndsMessage ? OpenMessage.None : OpenMessage.Write;
        return Verdict.Accepted;
    }

    /// <summary>
    /// Places the next packets of the message, at most <see cref="MiddlesToCome"/>, as
    /// <see cref="RegionMemory.WriteRun"/>: of a SEND perhaps none, where one goes to several places.
    /// </summary>
    /// <param name="psn">Of the first.</param>
    /// <param name="run">Counts what was placed.</param>
    /// <returns>Accepted, or what is wrong with the one behind those.</returns>
    public Verdict PlaceRun(uint psn, ref PacketRun run)
    {
        AccessOutcome outcome;
        if (Open == OpenMessage.Send)
        {
            outcome = pair.Memory.ScatterRun(
                receives.Sges(receives.Head), _receiveOffset, ref run, out MemoryRegion? region);
            NoteReceived((uint)(run.Placed * run.PayloadBytes));
            return outcome == AccessOutcome.Done ? Verdict.Accepted : RefusedReceive(outcome, region);
        }

        outcome = port.Memory.WriteRun(_target.Region!, _target.Address, _remainingBytes, ref run, _target, psn);
        NotePlaced((uint)(run.Placed * run.PayloadBytes));
        return outcome == AccessOutcome.Done ? Verdict.Accepted : Verdict.Refused(outcome, _target.Region);
    }

    private void NoteReceived(uint bytes)
    {
        _receiveOffset += bytes;
        MessageBytes = checked((uint)_receiveOffset);
    }

    // The next bytes of the WRITE, which are not more than it announced. No state changes unless they were placed.
    private AccessOutcome PlaceNext(uint psn, ReadOnlySpan<byte> payload)
    {
        if (!port.Memory.MayGoOn(_target))
        {
            return AccessOutcome.Refused;
        }

        MemoryRegion region = _target.Region!;
        int aheadBytes = (int)Math.Min(_remainingBytes - (uint)payload.Length, (uint)payload.Length);
        AccessOutcome outcome = port.Memory.Write(region, _target.Address, payload, aheadBytes, psn);
        if (outcome == AccessOutcome.Done)
        {
            NotePlaced((uint)payload.Length);
        }

        return outcome;
    }

    private void NotePlaced(uint bytes)
    {
        port.Counters.BytesPlaced += bytes;
        _target = _target with { Address = _target.Address + bytes };
        _remainingBytes -= bytes;
    }
}
