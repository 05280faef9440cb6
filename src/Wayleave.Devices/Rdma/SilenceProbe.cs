using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// A peer that says nothing either lost what would have made it speak, or is not running. A probe tells which, without a
// word about what is on its way: a SEND without data whose PSN is the one before the oldest unanswered packet. The peer
// has that one, so this is a duplicate, which is never executed and always acknowledged, with the last PSN that the
// peer has (IBTA C9-105; rxe_resp.c duplicate_request). A path keeps the order, so everything sent before the probe has
// been seen when its answer comes:
//
//   answer = the probe's own PSN      the oldest packet is lost, and with it all behind it: go back
//   answer = a later one              progress like any other
//   none                              not running, or the probe is lost: everything stays as it is
//
// Two others can be answered with the probe's PSN: a probe before it, and what went out twice because of a time-out. So
// the answers of probes that were out when something else came, and of questions that were repeated after a time-out,
// are counted and skipped, until an answer comes to what was sent after them. While a
// probe is out nothing new is sent: going back takes all charges back, and what was sent behind the probe may be in the
// peer's socket still.

/// <summary>The question of a requester to a peer that has been silent. Port token held by the caller.</summary>
internal sealed class SilenceProbe(QueuePair pair, SendProgress progress)
{
    /// <summary>How many may be on their way to one socket: their charge is what a window leaves free anyway.</summary>
    public const int PerPeerMax = 16;

    // Of a peer that says nothing to anybody: one tells whether it runs, and another whether the first was lost. For so
    // many times its usual time; who asks may be somebody whose queue pair over there is gone.
    private const int PerSilentPeerMax = 2;
    private const int SilentPeerTimes = 8;

    private const int PacketBytes = Bth.Size + PacketView.IcrcSize;

    private Peer? _counted; // where this one's is counted
    private int _asked; // since something was heard
    private TimeSpan _sentAt; // the last of them
    private int _stale; // before that, and not answered, or answered once of twice
    private uint _staleEnd; // where what was sent ended then

    /// <summary>It is to be sent.</summary>
    public bool IsDue { get; private set; }

    /// <summary>One is out: nothing else is sent.</summary>
    public bool IsOut => _asked > 0;

    /// <summary>The peer has been silent: asks soon, unless many ask there already.</summary>
    /// <param name="askedAt">When the question went out that has no answer.</param>
    /// <param name="now">The time.</param>
    public bool TryArm(TimeSpan askedAt, TimeSpan now)
    {
        bool isLost = pair.Peer.HeardUpTo > askedAt
            || now - askedAt > SilentPeerTimes * pair.Peer.RoundTrip.Patience;
        int most = isLost ? PerPeerMax : PerSilentPeerMax;
        if (_counted is null && pair.Peer.Probes >= most)
        {
            return false;
        }

        if (_counted is null)
        {
            _counted = pair.Peer;
            _counted.Probes++;
        }

        IsDue = true;
        return true;
    }

    public BuildResult Build(ref SuperPacket superPacket, TimeSpan now)
    {
        if (!superPacket.TryReserve(PacketBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        new Bth
        {
            Opcode = Opcode.RcSendOnly,
            PKey = pair.Port.Options.PKey,
            DestQp = pair.DestQpNumber,
            AckRequest = true,
            Psn = Psn.Add(progress.AckPsn, Psn.Mask),
        }.WriteTo(packet);
        Icrc.Seal(pair.Peer.Outbound, (ushort)superPacket.Count, packet);
        superPacket.Commit(PacketBytes);
        IsDue = false;
        _asked++;
        _sentAt = now;
        pair.Port.Counters.Probes++;
        return BuildResult.Built;
    }

    /// <summary>
    /// An acknowledgement of what was acknowledged before. True when it is the answer, and says that all that is on its
    /// way is lost.
    /// </summary>
    public bool TakeAnswer(uint psn)
    {
        if (Psn.Next(psn) != progress.AckPsn || (_stale == 0 && _asked == 0))
        {
            return false;
        }

        if (_stale > 0)
        {
            _stale--;
            return false;
        }

        _asked--;
        pair.Peer.NoteHeard(_sentAt);
        return true;
    }

    /// <summary>Something was heard, or everything goes out again: the silence is over.</summary>
    public void End()
    {
        IsDue = false;
        if (_counted is not null)
        {
            _counted.Probes--;
            _counted = null;
        }

        if (_asked > 0)
        {
            (_stale, _asked, _staleEnd) = (_stale + _asked, 0, progress.SentPsn);
        }
        else if (_stale > 0 && Psn.Compare(progress.AckPsn, _staleEnd) > 0)
        {
            _stale = 0;
        }
    }

    /// <summary>
    /// A question went out again after a whole time-out. A peer that was merely not running answers both copies, and
    /// nothing tells the second answer from that of a probe.
    /// </summary>
    public void NoteAskedTwice() => (_stale, _staleEnd) = (_stale + 1, progress.SentPsn);

    /// <summary>Forgets everything.</summary>
    public void Reset()
    {
        End();
        _stale = 0;
    }
}
