using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>A READ that the responder accepted.</summary>
internal struct ReadOperation
{
    public uint FirstPsn;
    public int PacketCount;
    public ulong Address;
    public uint LengthBytes;
    public uint Key;
    public uint Msn;

    public readonly bool Covers(uint psn) => ((psn - FirstPsn) & Psn.Mask) < (uint)PacketCount;
}

/// <summary>A READ that is being answered, one packet a turn.</summary>
internal struct ActiveRead
{
    public ReadOperation Operation;

    /// <summary>The next packet to send.</summary>
    public int Next;

    /// <summary>The packet at which this answer began: it decides between First and Middle.</summary>
    public int Start;

    /// <summary>The answer repeats the rest of an older one.</summary>
    public bool IsRest;

    /// <summary>The READ was answered before. It does not count against what the peer may have outstanding.</summary>
    public bool IsRepetition;

    public readonly uint NextPsn => Psn.Add(Operation.FirstPsn, (uint)Next);
}

/// <summary>
/// The READs of one responder: those being answered, in PSN order, and the last ones granted, so that a duplicate is
/// answered from what was stored and never by trusting it (roce.md A5.1). Both are bounded by what the peer was
/// granted.
/// </summary>
internal sealed class ReadResponses
{
    private ReadOperation[] _stored = [];
    private ActiveRead[] _active = [];
    private int _storedNext;
    private int _storedCount;
    private int _count;
    private int _repetitions;

    public bool IsEmpty => _count == 0;

    /// <summary>The one to be answered next. Not empty.</summary>
    public ref ActiveRead Head => ref _active[0];

    /// <summary>How many READs the peer may have outstanding.</summary>
    public int Granted => _stored.Length;

    public void Reset(int granted)
    {
        _stored = granted == _stored.Length ? _stored : new ReadOperation[granted];
        _active = _active.Length == 2 * granted ? _active : new ActiveRead[2 * granted];
        _storedNext = _storedCount = _count = _repetitions = 0;
    }

    /// <summary>A new READ; false when the peer has more outstanding than it was granted.</summary>
    public bool TryAdd(in ReadOperation operation)
    {
        // A late copy of an old request must not make a new one look like too many.
        if (_count - _repetitions >= _stored.Length)
        {
            return false;
        }

        _stored[_storedNext] = operation;
        _storedNext = (_storedNext + 1) % _stored.Length;
        _storedCount = Math.Min(_storedCount + 1, _stored.Length);
        _active[_count++] = new ActiveRead { Operation = operation };
        return true;
    }

    /// <summary>
    /// A READ request that was seen before: answers it again from that packet on. False when it is not one that was
    /// granted, or asks for more than that. The answers carry the present MSN, not the one of the first time
    /// (<c>rxe_resp.c: prepare_ack_packet</c>).
    /// </summary>
    public bool TryRepeat(uint psn, in Reth reth, int mtuBytes, uint msn)
    {
        for (int i = 0; i < _storedCount; i++)
        {
            ref readonly ReadOperation stored = ref _stored[i];
            if (!stored.Covers(psn))
            {
                continue;
            }

            uint offset = (uint)Psn.Distance(stored.FirstPsn, psn) * (uint)mtuBytes;
            bool isInside = reth.RKey == stored.Key
                && reth.Va == stored.Address + offset
                && reth.Length <= stored.LengthBytes - offset;
            return isInside && TryRepeat(stored with { Msn = msn }, psn, reth, mtuBytes, isRest: offset != 0);
        }

        return false;
    }

    /// <summary>The head has sent a packet.</summary>
    public void Advance()
    {
        if (++_active[0].Next == _active[0].Operation.PacketCount)
        {
            _repetitions -= _active[0].IsRepetition ? 1 : 0;
            _count--;
            Array.Copy(_active, 1, _active, 0, _count);
        }
    }

    /// <summary>Nothing more is answered: the queue pair is about to end.</summary>
    public void Clear() => _count = _repetitions = 0;

    private bool TryRepeat(in ReadOperation stored, uint psn, in Reth reth, int mtuBytes, bool isRest)
    {
        for (int i = 0; i < _count; i++)
        {
            ref ActiveRead active = ref _active[i];
            if (active.Operation.Covers(psn))
            {
                // Still under way: what lies ahead comes anyway, what lies behind is sent again.
                int index = Psn.Distance(active.Operation.FirstPsn, psn);
                if (index < active.Next)
                {
                    (active.Next, active.Start) = (index, index);
                }

                return true;
            }
        }

        if (_repetitions == _stored.Length)
        {
            return false;
        }

        int place = 0;
        while (place < _count && Psn.Compare(_active[place].Operation.FirstPsn, psn) < 0)
        {
            place++;
        }

        Array.Copy(_active, place, _active, place + 1, _count - place);
        _count++;
        _repetitions++;
        ReadOperation repeated = stored;
        repeated.FirstPsn = psn;
        repeated.Address = reth.Va;
        repeated.LengthBytes = reth.Length;
        repeated.PacketCount = Math.Max(1, (int)((reth.Length + (uint)mtuBytes - 1) / (uint)mtuBytes));
        _active[place] = new ActiveRead { Operation = repeated, IsRest = isRest, IsRepetition = true };
        return true;
    }
}
