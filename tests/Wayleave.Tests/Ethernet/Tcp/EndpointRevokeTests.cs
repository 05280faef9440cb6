using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>What an endpoint does with its connections when memory is taken back that holds their bytes.</summary>
public sealed class EndpointRevokeTests : IReceiveRoom
{
    private const int Length = 1000;

    private static readonly IpAddress s_us = IpAddress.FromIPv4(0x0A000001);
    private static readonly IpAddress s_them = IpAddress.FromIPv4(0x0A000002);

    private readonly PoolFixture _memory = new(), _other = new();
    private readonly TcpEndpoint _endpoint;
    private readonly TcpListener _listener;

    public EndpointRevokeTests()
    {
        _endpoint = new TcpEndpoint(new TcpEndpointOptions(), new byte[16], Choices.Seeded(1), this);
        Assert.Equal(Errno.Success, _endpoint.Listen(null, 80, 10, out TcpListener? listener));
        _listener = listener!;
    }

    [Fact]
    public void Whoever_holds_unread_bytes_there_is_reset_and_nobody_else()
    {
        TcpConnection holder = Open(1), reader = Open(2), elsewhere = Open(3), idle = Open(4);
        Arrive(holder, 1, _memory.Pool);
        Arrive(reader, 1, _memory.Pool);
        Arrive(elsewhere, 1, _other.Pool);
        DevmemFragment[] taken = new DevmemFragment[1];
        Assert.Equal(
            Errno.Success, reader.Received.Receive(ReceiveFlags.Devmem, Length, [], taken, out ReceiveResult _));
        Answers();

        Assert.Equal(1, _endpoint.HandleRevoked(TimeSpan.Zero, _memory.Binding));

        Assert.Equal((TcpState.Closed, Errno.ECONNRESET), (holder.State, holder.Error));
        Assert.All([reader, elsewhere, idle], c => Assert.Equal(TcpState.Established, c.State));
        Assert.Equal((1, 1), (_endpoint.Stats.Revoked, Answers().Count(f => (f & TcpFlags.Rst) != 0)));
        Assert.Equal(1, _memory.Pool.LiveChunks); // the reader's token; it fails by itself
        Assert.Equal(Length, elsewhere.Received.UnreadBytes);
        Assert.Equal(0, _endpoint.HandleRevoked(TimeSpan.Zero, _memory.Binding));
    }

    [Fact]
    public void What_came_too_early_is_forgotten_and_may_come_again()
    {
        TcpConnection early = Open(1), elsewhere = Open(2);
        Arrive(early, 1 + Length, _memory.Pool);
        Arrive(elsewhere, 1 + Length, _other.Pool);
        Assert.Equal((Length, 1), (early.Info.OutOfOrderBytes, _memory.Pool.LiveChunks));

        Assert.Equal(0, _endpoint.HandleRevoked(TimeSpan.Zero, _memory.Binding));

        Assert.Equal((0, 0), (early.Info.OutOfOrderBytes, _memory.Pool.LiveChunks));
        Assert.Equal(Length, elsewhere.Info.OutOfOrderBytes);
        Assert.Equal(TcpState.Established, early.State);

        // The peer sends it again, in host memory now; nothing is missing.
        Arrive(early, 1, _memory.HostPool);
        Arrive(early, 1 + Length, _memory.HostPool);
        Assert.Equal(2 * Length, early.Received.UnreadBytes);
    }

    [Fact]
    public void Connections_are_reset_in_the_order_of_their_names_whoever_came_first()
    {
        int[] ports = [9, 3, 7, 1, 5];
        foreach (int port in ports)
        {
            Arrive(Open((ushort)port), 1, _memory.Pool);
        }

        Answers();
        Assert.Equal(5, _endpoint.HandleRevoked(TimeSpan.Zero, _memory.Binding));
        List<int> reset = [];
        while (_endpoint.PollTransmit(TimeSpan.Zero, out TcpTransmit transmit))
        {
            reset.Add(transmit.Flow.RemotePort);
        }

        Assert.Equal([1, 3, 5, 7, 9], reset);
        Assert.Equal(0, _memory.Pool.LiveChunks);
    }

    long IReceiveRoom.GetReceiveRoomBytes(int queue) => 1 << 20;

    long IReceiveRoom.GetReceiveCapacityBytes(int queue) => 1 << 24;

    object IReceiveRoom.GetReceiveMemory(int queue) => this;

    private TcpConnection Open(ushort port)
    {
        TcpFlow flow = new(s_us, 80, s_them, port);
        TcpSegment syn = new() { Sequence = 0, Flags = TcpFlags.Syn, Window = 9999 };
        _endpoint.HandleSegment(TimeSpan.Zero, flow, syn);
        Assert.True(_endpoint.PollTransmit(TimeSpan.Zero, out TcpTransmit answer));
        _endpoint.HandleSegment(TimeSpan.Zero, flow, new TcpSegment
        {
            Sequence = 1,
            Acknowledgement = answer.Sequence + 1,
            Flags = TcpFlags.Ack,
            Window = 9999,
        });
        Assert.True(_listener.TryAccept(out TcpConnection? connection));
        return connection;
    }

    private void Arrive(TcpConnection connection, uint position, ChunkPool pool)
    {
        Assert.True(pool.TryAllocate(out int chunk));
        PayloadFragment[] payload = [new PayloadFragment(pool, chunk, 0, Length)];
        _endpoint.HandleSegment(TimeSpan.Zero, connection.Flow, new TcpSegment
        {
            Sequence = position,
            Acknowledgement = connection.Sender.NxtSequence,
            Flags = TcpFlags.Ack,
            Window = 9999,
            Payload = payload,
            PayloadBytes = Length,
        });
        payload[0].Release();
    }

    private List<TcpFlags> Answers()
    {
        List<TcpFlags> answers = [];
        while (_endpoint.PollTransmit(TimeSpan.Zero, out TcpTransmit transmit))
        {
            answers.Add(transmit.Flags);
        }

        return answers;
    }
}
