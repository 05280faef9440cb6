using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// One slot is enough, because an answer for PSN n speaks for all before it:
//
//   an ACK replaces an older ACK
//   a NAK or RNR NAK replaces an ACK, for it acknowledges what came before its PSN
//   an ACK replaces a NAK only when the expected packet has come after all
//   a NAK that ends the queue pair is final: requests are ignored until it is out

/// <summary>The answer that a responder owes its peer. Port token held by the caller.</summary>
internal sealed class PendingAnswer(QueuePair pair)
{
    private const int PacketBytes = Bth.Size + Aeth.Size + PacketView.IcrcSize;

    private uint _msn;
    private byte _syndrome;

    public bool IsPending { get; private set; }

    public uint Psn { get; private set; }

    /// <summary>It is a NAK or an RNR NAK: these acknowledge what an ACK would, and say more.</summary>
    public bool IsRefusal => IsPending && _syndrome != Aeth.AckUnlimited;

    public void Set(uint psn, byte syndrome, uint msn)
    {
        (IsPending, Psn, _syndrome, _msn) = (true, psn, syndrome, msn);
        pair.Port.Urge(syndrome == Aeth.AckUnlimited ? TransmitUrgency.Soon : TransmitUrgency.Now);
        SendOrder.ScheduleResponses(pair);
    }

    public void Clear() => IsPending = false;

    /// <summary>Takes a refusal back that was not sent yet.</summary>
    public void ClearRefusal() => IsPending &= _syndrome == Aeth.AckUnlimited;

    /// <summary>Adds it to a super-packet; it is not pending any more.</summary>
    public BuildResult Build(ref SuperPacket superPacket)
    {
        BuildResult result = Build(pair, Psn, _syndrome, _msn, ref superPacket);
        IsPending &= result != BuildResult.Built;
        return result;
    }

    /// <summary>Adds an answer that is not in the slot, which keeps what it has.</summary>
    public static BuildResult Build(QueuePair pair, uint psn, byte syndrome, uint msn, ref SuperPacket superPacket)
    {
        if (!superPacket.TryReserve(PacketBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        new Bth
        {
            Opcode = Opcode.RcAcknowledge,
            PKey = pair.Port.Options.PKey,
            DestQp = pair.DestQpNumber,
            Psn = psn,
        }.WriteTo(packet);
        byte written = syndrome == Aeth.AckUnlimited ? FaultOptions.AcknowledgeOf(pair.Port.Faults) : syndrome;
        new Aeth(written, msn).WriteTo(packet[Bth.Size..]);
        Icrc.Seal(pair.Peer.Outbound, (ushort)superPacket.Count, packet);
        superPacket.Commit(PacketBytes);
        pair.Port.Counters.CountAnswer(syndrome);
        return BuildResult.Built;
    }
}
