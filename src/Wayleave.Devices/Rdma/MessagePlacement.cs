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
        if (_receiveOffset + (ulong)packet.PayloadBytes > receive.LengthBytes)
        {
            // R7; rxe calls the receiver's shortage an operational error (Q7).
            return pair.Profile.ReceiveTooSmallIsOperationError
                ? Verdict.Inoperable(WorkCompletionStatus.LocalQpOperationError)
                : Verdict.Invalid(WorkCompletionStatus.LocalLengthError);
        }

        AccessOutcome outcome = pair.Memory.Scatter(
            receives.Sges(receives.Head), _receiveOffset, packet.Payload, out MemoryRegion? region);
        switch (outcome)
        {
            case AccessOutcome.Done:
                _receiveOffset += (ulong)packet.PayloadBytes;
                MessageBytes = (uint)_receiveOffset;
                Open = traits.EndsMessage ? OpenMessage.None : OpenMessage.Send;
                return Verdict.Accepted;
            case AccessOutcome.Faulted:
                IsReceiveOpen &= !traits.StartsMessage;
                return Verdict.Refused(outcome, region);
            default:
                return Verdict.Inoperable(WorkCompletionStatus.LocalProtectionError); // R10
        }
    }

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
            MemoryRegion region = _target.Region!;
            int aheadBytes = (int)Math.Min(_remainingBytes - (uint)payloadBytes, (uint)payloadBytes);
            AccessOutcome outcome = port.RevokesAt(payloadBytes) ? AccessOutcome.Dead
                : remote.MayGoOn(_target) ? port.Memory.Write(region, _target.Address, packet.Payload, aheadBytes)
                : AccessOutcome.Refused;
            if (outcome != AccessOutcome.Done)
            {
                return Verdict.Refused(outcome, region);
            }

            region.BytesPlaced += payloadBytes;
            region.LastPlacedPsn = packet.Psn;
            port.Counters.BytesPlaced += payloadBytes;
        }

        _target = _target with { Address = _target.Address + (ulong)payloadBytes };
        _remainingBytes -= (uint)payloadBytes;
        Open = traits.EndsMessage ? OpenMessage.None : OpenMessage.Write;
        return Verdict.Accepted;
    }
}
