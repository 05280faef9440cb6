namespace Wayleave.Core.PeerMemory;

/// <summary>
/// Which pages of a range are free: runs in address order that never touch each other. First fit, as the bitmap of a
/// <c>gen_pool</c> chunk. Numbers are pages from the start of the range.
/// </summary>
internal sealed class PageRuns
{
    public const ulong PageBytes = 4096;

    private readonly List<(ulong First, ulong Count)> _free;

    public PageRuns(ulong pages) => (_free, Pages, FreePages) = ([(0, pages)], pages, pages);

    public ulong Pages { get; }

    public ulong FreePages { get; private set; }

    /// <summary>How many pages hold so many bytes; not more than the pages of 2^64 bytes.</summary>
    public static ulong PagesOf(ulong bytes) => (bytes / PageBytes) + (bytes % PageBytes == 0 ? 0UL : 1UL);

    /// <returns>False when no run is long enough.</returns>
    public bool TryTake(ulong count, out ulong first)
    {
        int index = _free.FindIndex(r => r.Count >= count);
        if (index < 0)
        {
            first = 0;
            return false;
        }

        (first, ulong length) = _free[index];
        if (length == count)
        {
            _free.RemoveAt(index);
        }
        else
        {
            _free[index] = (first + count, length - count);
        }

        FreePages -= count;
        return true;
    }

    /// <exception cref="InvalidOperationException">A page of it is free already: two users would get it.</exception>
    public void Return(ulong first, ulong count)
    {
        int next = _free.FindIndex(r => r.First + r.Count > first);
        next = next < 0 ? _free.Count : next;
        if (first + count > Pages || (next < _free.Count && _free[next].First < first + count))
        {
            throw new InvalidOperationException($"pages {first}+{count} of {Pages} are not all in use");
        }

        FreePages += count;
        if (next < _free.Count && _free[next].First == first + count)
        {
            count += _free[next].Count;
            _free.RemoveAt(next);
        }

        if (next > 0 && _free[next - 1].First + _free[next - 1].Count == first)
        {
            _free[next - 1] = (_free[next - 1].First, _free[next - 1].Count + count);
        }
        else
        {
            _free.Insert(next, (first, count));
        }
    }
}
