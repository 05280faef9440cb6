using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// A request that the responder accepted and that is answered with more than an acknowledgement: READ, the atomics,
/// ATOMIC WRITE and FLUSH.
/// </summary>
internal struct StoredRequest
{
    public Opcode Opcode;
    public uint FirstPsn;

    /// <summary>Packets of the answer.</summary>
    public int PacketCount;
    public ulong Address;

    /// <summary>Bytes of the answer: those of a READ, else none.</summary>
    public uint LengthBytes;
    public uint Key;
    public uint Msn;

    /// <summary>Of an atomic: what the memory held before it was executed, once.</summary>
    public ulong Original;

    public readonly bool IsRead => Opcode == Opcode.RcReadRequest;

    public readonly bool IsAtomic => Opcode is Opcode.RcCompareSwap or Opcode.RcFetchAdd;

    /// <summary>Packets of a READ's answer: one at least.</summary>
    public static int PacketsOf(uint lengthBytes, int mtuBytes) =>
        Math.Max(1, (int)((lengthBytes + (uint)mtuBytes - 1) / (uint)mtuBytes));

    public readonly bool Covers(uint psn) => ((psn - FirstPsn) & Psn.Mask) < (uint)PacketCount;
}

/// <summary>An answer on its way out, one packet a turn.</summary>
internal struct ActiveResponse
{
    public StoredRequest Request;

    /// <summary>The next packet to send.</summary>
    public int Next;

    /// <summary>The packet at which this answer began: it decides between First and Middle.</summary>
    public int Start;

    /// <summary>Behind the last packet to send: fewer than it has, when not all may be sent again.</summary>
    public int Stop;

    /// <summary>The answer repeats the rest of an older one.</summary>
    public bool IsRest;

    /// <summary>Answered before: it does not count against what the peer may have outstanding.</summary>
    public bool IsRepetition;

    /// <summary>Its First went out before its turn (<see cref="EarlyResponses"/>).</summary>
    public bool IsFirstOut;

    /// <summary>Its Last did.</summary>
    public bool IsLastOut;

    public readonly uint NextPsn => Psn.Add(Request.FirstPsn, (uint)Next);

    /// <summary>That packet was sent, or is going to be.</summary>
    public readonly bool Sends(uint psn) => ((psn - Request.FirstPsn) & Psn.Mask) < (uint)Stop;
}

/// <summary>
/// The responder resources of one queue pair: the answers under way, in PSN order, and the last requests granted, so
/// that a duplicate is answered from what was stored and never by trusting it (roce.md A5.1). Both are bounded by what
/// the peer was granted, and how much is sent again by <see cref="ReplayBudget"/>. A queue pair that was never asked
/// holds neither, and one that has answered all only the requests.
/// </summary>
internal sealed class ResponderResources(QueuePair pair)
{
    private const int WindowPacketsMin = 16;

    private ReplayBudget _budget;
    private int _storedPackets; // there are 2^24 PSNs
    private int _granted;
    private RememberedRequest[] _stored = []; // a ring that grows to as many as were granted
    private ActiveResponse[] _active = []; // the pool's, while there are any
    private int _storedNext;
    private int _storedCount;
    private int _count;
    private int _repetitions;

    public bool IsEmpty => _count == 0;

    /// <summary>Answers under way.</summary>
    public int Count => _count;

    /// <summary>The one to be answered next. Not empty.</summary>
    public ref ActiveResponse Head => ref _active[0];

    /// <summary>One of <see cref="Count"/>, in the order of their PSNs.</summary>
    public ref ActiveResponse this[int index] => ref _active[index];

    /// <summary>
    /// The peer has as many outstanding as it was granted, which may be none: one more is an invalid request.
    /// </summary>
    // A late copy of an old request must not make a new one look like too many.
    public bool IsExhausted => _count - _repetitions >= _granted;

    public void Reset(int granted)
    {
        Clear();
        _granted = granted;
        _stored = _stored.Length <= granted ? _stored : [];
        _storedNext = _storedCount = 0;
        _storedPackets = 0;
        _budget.Reset(pair.Port.Now, Allowance(TimeSpan.Zero));
    }

    /// <summary>
    /// Grants another number: the newest of what was granted before is remembered as far as there is room, and what is
    /// on its way out goes on.
    /// </summary>
    public void Resize(int granted)
    {
        _granted = granted;
        RememberedRequest[] stored = new RememberedRequest[Math.Min(granted, _stored.Length)];
        int kept = Math.Min(_storedCount, granted);
        for (int i = 0; i < kept; i++)
        {
            stored[i] = _stored[(_storedNext - kept + i + _stored.Length) % _stored.Length];
        }

        (_stored, _storedCount, _storedNext) = (stored, kept, granted == 0 ? 0 : kept % granted);
        _storedPackets = 0;
        for (int i = 0; i < kept; i++)
        {
            _storedPackets += stored[i].PacketCount(pair.MtuBytes);
        }
    }

    /// <summary>A new request; not exhausted.</summary>
    public void Add(in StoredRequest request)
    {
        GrowRing();
        bool isFull = _storedCount == _stored.Length;
        _storedPackets += request.PacketCount - (isFull ? _stored[_storedNext].PacketCount(pair.MtuBytes) : 0);
        _budget.Earn(request.PacketCount, _storedPackets, WindowPackets);
        _stored[_storedNext] = new RememberedRequest(request);
        _storedNext = (_storedNext + 1) % _granted;
        _storedCount += isFull ? 0 : 1;
        MakeRoom();
        _active[_count++] = new ActiveResponse { Request = request, Stop = request.PacketCount };
    }

    /// <summary>
    /// A request that was seen before: answers it again, a READ from that packet on, anything else without executing
    /// it. False when it is not one that was granted, asks for more than that, or was answered too often. The answers
    /// carry the present MSN, not the one of the first time (<c>rxe_resp.c: prepare_ack_packet</c>).
    /// </summary>
    // The newest first: PSNs come round, and one of the last round may be remembered still. Whatever could have
    // overwritten the one that is asked for would have overwritten that one before.
    public bool TryRepeat(in PacketView packet, int mtuBytes, uint msn)
    {
        for (int i = 1; i <= _storedCount; i++)
        {
            int place = (_storedNext - i + _stored.Length) % _stored.Length;
            StoredRequest stored = _stored[place].Restore(mtuBytes);
            if (stored.Covers(packet.Psn))
            {
                stored.Msn = msn;
                return stored.Opcode == packet.Opcode
                    && (stored.IsRead ? TryRepeatRead(stored, packet, mtuBytes) : TryRepeatOther(stored, packet));
            }
        }

        return false;
    }

    /// <summary>
    /// The head has sent the packets whose turn it was. What went out before its turn counts as sent when that comes.
    /// </summary>
    public void Advance(int packets)
    {
        _active[0].Next += packets;
        while (_count > 0 && IsHeadDone())
        {
            _repetitions -= _active[0].IsRepetition ? 1 : 0;
            _count--;
            Array.Copy(_active, 1, _active, 0, _count);
        }

        ReturnIfEmpty();
    }

    /// <summary>The head, a repetition, is not answered after all.</summary>
    public void DropHead() => Advance(_active[0].Stop - _active[0].Next);

    private bool IsHeadDone()
    {
        ref ActiveResponse head = ref _active[0];
        head.Next += head.IsFirstOut && head.Next == 0 ? 1 : 0;
        head.Next += head.IsLastOut && head.Next == head.Request.PacketCount - 1 ? 1 : 0;
        return head.Next == head.Stop;
    }

    /// <summary>Nothing more is answered: the queue pair is about to end.</summary>
    public void Clear()
    {
        _count = _repetitions = 0;
        ReturnIfEmpty();
    }

    // Until it has as many entries as were granted, the ring has not gone round.
    private void GrowRing()
    {
        if (_storedCount == _stored.Length && _stored.Length < _granted)
        {
            Array.Resize(ref _stored, Math.Min(_granted, Math.Max(2, 2 * _stored.Length)));
            _storedNext = _storedCount;
        }
    }

    private void MakeRoom() => _active = pair.Port.ResponsePool.Widen(_active, _count);

    private void ReturnIfEmpty()
    {
        if (_count == 0 && _active.Length != 0)
        {
            pair.Port.ResponsePool.Return(_active);
            _active = [];
        }
    }

    private bool TryRepeatRead(in StoredRequest stored, in PacketView packet, int mtuBytes)
    {
        Reth reth = packet.Reth;
        uint offset = (uint)Psn.Distance(stored.FirstPsn, packet.Psn) * (uint)mtuBytes;
        bool isInside = reth.RKey == stored.Key
            && reth.Va == stored.Address + offset
            && reth.Length <= stored.LengthBytes - offset;
        if (!isInside)
        {
            return false;
        }

        StoredRequest repeated = stored;
        repeated.FirstPsn = packet.Psn;
        repeated.Address = reth.Va;
        repeated.LengthBytes = reth.Length;
        repeated.PacketCount = StoredRequest.PacketsOf(reth.Length, mtuBytes);
        int underWay = FindUnderWay(packet.Psn);
        return underWay >= 0 ? TryGoBack(underWay, packet.Psn) : TryInsert(repeated, isRest: offset != 0);
    }

    private bool TryRepeatOther(in StoredRequest stored, in PacketView packet)
    {
        bool isSame = packet.Traits.Has(ExtensionHeaders.AtomicEth)
            ? packet.AtomicEth.RKey == stored.Key && packet.AtomicEth.Va == stored.Address
            : packet.Reth.RKey == stored.Key && packet.Reth.Va == stored.Address;
        if (!isSame)
        {
            return false;
        }

        int underWay = FindUnderWay(packet.Psn);
        return underWay >= 0 ? TryGoBack(underWay, packet.Psn) : TryInsert(stored, isRest: false);
    }

    // Still on its way out, or -1.
    private int FindUnderWay(uint psn)
    {
        for (int i = 0; i < _count; i++)
        {
            if (_active[i].Sends(psn))
            {
                return i;
            }
        }

        return -1;
    }

    // What lies ahead comes anyway, what lies behind is sent again.
    private bool TryGoBack(int place, uint psn)
    {
        ref ActiveResponse active = ref _active[place];
        int index = Psn.Distance(active.Request.FirstPsn, psn);
        int again = Math.Max(0, active.Next - index);
        int wanted = again + EarlyBehind(psn);
        if (TakeBudget(psn, wanted, least: wanted) < wanted)
        {
            return false;
        }

        if (again > 0)
        {
            (active.Next, active.Start) = (index, index);
        }

        ForgetEarly(psn);
        return true;
    }

    private int WindowPackets => Math.Max(WindowPacketsMin, pair.Port.Options.WindowBytes / pair.MtuBytes);

    private ReplayAllowance Allowance(TimeSpan roundTrip) => new(
        roundTrip, WindowPackets, pair.Port.Options.Defences.KeepsReplayReserve ? WindowPackets / 2 : 0);

    private int TakeBudget(uint psn, int packets, int least)
    {
        if (!pair.Port.Options.Defences.CapsReplays)
        {
            return packets;
        }

        TimeSpan roundTrip = pair.Peer.RoundTrip.Smoothed;
        TimeSpan interval = pair.Port.Options.ReplayInterval;
        int taken = _budget.Take(
            psn, packets, least, pair.Port.Now, Allowance(roundTrip > interval ? roundTrip : interval));
        pair.Port.Counters.ReplaysCapped += taken < packets ? 1 : 0;
        return taken;
    }

    private int EarlyBehind(uint psn)
    {
        int count = 0;
        for (int i = 0; i < _count; i++)
        {
            ref ActiveResponse active = ref _active[i];
            count += IsBehind(active, psn) ? (active.IsFirstOut ? 1 : 0) + (active.IsLastOut ? 1 : 0) : 0;
        }

        return count;
    }

    // Who asks again has gone back, and let go of what it held from there on.
    private void ForgetEarly(uint psn)
    {
        for (int i = 0; i < _count; i++)
        {
            ref ActiveResponse active = ref _active[i];
            bool isBehind = IsBehind(active, psn);
            active.IsFirstOut &= !isBehind;
            active.IsLastOut &= !isBehind;
        }
    }

    private static bool IsBehind(in ActiveResponse active, uint psn) =>
        active.Request.Covers(psn) || Psn.Compare(active.Request.FirstPsn, psn) > 0;

    private bool TryInsert(in StoredRequest request, bool isRest)
    {
        if (_repetitions >= _granted) // more than are granted now may be on their way out
        {
            return false;
        }

        // Where they go together, what was sent ahead is asked for again with the rest.
        int early = EarlyBehind(request.FirstPsn);
        int stop = TakeBudget(request.FirstPsn, early + request.PacketCount, least: early + 1) - early;
        if (stop <= 0)
        {
            return false;
        }

        ForgetEarly(request.FirstPsn);
        MakeRoom();
        int place = 0;
        while (place < _count && Psn.Compare(_active[place].Request.FirstPsn, request.FirstPsn) < 0)
        {
            place++;
        }

        Array.Copy(_active, place, _active, place + 1, _count - place);
        _count++;
        _repetitions++;
        _active[place] = new ActiveResponse
        {
            Request = request,
            Stop = stop,
            IsRest = isRest,
            IsRepetition = true,
        };
        return true;
    }
}
