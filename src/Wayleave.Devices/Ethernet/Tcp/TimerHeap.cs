namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// The connections that wait for a time, the earliest first. A connection whose deadline moved later keeps its place
/// until that is reached: most acknowledgements then cost nothing here.
/// </summary>
internal sealed class TimerHeap
{
    private TcpConnection[] _heap = new TcpConnection[16];

    public int Count { get; private set; }

    /// <summary>Never later than the earliest deadline; <see cref="TimeSpan.MaxValue"/> when there is none.</summary>
    public TimeSpan Deadline => Count == 0 ? TimeSpan.MaxValue : _heap[0].ScheduledAt;

    /// <summary>Notes a deadline. Later ones than the one noted change nothing.</summary>
    public void Note(TcpConnection connection, TimeSpan deadline)
    {
        if (connection.TimerIndex < 0)
        {
            if (deadline == TimeSpan.MaxValue)
            {
                return;
            }

            if (Count == _heap.Length)
            {
                Array.Resize(ref _heap, 2 * Count);
            }

            connection.ScheduledAt = deadline;
            Place(connection, Count++);
            Up(connection.TimerIndex);
        }
        else if (deadline < connection.ScheduledAt)
        {
            connection.ScheduledAt = deadline;
            Up(connection.TimerIndex);
        }
    }

    /// <summary>Takes the first connection if its time has come; its deadline may have moved meanwhile.</summary>
    public bool TryTake(TimeSpan now, out TcpConnection connection)
    {
        connection = Count == 0 ? null! : _heap[0];
        if (Count == 0 || connection.ScheduledAt > now)
        {
            return false;
        }

        Remove(connection);
        return true;
    }

    public void Remove(TcpConnection connection)
    {
        int index = connection.TimerIndex;
        if (index < 0)
        {
            return;
        }

        connection.TimerIndex = -1;
        Count--;
        TcpConnection last = _heap[Count];
        _heap[Count] = null!;
        if (!ReferenceEquals(last, connection))
        {
            Place(last, index);
            Up(index);
            Down(last.TimerIndex);
        }
    }

    private void Up(int index)
    {
        TcpConnection connection = _heap[index];
        while (index > 0)
        {
            int parent = (index - 1) / 2;
            if (_heap[parent].ScheduledAt <= connection.ScheduledAt)
            {
                break;
            }

            Place(_heap[parent], index);
            index = parent;
        }

        Place(connection, index);
    }

    private void Down(int index)
    {
        TcpConnection connection = _heap[index];
        while ((2 * index) + 1 < Count)
        {
            int child = (2 * index) + 1;
            child += child + 1 < Count && _heap[child + 1].ScheduledAt < _heap[child].ScheduledAt ? 1 : 0;
            if (_heap[child].ScheduledAt >= connection.ScheduledAt)
            {
                break;
            }

            Place(_heap[child], index);
            index = child;
        }

        Place(connection, index);
    }

    private void Place(TcpConnection connection, int index)
    {
        _heap[index] = connection;
        connection.TimerIndex = index;
    }
}
