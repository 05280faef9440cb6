namespace Wayleave.Devices.Ethernet.Tcp;

// What came too early, as ranges of the stream with the fragments that hold their bytes. Ranges are sorted and neither
// touch nor overlap. The first copy of a byte is kept: a later one that differs changes nothing (and a device that has
// placed it elsewhere gets the chunk back). One reference of each kept piece is ours.
//
//   RCV.NXT        range 0            range 1
//   ----|          |=======|          |====|          each range: a list of pieces, and when it last grew
//
// Pieces live in one array that grows to what the connection needs and then no more.

/// <summary>The reassembly queue of one connection (RFC 9293 3.10.7.4, RFC 2018).</summary>
internal sealed class Assembler(int rangesMax)
{
    private const int None = -1;

    private readonly Range[] _ranges = new Range[rangesMax + 1];
    private Piece[] _pieces = new Piece[8];
    private int _free = None;
    private int _used;
    private ulong _clock;

    /// <summary>Ranges now; at most as many as were allowed.</summary>
    public int Count { get; private set; }

    /// <summary>Bytes held.</summary>
    public long HeldBytes { get; private set; }

    /// <summary>Where the last range ends; 0 without one.</summary>
    public long End => Count == 0 ? 0 : _ranges[Count - 1].End;

    public long GetStart(int index) => _ranges[index].Start;

    public long GetEnd(int index) => _ranges[index].End;

    /// <summary>Greater for a range that grew later.</summary>
    public ulong GetAge(int index) => _ranges[index].Age;

    /// <summary>
    /// Keeps what is new of bytes that begin at <paramref name="start"/>, beyond the next one awaited.
    /// </summary>
    /// <param name="start">Position of the first byte.</param>
    /// <param name="length">May be less than the fragments hold, at their end.</param>
    /// <param name="skip">Bytes of the fragments before the first that counts.</param>
    /// <param name="fragments">What is kept of them is retained.</param>
    /// <param name="duplicate">The first run of bytes that was held already; empty when none was.</param>
    /// <returns>Bytes kept.</returns>
    public long Insert(
        long start,
        long length,
        long skip,
        ReadOnlySpan<PayloadFragment> fragments,
        out (long Left, long Right) duplicate)
    {
        duplicate = default;
        long end = start + length, cursor = start, kept = 0;
        for (int i = 0; i < Count && cursor < end; i++)
        {
            if (_ranges[i].End <= cursor)
            {
                continue;
            }

            if (_ranges[i].Start >= end)
            {
                break;
            }

            if (_ranges[i].Start > cursor)
            {
                long gapEnd = _ranges[i].Start;
                kept += Keep(cursor, gapEnd, skip + (cursor - start), fragments);
                cursor = gapEnd;
                i = IndexOf(cursor); // ranges have moved or merged
                if (i < 0)
                {
                    break; // the limit took the range away
                }
            }

            long overlapEnd = Math.Min(_ranges[i].End, end);
            duplicate = duplicate.Right > duplicate.Left ? duplicate : (cursor, overlapEnd);
            cursor = Math.Max(cursor, overlapEnd);
        }

        if (cursor < end)
        {
            kept += Keep(cursor, end, skip + (cursor - start), fragments);
        }

        return kept;
    }

    /// <summary>
    /// Hands over what follows <paramref name="next"/> without a gap, references included, and moves it on.
    /// </summary>
    public void Take(ref long next, DevmemReceiveQueue queue)
    {
        while (Count > 0 && _ranges[0].Start <= next)
        {
            Range range = _ranges[0];
            RemoveAt(0);
            HeldBytes -= range.End - range.Start;
            long at = range.Start;
            for (int index = range.First; index != None;)
            {
                PayloadFragment fragment = _pieces[index].Fragment;
                int following = _pieces[index].Next;
                Free(index);
                Deliver(fragment, ref at, next, queue);
                index = following;
            }

            next = Math.Max(next, range.End);
        }
    }

    /// <summary>Lets go of everything.</summary>
    public void Clear()
    {
        while (Count > 0)
        {
            Drop(Count - 1);
        }
    }

    /// <summary>Whether a piece of what is held is in that binding's memory.</summary>
    public bool HoldsOf(MemoryBinding binding)
    {
        for (int i = 0; i < Count; i++)
        {
            for (int index = _ranges[i].First; index != None; index = _pieces[index].Next)
            {
                if (ReferenceEquals(_pieces[index].Fragment.Pool.Binding, binding))
                {
                    return true;
                }
            }
        }

        return false;
    }

    // What the in-order segment has brought already is not delivered twice.
    private static void Deliver(PayloadFragment fragment, ref long at, long next, DevmemReceiveQueue queue)
    {
        long end = at + fragment.LengthBytes;
        if (end <= next)
        {
            fragment.Release();
        }
        else
        {
            int cut = (int)Math.Max(next - at, 0);
            queue.Append(cut == 0 ? fragment : fragment.Slice(cut, fragment.LengthBytes - cut));
        }

        at = end;
    }

    // The range that holds or begins at a position.
    private int IndexOf(long position)
    {
        for (int i = 0; i < Count; i++)
        {
            if (_ranges[i].Start <= position && position < _ranges[i].End)
            {
                // A gap that was filled merged with the range behind it: the caller goes on behind the gap.
                return i;
            }
        }

        return -1;
    }

    private long Keep(long start, long end, long skip, ReadOnlySpan<PayloadFragment> fragments)
    {
        Range range = new() { Start = start, End = end, First = None, Last = None, Age = ++_clock };
        foreach (PayloadFragment fragment in fragments)
        {
            if (skip >= fragment.LengthBytes)
            {
                skip -= fragment.LengthBytes;
                continue;
            }

            int length = (int)Math.Min(fragment.LengthBytes - skip, end - start);
            if (length == 0)
            {
                break;
            }

            PayloadFragment piece = fragment.Slice((int)skip, length);
            piece.Retain();
            Push(ref range, piece);
            start += length;
            skip = 0;
        }

        HeldBytes += range.End - range.Start;
        return Add(range) ? range.End - range.Start : 0;
    }

    private bool Add(Range range)
    {
        int at = 0;
        while (at < Count && _ranges[at].Start < range.Start)
        {
            at++;
        }

        bool joinsLeft = at > 0 && _ranges[at - 1].End == range.Start;
        bool joinsRight = at < Count && _ranges[at].Start == range.End;
        if (joinsLeft)
        {
            Join(at - 1, range);
            if (joinsRight)
            {
                Range right = _ranges[at];
                RemoveAt(at);
                Join(at - 1, right with { Age = range.Age });
            }

            return true;
        }

        if (joinsRight)
        {
            Range right = _ranges[at];
            _ranges[at] = range;
            Join(at, right with { Age = range.Age });
            return true;
        }

        Array.Copy(_ranges, at, _ranges, at + 1, Count - at);
        _ranges[at] = range;
        Count++;
        if (Count <= rangesMax)
        {
            return true;
        }

        // The farthest gives way: it is the one that will be sent again last (wire limit, not renounced lightly).
        bool isOwn = at == Count - 1;
        Drop(Count - 1);
        return !isOwn;
    }

    private void Join(int index, Range range)
    {
        ref Range left = ref _ranges[index];
        left.End = range.End;
        left.Age = range.Age;
        _pieces[left.Last].Next = range.First;
        left.Last = range.Last;
    }

    private void RemoveAt(int index)
    {
        Count--;
        Array.Copy(_ranges, index + 1, _ranges, index, Count - index);
        _ranges[Count] = default;
    }

    private void Drop(int index)
    {
        Range range = _ranges[index];
        RemoveAt(index);
        HeldBytes -= range.End - range.Start;
        for (int piece = range.First; piece != None;)
        {
            int following = _pieces[piece].Next;
            _pieces[piece].Fragment.Release();
            Free(piece);
            piece = following;
        }
    }

    private void Push(ref Range range, PayloadFragment fragment)
    {
        int index = _free;
        if (index != None)
        {
            _free = _pieces[index].Next;
        }
        else
        {
            if (_used == _pieces.Length)
            {
                Array.Resize(ref _pieces, 2 * _pieces.Length);
            }

            index = _used++;
        }

        _pieces[index] = new Piece { Fragment = fragment, Next = None };
        if (range.Last == None)
        {
            range.First = index;
        }
        else
        {
            _pieces[range.Last].Next = index;
        }

        range.Last = index;
    }

    private void Free(int index)
    {
        _pieces[index] = new Piece { Next = _free };
        _free = index;
    }

    private struct Range
    {
        public long Start;
        public long End;
        public int First;
        public int Last;
        public ulong Age;
    }

    private struct Piece
    {
        public PayloadFragment Fragment;
        public int Next;
    }
}
