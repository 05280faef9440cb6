namespace Wayleave.Devices.Ethernet.Steering;

/// <summary>
/// What to change of an RSS context; null leaves a part as it is (<c>ethtool -X</c>, <c>struct ethtool_rxfh_param</c>).
/// </summary>
public sealed record RssChange
{
    /// <summary>
    /// A queue for each entry. Of the table's size; a device whose table follows its channels also takes a shorter one
    /// that fills the table when it is repeated. An empty one goes back to the default.
    /// </summary>
    public IReadOnlyList<int>? Table { get; init; }

    /// <summary><see cref="ToeplitzKey.Size"/> bytes.</summary>
    public ReadOnlyMemory<byte>? Key { get; init; }

    public RssTransform? Transform { get; init; }

    /// <summary>
    /// A table that goes round <paramref name="count"/> queues from <paramref name="start"/> on (<c>-X ... start N
    /// equal M</c>).
    /// </summary>
    public static RssChange Equal(int count, int tableSize, int start = 0) =>
        new() { Table = [.. Enumerable.Range(0, tableSize).Select(i => start + (i % count))] };
}

/// <summary>
/// One way of spreading flows over queues: an indirection table and a key. Context 0 always exists; the others are used
/// by rules that name them. Port token held by the caller.
/// </summary>
public sealed class RssContext
{
    private int[] _table;

    internal RssContext(int id, int tableSize, int queues)
    {
        Id = id;
        _table = new int[tableSize];
        FillDefault(queues);
    }

    public int Id { get; }

    /// <summary>The queue of each entry, which the low bits of the hash choose. A power of two long.</summary>
    public ReadOnlySpan<int> Table => _table;

    public ToeplitzKey Key { get; internal set; } = ToeplitzKey.Default;

    public RssTransform Transform { get; internal set; }

    /// <summary>How many entries the user gave; 0 for the default table (<c>indir_user_size</c>).</summary>
    public int UserEntries { get; private set; }

    /// <summary>The highest queue that a table given by the user leads to; -1 for the default table.</summary>
    public int QueueMax
    {
        get
        {
            int highest = -1;
            for (int i = 0; i < _table.Length && UserEntries > 0; i++)
            {
                highest = Math.Max(highest, _table[i]);
            }

            return highest;
        }
    }

    internal int Lookup(uint hash) => _table[hash & (uint)(_table.Length - 1)];

    internal bool LeadsTo(int queue) => Array.IndexOf(_table, queue) >= 0;

    // ethtool_rxfh_indir_default
    internal void FillDefault(int queues)
    {
        UserEntries = 0;
        for (int i = 0; i < _table.Length; i++)
        {
            _table[i] = i % queues;
        }
    }

    internal void Fill(IReadOnlyList<int> entries)
    {
        UserEntries = entries.Count;
        for (int i = 0; i < _table.Length; i++)
        {
            _table[i] = entries[i % entries.Count];
        }
    }

    // ethtool_rxfh_can_resize: a table that the user gave is folded or repeated, and never loses an entry.
    internal bool CanResize(int size)
    {
        if (UserEntries == 0 || size == _table.Length)
        {
            return true;
        }

        if (size > _table.Length)
        {
            return size % _table.Length == 0;
        }

        bool isPeriodic = size >= UserEntries && _table.Length % size == 0;
        for (int i = size; isPeriodic && i < _table.Length; i++)
        {
            isPeriodic = _table[i] == _table[i % size];
        }

        return isPeriodic;
    }

    internal void Resize(int size, int queues)
    {
        int[] before = _table;
        _table = new int[size];
        if (UserEntries == 0)
        {
            FillDefault(queues);
            return;
        }

        for (int i = 0; i < size; i++)
        {
            _table[i] = before[i % before.Length];
        }
    }
}
