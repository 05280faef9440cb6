namespace Wayleave.Devices.Ethernet.Tcp;

// RFC 9293 SYN-RECEIVED of a passive open. An entry is a few numbers in an array made once: a flood of SYNs costs no
// more memory than silence.

/// <summary>The half-open connections of one listener.</summary>
internal sealed class SynQueue
{
    private static readonly TimeSpan s_retry = TimeSpan.FromSeconds(1);

    private readonly HalfOpen[] _entries;
    private readonly Dictionary<TcpFlow, int> _places;
    private readonly Stack<int> _free;
    private readonly int _retries;
    private int _due;
    private int _cursor;

    public SynQueue(int capacity, int retries)
    {
        _entries = new HalfOpen[capacity];
        _places = new Dictionary<TcpFlow, int>(capacity, new FlowComparer());
        _free = new Stack<int>(capacity);
        _retries = retries;
        for (int i = capacity - 1; i >= 0; i--)
        {
            _free.Push(i);
        }
    }

    public int Count => _places.Count;

    public bool IsFull => _free.Count == 0;

    /// <summary>Answers wait to be sent.</summary>
    public bool HasDue => _due > 0;

    /// <summary>When <see cref="HandleTimeout"/> has something to do. May be early, never late.</summary>
    public TimeSpan Deadline { get; private set; } = TimeSpan.MaxValue;

    /// <summary>The entry at a place that <see cref="Find"/> gave.</summary>
    public ref HalfOpen this[int place] => ref _entries[place];

    /// <summary>The place of a connection's entry, or -1.</summary>
    public int Find(in TcpFlow flow) => _places.TryGetValue(flow, out int place) ? place : -1;

    /// <summary>Remembers a SYN; the caller has looked whether there is room. An answer is due.</summary>
    public void Add(in HalfOpen half)
    {
        int place = _free.Pop();
        _entries[place] = half;
        _entries[place].IsUsed = true;
        _places.Add(half.Flow, place);
        RequestAnswer(ref _entries[place]);
    }

    public void Remove(in TcpFlow flow)
    {
        if (_places.Remove(flow, out int place))
        {
            _due -= _entries[place].IsAnswerDue ? 1 : 0;
            _entries[place] = default;
            _free.Push(place);
            Deadline = Count == 0 ? TimeSpan.MaxValue : Deadline;
        }
    }

    public void RequestAnswer(ref HalfOpen half)
    {
        _due += half.IsAnswerDue ? 0 : 1;
        half.IsAnswerDue = true;
    }

    /// <summary>The next entry whose answer is due; it counts as answered.</summary>
    public bool TryTakeDue(TimeSpan now, out HalfOpen half)
    {
        half = default;
        if (_due == 0)
        {
            return false;
        }

        // From where the last search ended, so that none waits behind the others.
        for (int i = 0; i < _entries.Length; i++)
        {
            _cursor = _cursor + 1 < _entries.Length ? _cursor + 1 : 0;
            ref HalfOpen entry = ref _entries[_cursor];
            if (!entry.IsAnswerDue)
            {
                continue;
            }

            _due--;
            entry.IsAnswerDue = false;
            entry.RetryAt = now + (s_retry * (1 << Math.Min(entry.Attempts, 6)));
            entry.AnsweredAt = entry.Attempts == 0 ? now : entry.AnsweredAt;
            entry.Attempts++;
            Deadline = entry.RetryAt < Deadline ? entry.RetryAt : Deadline;
            half = entry;
            return true;
        }

        throw new InvalidOperationException("an answer is counted as due that no entry has");
    }

    /// <summary>Answers again what had no reaction, and forgets what had none to the last answer.</summary>
    public void HandleTimeout(TimeSpan now)
    {
        if (now < Deadline)
        {
            return;
        }

        Deadline = TimeSpan.MaxValue;
        for (int i = 0; i < _entries.Length; i++)
        {
            ref HalfOpen entry = ref _entries[i];
            if (!entry.IsUsed || entry.IsAnswerDue)
            {
                continue;
            }

            if (entry.RetryAt > now)
            {
                Deadline = entry.RetryAt < Deadline ? entry.RetryAt : Deadline;
            }
            else if (entry.Attempts > _retries)
            {
                Remove(entry.Flow);
            }
            else
            {
                RequestAnswer(ref entry);
            }
        }
    }
}
