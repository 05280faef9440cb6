namespace Wayleave.Devices.Ethernet.Tcp;

// Windows are promised from chunks. Two queues may place payload in the same ones, a queue may get others, and a
// connection may move from one queue to another: so each is counted where its last segment was placed.
//
//   room = min(what is free, a share of all there is - what the connection holds)
//
// What a peer was promised cannot be taken back, so no connection may be promised what another may come to need: a
// share is of all chunks and not of those that happen to be free, and a reader who keeps tokens uses up its own.

/// <summary>One memory that receive queues place payload in.</summary>
internal sealed class RoomAccount(object memory)
{
    public object Memory => memory;

    /// <summary>Connections whose segments come there.</summary>
    public int Connections { get; set; }
}

/// <summary>What each connection may promise of the memory that its segments are placed in.</summary>
internal sealed class RoomShares(IReceiveRoom room)
{
    private readonly Dictionary<object, RoomAccount> _accounts = new(ReferenceEqualityComparer.Instance);

    public void Add(TcpConnection connection) => connection.Room = Join(room.GetReceiveMemory(connection.Queue));

    public void Remove(TcpConnection connection)
    {
        Leave(connection.Room!);
        connection.Room = null;
    }

    /// <summary>Bytes that a connection may have under way.</summary>
    public long GetRoom(TcpConnection connection)
    {
        RoomAccount account = Follow(connection);
        long share = room.GetReceiveCapacityBytes(connection.Queue) / account.Connections;
        long held = connection.Received.HeldBytes + connection.Receiver.OutOfOrderBytes;

        // At least a segment: with a share of less nobody would ever be offered anything.
        share = Math.Max(share, connection.Receiver.SegmentBytes);
        return Math.Min(room.GetReceiveRoomBytes(connection.Queue), Math.Max(share - held, 0));
    }

    /// <summary>The same for somebody new who comes by a queue.</summary>
    public long GetRoom(int queue)
    {
        int sharers = 1 + (_accounts.GetValueOrDefault(room.GetReceiveMemory(queue))?.Connections ?? 0);
        return Math.Min(room.GetReceiveRoomBytes(queue), room.GetReceiveCapacityBytes(queue) / sharers);
    }

    // The connection came by another queue, or its queue was bound to something else.
    private RoomAccount Follow(TcpConnection connection)
    {
        RoomAccount account = connection.Room!;
        object memory = room.GetReceiveMemory(connection.Queue);
        if (ReferenceEquals(account.Memory, memory))
        {
            return account;
        }

        Leave(account);
        return connection.Room = Join(memory);
    }

    private RoomAccount Join(object memory)
    {
        if (!_accounts.TryGetValue(memory, out RoomAccount? account))
        {
            account = new RoomAccount(memory);
            _accounts.Add(memory, account);
        }

        account.Connections++;
        return account;
    }

    private void Leave(RoomAccount account)
    {
        if (--account.Connections == 0)
        {
            _accounts.Remove(account.Memory);
        }
    }
}
