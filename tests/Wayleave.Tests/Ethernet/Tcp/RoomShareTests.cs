using Wayleave.Core;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>What several connections may be promised of memory that they share.</summary>
public sealed class RoomShareTests
{
    private const int Capacity = 1 << 20;

    private readonly Room _room = new();
    private readonly TcpEndpoint _endpoint;

    public RoomShareTests() =>
        _endpoint = new TcpEndpoint(new TcpEndpointOptions(), new byte[16], Choices.Seeded(1), _room);

    [Fact]
    public void Two_queues_with_the_same_memory_promise_it_once()
    {
        TcpConnection[] connections = [.. Enumerable.Range(0, 4).Select(i => Connect(i, queue: i % 2))];
        Assert.All(connections, c => Assert.Equal(Capacity / 4, _endpoint.GetRoom(c)));
    }

    [Fact]
    public void A_connection_that_moves_to_other_memory_leaves_its_share_behind()
    {
        TcpConnection[] connections = [.. Enumerable.Range(0, 4).Select(i => Connect(i, queue: 0))];
        Arrive(connections[3], queue: 7);
        Assert.Equal(Capacity, _endpoint.GetRoom(connections[3]));
        Assert.Equal(Capacity / 3, _endpoint.GetRoom(connections[0]));
        connections[0].Abort();
        Assert.Equal(Capacity / 2, _endpoint.GetRoom(connections[1]));
    }

    [Fact]
    public void Connections_that_a_rule_sends_elsewhere_share_that_memory_before_their_next_segment()
    {
        TcpConnection[] connections = [.. Enumerable.Range(0, 4).Select(i => Connect(i, queue: 0))];
        _room.Steered = 7;
        _room.Version++;
        Assert.All(connections, c => Assert.Equal(Capacity / 4, _endpoint.GetRoom(c)));
        Assert.All(connections, c => Assert.Equal(7, c.Queue));
        TcpConnection alone = Connect(4, queue: 0);
        Assert.Equal(Capacity, _endpoint.GetRoom(alone));
        Assert.Equal(Capacity / 4, _endpoint.GetRoom(connections[0]));
    }

    [Fact]
    public void A_queue_that_is_bound_to_other_memory_takes_its_connections_along()
    {
        TcpConnection first = Connect(0, queue: 0), second = Connect(1, queue: 1);
        _room.Elsewhere = 1;
        Assert.Equal((Capacity, Capacity), (_endpoint.GetRoom(second), _endpoint.GetRoom(first)));
    }

    [Fact]
    public void No_share_is_less_than_a_segment_and_none_is_more_than_there_is()
    {
        TcpConnection[] connections = [.. Enumerable.Range(0, 5000).Select(i => Connect(i, queue: 0))];
        Assert.Equal(536, _endpoint.GetRoom(connections[0]));
        _room.Free = 100;
        Assert.Equal(100, _endpoint.GetRoom(connections[0]));
    }

    private TcpConnection Connect(int index, int queue)
    {
        Assert.Equal(
            Errno.Success,
            _endpoint.Connect(
                TimeSpan.Zero,
                IpAddress.FromIPv4(0x0A000001),
                (ushort)(1000 + index),
                IpAddress.FromIPv4(0x0A000002),
                80,
                out TcpConnection? connection));
        Arrive(connection!, queue);
        _endpoint.GetRoom(connection!); // counted where it arrives
        return connection!;
    }

    // A reset without a number is no answer to a SYN: nothing happens but that it came.
    private void Arrive(TcpConnection connection, int queue) => _endpoint.HandleSegment(
        TimeSpan.Zero, connection.Flow, new TcpSegment { Sequence = 0, Flags = TcpFlags.Rst, Queue = queue });

    private sealed class Room : IReceiveRoom
    {
        private readonly object _shared = new();
        private readonly object _other = new();

        public long Free { get; set; } = Capacity;

        public int Elsewhere { get; set; } = 7;

        public long Version { get; set; }

        /// <summary>Where every connection is steered to.</summary>
        public int? Steered { get; set; }

        public int GetQueue(in TcpFlow flow, int last) => Steered ?? last;

        public long GetReceiveRoomBytes(int queue) => Free;

        public long GetReceiveCapacityBytes(int queue) => Capacity;

        public object GetReceiveMemory(int queue) => queue == Elsewhere ? _other : _shared;
    }
}
