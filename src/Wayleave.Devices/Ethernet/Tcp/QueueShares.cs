namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>The room of each receive queue, shared by the connections that arrive there.</summary>
internal sealed class QueueShares(IReceiveRoom room)
{
    private int[] _connections = new int[16];

    public void Add(int queue)
    {
        if (queue >= _connections.Length)
        {
            Array.Resize(ref _connections, Math.Max(queue + 1, 2 * _connections.Length));
        }

        _connections[queue]++;
    }

    public void Remove(int queue) => _connections[queue]--;

    /// <summary>What one connection may promise: its part, so that all promises together can be kept.</summary>
    public long GetRoom(int queue)
    {
        int sharers = queue < _connections.Length ? Math.Max(_connections[queue], 1) : 1;
        return room.GetReceiveRoomBytes(queue) / sharers;
    }
}
