using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

// A First is longer than what comes behind it, so that a message needs a super-packet that its First ends early, and
// another. To a peer that holds packets which come ahead, the Firsts of the next few WRITEs go with the First of the
// one before them, and each of these messages is a super-packet of its own then:
//
//   1.First 2.First 3.First 4.First 1.Middle | 1.Middle ... 1.Last | 2.Middle ... 2.Last | 3.Middle ... | 4.Middle ...
//
// Such a First has its PSN, and counts as sent only when its turn comes: the cursor passes it then, without a packet.
// Until then it is charged to the window as something that nobody has asked about. Whatever takes the cursor back
// forgets that it was sent; it goes out again in its turn, and the peer takes the second one for a duplicate.

/// <summary>
/// The Firsts of a queue pair that went out before their turn. Port token held by the caller.
/// </summary>
internal sealed class EarlyFirsts(QueuePair pair)
{
    /// <summary>
    /// How many PSNs ahead of the First it goes with: a few long messages at a small MTU are as many as there are PSNs.
    /// </summary>
    public const int PsnsMax = 1 << 16;

    private const int Max = PeerProfile.FirstsAheadMax;
    private const uint NoPsn = uint.MaxValue;

    private uint[]? _psns; // also of those that are not out any more; most queue pairs never have any
    private uint _position; // of the request whose First is the oldest of them
    private int _count;
    private int _chargeBytes; // of each
    private uint? _endsAt; // the request of the last of them, whose turn has come

    /// <summary>None is out.</summary>
    public bool IsEmpty => _count == 0;

    /// <summary>One is out: that of the next message.</summary>
    public bool IsOne => _count == 1;

    /// <summary>That request's First was out, it was the last one, and its turn has come.</summary>
    public bool EndedWith(uint position) => _endsAt == position;

    /// <summary>What they are charged to the window, all of it unasked.</summary>
    public long ChargedBytes => (long)_count * _chargeBytes;

    /// <summary>What is left of their messages, in packets; it may go together, but for short Lasts.</summary>
    public int PacketsBehind(SendQueue queue)
    {
        int packets = 0;
        for (int i = 0; i < _count; i++)
        {
            packets += queue[_position + (uint)i].PacketsAt(pair.MtuBytes) - 1;
        }

        return packets;
    }

    /// <summary>
    /// Whether a First with that PSN went out before its turn, since forgotten or not: the peer may have done it, and
    /// say so, when all before it is there.
    /// </summary>
    public bool WasSent(uint psn) => _psns is { } psns && psns.AsSpan().Contains(psn);

    /// <summary>
    /// Whether the First of that request may go now, behind the last that did.
    /// </summary>
    public bool MayFollow(in SendSlot slot, DestinationWindow window, int chargeBytes) =>
        _count < Math.Min(pair.Profile.FirstsAhead, Max)
        && slot.Opcode is WorkRequestOpcode.RdmaWrite or WorkRequestOpcode.RdmaWriteWithImmediate
        && (slot.Flags & (SendFlags.Fence | SendFlags.Inline)) == 0
        && slot.LengthBytes >= 2 * (uint)pair.MtuBytes
        && (_count + 1) * (long)chargeBytes <= window.LimitBytes / 8
        && window.InFlightBytes + chargeBytes <= window.LimitBytes;

    /// <summary>The First of the request at that position was sent; the one before it is the last that was.</summary>
    public void Add(uint position, uint psn, int chargeBytes)
    {
        if (_count == 0)
        {
            (_position, _chargeBytes, _endsAt) = (position, chargeBytes, null);
        }

        if (_psns is null)
        {
            _psns = new uint[Max];
            _psns.AsSpan().Fill(NoPsn);
        }

        _psns[position % Max] = psn;
        _count++;
        pair.Peer.Window.ChargeUnasked(chargeBytes);
    }

    /// <summary>The turn of that request has come. True when its First is out; now it counts as sent.</summary>
    public bool TryTake(uint position, uint psn)
    {
        if (_count == 0 || _position != position || _psns![position % Max] != psn)
        {
            return false;
        }

        _position++;
        _count--;
        _endsAt = _count == 0 ? position : null;
        pair.Peer.Window.ReleaseUnasked(_chargeBytes);
        return true;
    }

    /// <summary>The PSNs begin anew.</summary>
    public void Reset()
    {
        _count = 0;
        _endsAt = null;
        _psns.AsSpan().Fill(NoPsn);
    }

    /// <summary>They are sent in their turn, as if none had been out.</summary>
    public void Forget()
    {
        if (_count > 0)
        {
            pair.Peer.Window.ReleaseUnasked(ChargedBytes);
            _count = 0;
        }

        _endsAt = null;
    }
}
