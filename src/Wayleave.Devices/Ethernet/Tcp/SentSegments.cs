namespace Wayleave.Devices.Ethernet.Tcp;

// One entry is what left in one piece, up to a super-packet; entries lie in the order of the stream without gaps. An
// entry is cut where the peer's SACK blocks or a retransmission cut it. Bytes are in one of three conditions:
//
//   in flight --SACK--> sacked               (delivered, waits for the cumulative acknowledgement)
//   in flight --late--> lost --sent again--> in flight
//
// The entries live in one array that grows to what the connection needs and then no more.

/// <summary>The scoreboard of RFC 6675, with times: what was sent and not acknowledged.</summary>
internal sealed class SentSegments(int entriesMax)
{
    private const int None = -1;

    private Entry[] _entries = new Entry[8];
    private int _free = None;
    private int _used;
    private int _head = None;
    private int _tail = None;
    private int _retransmittedCount;

    /// <summary>Entries now.</summary>
    public int Count { get; private set; }

    /// <summary>Bytes that the peer holds beyond a gap.</summary>
    public long SackedBytes { get; private set; }

    /// <summary>Bytes given up and not sent again yet.</summary>
    public long LostBytes { get; private set; }

    public bool IsEmpty => _head == None;

    /// <summary>When the oldest entry left, the last time.</summary>
    public TimeSpan OldestSentAt => _entries[_head].SentAt;

    /// <summary>The oldest is one that the peer said it holds: it has forgotten it.</summary>
    public bool IsOldestSacked => _head != None && _entries[_head].IsSacked;

    /// <summary>From the oldest byte to the youngest.</summary>
    public long OutstandingBytes => _head == None ? 0 : _entries[_tail].End - _entries[_head].Start;

    /// <summary>New data left.</summary>
    public void Append(long start, long end, TimeSpan now)
    {
        int index = Allocate();
        _entries[index] = new Entry { Start = start, End = end, SentAt = now, Previous = _tail, Next = None };
        if (_tail == None)
        {
            _head = index;
        }
        else
        {
            _entries[_tail].Next = index;
        }

        _tail = index;
    }

    /// <summary>Everything before <paramref name="una"/> has arrived.</summary>
    public void Acknowledge(long una, TimeSpan now, in RttEstimator rtt, ref Rack rack, ref AckSample sample)
    {
        while (_head != None && _entries[_head].Start < una)
        {
            ref Entry entry = ref _entries[_head];
            long end = Math.Min(entry.End, una);
            if (!entry.IsSacked)
            {
                NoteDelivered(in entry, end, now, in rtt, ref rack, ref sample);
            }

            Forget(ref entry, end - entry.Start);
            if (end < entry.End)
            {
                entry.Start = end;
                break;
            }

            Free(_head);
        }
    }

    /// <summary>The peer holds these bytes. Blocks of one segment are given in ascending order.</summary>
    public void Sack(long left, long right, TimeSpan now, in RttEstimator rtt, ref Rack rack, ref AckSample sample)
    {
        for (int index = _head; index != None && _entries[index].Start < right; index = _entries[index].Next)
        {
            if (_entries[index].End <= left || _entries[index].IsSacked)
            {
                continue;
            }

            if (_entries[index].Start < left)
            {
                if (!TrySplit(index, left))
                {
                    continue;
                }

                index = _entries[index].Next;
            }

            if (_entries[index].End > right && !TrySplit(index, right))
            {
                continue;
            }

            ref Entry entry = ref _entries[index];
            NoteDelivered(in entry, entry.End, now, in rtt, ref rack, ref sample);
            LostBytes -= entry.IsLost ? entry.Length : 0;
            entry.IsLost = false;
            entry.IsSacked = true;
            SackedBytes += entry.Length;
        }
    }

    /// <summary>
    /// RFC 8985 6.2, step 5: gives up what is late. Returns how long until the next one would be, or zero when none is
    /// waited for.
    /// </summary>
    public TimeSpan DetectLosses(TimeSpan now, in Rack rack, TimeSpan reorderingWindow)
    {
        TimeSpan wait = TimeSpan.Zero;
        bool isInOrder = SackedBytes == 0 && _retransmittedCount == 0
            && (_head == None || !rack.IsOvertaken(_entries[_head].SentAt, _entries[_head].End));
        if (isInOrder)
        {
            return wait;
        }

        for (int index = _head; index != None; index = _entries[index].Next)
        {
            ref Entry entry = ref _entries[index];
            if (entry.IsSacked || entry.IsLost || !rack.IsOvertaken(entry.SentAt, entry.End))
            {
                continue;
            }

            TimeSpan remaining = entry.SentAt + rack.RoundTrip + reorderingWindow - now;
            if (remaining <= TimeSpan.Zero)
            {
                MarkLost(ref entry);
            }
            else
            {
                wait = remaining > wait ? remaining : wait;
            }
        }

        return wait;
    }

    /// <summary>A time-out: whatever the peer is not known to hold is given up.</summary>
    public void MarkAllLost()
    {
        for (int index = _head; index != None; index = _entries[index].Next)
        {
            MarkLost(ref _entries[index]);
        }
    }

    /// <summary>Three duplicate acknowledgements of a peer without SACK: the first segment is given up.</summary>
    public void MarkFirstLost(int segmentBytes)
    {
        if (_head == None || _entries[_head].IsLost)
        {
            return;
        }

        if (_entries[_head].Length > segmentBytes)
        {
            TrySplit(_head, _entries[_head].Start + segmentBytes);
        }

        MarkLost(ref _entries[_head]);
    }

    /// <summary>
    /// The peer forgot what it had announced (RFC 2018 section 8); after a time-out nothing of it counts.
    /// </summary>
    public void ForgetSacks()
    {
        for (int index = _head; index != None; index = _entries[index].Next)
        {
            _entries[index].IsSacked = false;
        }

        SackedBytes = 0;
    }

    /// <summary>The first run of bytes that was given up; false when there is none.</summary>
    public bool TryGetLost(out long start, out long end)
    {
        int index = FindLost();
        (start, end) = index == None ? (0, 0) : (_entries[index].Start, _entries[index].End);
        return index != None;
    }

    /// <summary>The first <paramref name="length"/> bytes of what <see cref="TryGetLost"/> told leave again.</summary>
    public void Retransmit(long length, TimeSpan now)
    {
        int index = FindLost();
        if (_entries[index].Length > length)
        {
            // An entry that cannot be cut any more counts as sent whole; what is missing of it will be late again.
            TrySplit(index, _entries[index].Start + length);
        }

        ref Entry entry = ref _entries[index];
        LostBytes -= entry.Length;
        entry.IsLost = false;
        MarkSentAgain(ref entry, now);
    }

    /// <summary>The end of the stream leaves again, as a probe (RFC 8985 7.3); at most a segment of it.</summary>
    public void RetransmitLast(int segmentBytes, TimeSpan now, out long start, out long end)
    {
        if (_entries[_tail].Length > segmentBytes)
        {
            TrySplit(_tail, _entries[_tail].End - segmentBytes);
        }

        ref Entry entry = ref _entries[_tail];
        if (entry.IsLost)
        {
            LostBytes -= entry.Length;
            entry.IsLost = false;
        }

        MarkSentAgain(ref entry, now);
        (start, end) = (entry.Start, Math.Min(entry.End, entry.Start + segmentBytes));
    }

    /// <summary>Nothing is outstanding any more.</summary>
    public void Clear()
    {
        _head = _tail = _free = None;
        _used = Count = _retransmittedCount = 0;
        SackedBytes = LostBytes = 0;
    }

    private static void NoteDelivered(
        in Entry entry, long end, TimeSpan now, in RttEstimator rtt, ref Rack rack, ref AckSample sample)
    {
        rack.HandleDelivered(entry.SentAt, end, entry.IsRetransmitted, now, rtt.Least);
        sample.DeliveredBytes += end - entry.Start;
        if (entry.IsRetransmitted)
        {
            sample.HasRetransmitted = true;
        }
        else if (!sample.HasRoundTrip || entry.SentAt > sample.SentAt)
        {
            (sample.HasRoundTrip, sample.SentAt) = (true, entry.SentAt);
        }
    }

    private void Forget(ref readonly Entry entry, long length)
    {
        SackedBytes -= entry.IsSacked ? length : 0;
        LostBytes -= entry.IsLost ? length : 0;
    }

    private int FindLost()
    {
        if (LostBytes == 0)
        {
            return None;
        }

        int index = _head;
        while (index != None && !_entries[index].IsLost)
        {
            index = _entries[index].Next;
        }

        return index;
    }

    private void MarkLost(ref Entry entry)
    {
        if (!entry.IsSacked && !entry.IsLost)
        {
            entry.IsLost = true;
            LostBytes += entry.Length;
        }
    }

    private void MarkSentAgain(ref Entry entry, TimeSpan now)
    {
        _retransmittedCount += entry.IsRetransmitted ? 0 : 1;
        entry.IsRetransmitted = true;
        entry.SentAt = now;
    }

    // A peer that acknowledges byte by byte would make an entry of each byte: beyond the limit nothing is cut.
    private bool TrySplit(int index, long at)
    {
        if (Count >= entriesMax)
        {
            return false;
        }

        int right = Allocate();
        ref Entry left = ref _entries[index];
        _entries[right] = left with { Start = at, Previous = index };
        left.End = at;
        if (left.Next == None)
        {
            _tail = right;
        }
        else
        {
            _entries[left.Next].Previous = right;
        }

        left.Next = right;
        _retransmittedCount += left.IsRetransmitted ? 1 : 0;
        return true;
    }

    private int Allocate()
    {
        Count++;
        if (_free != None)
        {
            int reused = _free;
            _free = _entries[reused].Next;
            return reused;
        }

        if (_used == _entries.Length)
        {
            Array.Resize(ref _entries, 2 * _entries.Length);
        }

        return _used++;
    }

    // Only the head is ever freed.
    private void Free(int index)
    {
        ref Entry entry = ref _entries[index];
        _retransmittedCount -= entry.IsRetransmitted ? 1 : 0;
        _head = entry.Next;
        if (_head == None)
        {
            _tail = None;
        }
        else
        {
            _entries[_head].Previous = None;
        }

        entry.Next = _free;
        _free = index;
        Count--;
    }

    private struct Entry
    {
        public long Start;
        public long End;
        public TimeSpan SentAt;
        public int Next;
        public int Previous;
        public bool IsSacked;
        public bool IsLost;
        public bool IsRetransmitted;

        public readonly long Length => End - Start;
    }
}

/// <summary>What one acknowledgement said about the network.</summary>
internal struct AckSample
{
    /// <summary>Bytes that this acknowledgement was the first to tell of, selectively or not.</summary>
    public long DeliveredBytes;

    /// <summary>Something sent only once is among them: Karn allows a sample.</summary>
    public bool HasRoundTrip;

    /// <summary>When the youngest of those left.</summary>
    public TimeSpan SentAt;

    /// <summary>Something sent again is among them.</summary>
    public bool HasRetransmitted;
}
