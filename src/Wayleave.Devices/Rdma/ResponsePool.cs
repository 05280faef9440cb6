namespace Wayleave.Devices.Rdma;

// Room grows where it is too small, and stays as large: after a while there is as much as was ever needed at a time,
// and nothing is allocated any more.

/// <summary>
/// Room for answers under way, of the queue pairs of a port: most have none, and hold nothing. Port token held by the
/// caller.
/// </summary>
internal sealed class ResponsePool
{
    private const int CapacityMin = 4;

    private readonly Stack<ActiveResponse[]> _free = new();

    /// <summary>Room that nobody has at present.</summary>
    public int FreeCount => _free.Count;

    /// <summary>Room for one answer more than <paramref name="room"/> has, if that is full.</summary>
    /// <param name="room">What the queue pair has; empty when it has nothing yet.</param>
    /// <param name="count">How much of it is used.</param>
    public ActiveResponse[] Widen(ActiveResponse[] room, int count)
    {
        if (count < room.Length)
        {
            return room;
        }

        if (room.Length == 0 && _free.TryPop(out ActiveResponse[]? free))
        {
            return free;
        }

        ActiveResponse[] wider = new ActiveResponse[Math.Max(CapacityMin, 2 * room.Length)];
        room.AsSpan(0, count).CopyTo(wider);
        return wider;
    }

    /// <summary>It is not used any more by who had it.</summary>
    public void Return(ActiveResponse[] room) => _free.Push(room);
}
