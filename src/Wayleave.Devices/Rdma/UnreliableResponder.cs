using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// What is lost is lost: a packet that does not continue the message makes the rest of it disappear, up to the next one
// that starts a message, whatever PSN that has.
//
//   in step --packet missing, out of sequence, not allowed, no receive--> waiting for a start
//   waiting for a start --First or Only--> in step, at its PSN

/// <summary>The receiving half of a UC queue pair (roce.md A7). Port token held by the caller.</summary>
internal sealed class UnreliableResponder : ReceiveSide
{
    private readonly QueuePair _pair;
    private readonly ReceiveQueue _receives;
    private readonly RdmaPort _port;
    private readonly MessagePlacement _message;
    private uint _expectedPsn;
    private bool _awaitsStart;

    public UnreliableResponder(QueuePair pair, ReceiveQueue receives, RdmaPort port)
    {
        _pair = pair;
        _receives = receives;
        _port = port;
        _message = new MessagePlacement(pair, receives, port, pair.Remote);
    }

    public override uint ExpectedPsn => _expectedPsn;

    /// <summary>Nobody is told, so nobody counts.</summary>
    public override uint Msn => 0;

    public override void Reset(uint firstPsn)
    {
        _expectedPsn = firstPsn;
        _awaitsStart = false;
        _message.Reset();
    }

    public override DropReason HandleRequest(in PacketView packet, in Arrival arrival)
    {
        OpcodeTraits traits = packet.Traits;
        bool isBroken = packet.Psn != _expectedPsn || !_message.IsInSequence(packet.Opcode, traits);
        if (isBroken && !traits.StartsMessage)
        {
            return Drop(DropReason.OutOfSequence);
        }

        if (isBroken)
        {
            BreakOff();
        }

        if (_awaitsStart && !traits.StartsMessage)
        {
            return DropReason.OutOfSequence;
        }

        _awaitsStart = false;
        _expectedPsn = Psn.Next(packet.Psn);
        if (!RequestRules.MayPeer(packet, _pair.Access))
        {
            return Drop(DropReason.NotAllowed);
        }

        if (traits.ConsumesReceive && !_receives.TryReady())
        {
            return Drop(DropReason.NoReceive);
        }

        if (!traits.AllowsPayload(packet.PayloadBytes, _pair.MtuBytes) || !packet.HasProperPad)
        {
            return Drop(DropReason.NotAllowed);
        }

        Verdict verdict = _message.Place(packet, traits);
        if (!verdict.IsAccepted)
        {
            return Refuse(verdict);
        }

        if (traits.CompletesReceive)
        {
            _receives.Complete(_pair, packet, _message.MessageBytes);
            _message.CloseReceive();
        }

        return DropReason.None;
    }

    public override BuildResult BuildNext(ref SuperPacket superPacket) => BuildResult.Nothing;

    public override void Wake()
    {
    }

    public override void Flush()
    {
        _message.Reset();
        _receives.Flush(_pair);
    }

    private DropReason Refuse(in Verdict verdict)
    {
        switch (verdict.Outcome)
        {
            case AccessOutcome.Faulted:
                _port.RegionFaults.Add(verdict.Region!, _pair);
                return Drop(DropReason.NotMapped);
            case AccessOutcome.Done when verdict.ReceiveStatus == WorkCompletionStatus.LocalProtectionError:
                // The own receive is wrong: that is no fault of the message, and the next one would meet it again.
                _receives.Complete(_pair, verdict.ReceiveStatus);
                _message.CloseReceive();
                _pair.EnterError();
                return DropReason.NotAllowed;
            case AccessOutcome.Done when _message.IsReceiveOpen && _receives.IsShared:
                // It was taken from the others and is not given back (rxe_resp.c, class D1).
                _receives.Complete(_pair, verdict.ReceiveStatus);
                _message.CloseReceive();
                return Drop(DropReason.NotAllowed);
            default:
                return Drop(DropReason.NotAllowed);
        }
    }

    private DropReason Drop(DropReason reason)
    {
        _awaitsStart = true;
        BreakOff();
        return reason;
    }

    // The receive of a broken message is the next one's; one that was taken from the others is not given back, and ends
    // with it (rxe_resp.c: do_class_d1e_error).
    private void BreakOff()
    {
        if (_message.IsReceiveOpen && _receives.IsShared)
        {
            _receives.Complete(_pair, WorkCompletionStatus.RemoteInvalidRequest);
        }

        _message.Reset();
    }
}
