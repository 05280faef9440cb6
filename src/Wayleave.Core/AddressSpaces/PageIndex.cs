namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// Which of a number of pages are free. One at a time comes the one that was given back last; many at once come in runs
/// that lie next to each other, so that what is copied to them is one piece. Host lock held.
/// </summary>
internal sealed class PageIndex
{
    private readonly bool[] _isFree;
    private readonly bool[] _isStacked; // so that the stack holds each page once, although some on it are in use
    private readonly Stack<int> _stack;

    /// <param name="count">All free.</param>
    public PageIndex(int count)
    {
        (_isFree, _isStacked) = (new bool[count], new bool[count]);
        _stack = new Stack<int>(count);
        for (int i = count - 1; i >= 0; i--)
        {
            Return(i);
        }
    }

    public int FreeCount { get; private set; }

    /// <summary>One page, or -1.</summary>
    public int TakeOne()
    {
        while (_stack.TryPop(out int index))
        {
            _isStacked[index] = false;
            if (_isFree[index])
            {
                Take(index, 1);
                return index;
            }
        }

        return -1;
    }

    /// <summary>Exactly so many next to each other, on a boundary of their number; the first, or -1.</summary>
    public int TakeAligned(int count)
    {
        int first = FindAligned(count);
        if (first >= 0)
        {
            Take(first, count);
        }

        return first;
    }

    /// <summary>What <see cref="TakeAligned"/> would take.</summary>
    public int FindAligned(int count)
    {
        for (int first = 0; first + count <= _isFree.Length; first += count)
        {
            if (_isFree.AsSpan(first, count).IndexOf(false) < 0)
            {
                return first;
            }
        }

        return -1;
    }

    /// <summary>The next free run at or behind <paramref name="cursor"/>, at most so long.</summary>
    /// <param name="most">How many are wanted.</param>
    /// <param name="cursor">0 at first; behind the run afterwards.</param>
    /// <param name="first">The first of them.</param>
    /// <returns>How many there are: 0 when none is left behind the cursor.</returns>
    public int TakeRun(int most, ref int cursor, out int first)
    {
        int skipped = _isFree.AsSpan(cursor).IndexOf(true);
        first = cursor + skipped;
        if (skipped < 0)
        {
            cursor = _isFree.Length;
            return 0;
        }

        Span<bool> from = _isFree.AsSpan(first, Math.Min(most, _isFree.Length - first));
        int end = from.IndexOf(false);
        int count = end < 0 ? from.Length : end;
        Take(first, count);
        cursor = first + count;
        return count;
    }

    /// <summary>So many next to each other are free again.</summary>
    public void ReturnRun(int first, int count)
    {
        _isFree.AsSpan(first, count).Fill(true);
        FreeCount += count;
        while (_isStacked.AsSpan(first, count).IndexOf(false) is var skipped and >= 0)
        {
            (first, count) = (first + skipped, count - skipped);
            _isStacked[first] = true;
            _stack.Push(first);
        }
    }

    public void Return(int index)
    {
        _isFree[index] = true;
        FreeCount++;
        if (!_isStacked[index])
        {
            _isStacked[index] = true;
            _stack.Push(index);
        }
    }

    private void Take(int first, int count)
    {
        _isFree.AsSpan(first, count).Clear();
        FreeCount -= count;
    }
}
