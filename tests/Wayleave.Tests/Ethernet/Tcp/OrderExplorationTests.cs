using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>Two endpoints and two users in every order: what happens does not depend on who comes first.</summary>
public class OrderExplorationTests
{
    private const int Bytes = 900;

    [Fact]
    public void No_byte_is_lost_when_both_close_while_data_is_on_its_way()
    {
        HashSet<string> ends = [];
        Exploration found = Explorer.Exhaustive(choices => BuildClose(choices, ends));
        Assert.True(found.Runs > 500, $"only {found.Runs} orders");

        // One side closed first, the other did, or their FINs crossed.
        Assert.Contains("FinWait2 CloseWait", ends);
        Assert.Contains("FinWait1 FinWait1", ends);
    }

    [Fact]
    public void Two_SYNs_meet_in_every_order_and_make_one_connection()
    {
        Exploration found = Explorer.Exhaustive(BuildSimultaneousOpen);
        Assert.True(found.Runs > 5, $"only {found.Runs} orders");
    }

    [Fact]
    public void A_starved_queue_closes_the_window_and_loses_nothing_that_was_acknowledged()
    {
        Exploration found = Explorer.Exhaustive(choices => BuildStarvation(choices, TcpDefences.All));
        Assert.True(found.Runs > 100, $"only {found.Runs} orders");
    }

    private static Scenario BuildClose(Choices choices, HashSet<string> ends)
    {
        Ends e = new();

        IEnumerable<Step> User(string name, Func<TcpConnection> connection, int kind)
        {
            yield return $"{name} sends";
            Assert.Equal(Errno.Success, connection().Send(Payload(kind), out int taken));
            Assert.Equal(Bytes, taken);
            yield return $"{name} closes its side";
            connection().Shutdown();
        }

        return new Scenario(
            [
                new Actor("a", User("a", () => e.Client, 1)),
                new Actor("b", User("b", () => e.Server, 2)),
                new Actor("wire to a", Wire(e.Pair.A, steps: 2)),
                new Actor("wire to b", Wire(e.Pair.B, steps: 2)),
            ],
            () =>
            {
                e.Read();
                ends.Add($"{e.Client.State} {e.Server.State}");
                ends.Add($"{e.Server.State} {e.Client.State}");
            },
            AtEnd: () =>
            {
                for (int i = 0; i < 1000 && !(e.Client.IsAtEnd && e.Server.IsAtEnd); i++)
                {
                    Assert.True(e.Pair.Step(), $"stuck: {e.Client.State} {e.Server.State}");
                    e.Read();
                }

                Assert.Equal(Payload(2), e.AtClient);
                Assert.Equal(Payload(1), e.AtServer);
                Assert.Equal((Errno.Success, Errno.Success), (e.Client.Error, e.Server.Error));
            });
    }

    private static Scenario BuildSimultaneousOpen(Choices choices)
    {
        TcpPair pair = new(Choices.Seeded(1), new SimulatedLinkOptions(), chunks: 16);
        TcpConnection? a = null, b = null;

        IEnumerable<Step> Open(string name, Action open)
        {
            yield return $"{name} connects";
            open();
        }

        return new Scenario(
            [
                new Actor("a", Open("a", () => pair.A.Endpoint.Connect(
                    pair.Now, pair.A.Address, 7, pair.B.Address, 8, out a))),
                new Actor("b", Open("b", () => pair.B.Endpoint.Connect(
                    pair.Now, pair.B.Address, 8, pair.A.Address, 7, out b))),
                new Actor("wire to a", Wire(pair.A, steps: 2)),
                new Actor("wire to b", Wire(pair.B, steps: 2)),
            ],
            () => { },
            AtEnd: () =>
            {
                Assert.NotNull(a);
                Assert.NotNull(b);
                bool moves = true;
                for (int i = 0; i < 200 && moves && (IsOpening(a) || IsOpening(b)); i++)
                {
                    moves = pair.Step();
                }

                Assert.False(IsOpening(a) || IsOpening(b), $"stuck: {a.State} {b.State}");
                if (a.State == TcpState.Closed || b.State == TcpState.Closed)
                {
                    Assert.True(a.Error == Errno.ECONNREFUSED || b.Error == Errno.ECONNREFUSED, $"{a.Error} {b.Error}");
                    return; // the SYN of one was refused before the other side opened
                }

                Assert.Equal((TcpState.Established, TcpState.Established), (a.State, b.State));
                a.Send(Payload(1), out _);
                for (int i = 0; i < 200 && b.Received.UnreadBytes < Bytes; i++)
                {
                    Assert.True(pair.Step(), "no data");
                }

                Assert.Equal(1, pair.A.Endpoint.ConnectionCount);
                Assert.Equal(1, pair.B.Endpoint.ConnectionCount);
            });
    }

    private static bool IsOpening(TcpConnection connection) =>
        connection.State is TcpState.SynSent or TcpState.SynReceived;

    private static Scenario BuildStarvation(Choices choices, TcpDefences defences)
    {
        Ends e = new(o => o with { ReceiveBufferBytes = 3000, Defences = defences });

        IEnumerable<Step> Sender()
        {
            yield return "a sends";
            e.Client.Send(Payload(1), out _);
            e.Client.Send(Payload(1), out _);
        }

        IEnumerable<Step> Memory()
        {
            yield return "the chunks are gone";
            e.Pair.B.RoomBytes = 0;
            yield return "b reads";
            e.Read();
            yield return "the chunks are back";
            e.Pair.B.RoomBytes = 3000;
            e.Pair.B.Endpoint.HandleRoom();
        }

        long acknowledged = 0;
        return new Scenario(
            [
                new Actor("a", Sender()),
                new Actor("b", Memory()),
                new Actor("wire to a", Wire(e.Pair.A, steps: 2)),
                new Actor("wire to b", Wire(e.Pair.B, steps: 2)),
            ],
            () =>
            {
                // What the peer was told has arrived is there to be read, or was read.
                acknowledged = Math.Max(acknowledged, e.Client.AcknowledgedBytes);
                long there = e.Server.Received.UnreadBytes + e.AtServer.Count;
                Assert.True(there >= acknowledged, $"{acknowledged} were acknowledged and {there} are there");
            },
            AtEnd: () =>
            {
                for (int i = 0; i < 1000 && e.AtServer.Count < 2 * Bytes; i++)
                {
                    Assert.True(e.Pair.Step(), "the window never opened");
                    e.Read();
                }

                Assert.Equal([.. Payload(1), .. Payload(1)], e.AtServer);
                Assert.Equal(0, e.Client.Sender.Recovery.Timeouts);
            });
    }

    private static IEnumerable<Step> Wire(TcpPair.Side side, int steps)
    {
        for (int i = 0; i < steps; i++)
        {
            yield return "frames move";
            side.Receive();
            side.Transmit();
        }
    }

    private static byte[] Payload(int kind) =>
        [.. Enumerable.Range(0, Bytes).Select(i => (byte)((i * kind) ^ (i >> 8)))];

    /// <summary>A connection that both ends have.</summary>
    private sealed class Ends
    {
        private readonly byte[] _buffer = new byte[4096];

        public Ends(Func<TcpEndpointOptions, TcpEndpointOptions>? options = null)
        {
            Pair = new TcpPair(Choices.Seeded(1), new SimulatedLinkOptions(), options, chunks: 16);
            Pair.B.Endpoint.Listen(null, 80, 1, out TcpListener? listener);
            Pair.A.Endpoint.Connect(Pair.Now, Pair.A.Address, 5000, Pair.B.Address, 80, out TcpConnection? client);
            TcpConnection? server = null;
            while (!listener!.TryAccept(out server))
            {
                Assert.True(Pair.A.Transmit() | Pair.B.Receive() | Pair.B.Transmit() | Pair.A.Receive());
            }

            (Client, Server) = (client!, server);
        }

        public TcpPair Pair { get; }

        public TcpConnection Client { get; }

        public TcpConnection Server { get; }

        public List<byte> AtClient { get; } = [];

        public List<byte> AtServer { get; } = [];

        public void Read()
        {
            ReadOne(Client, AtClient);
            ReadOne(Server, AtServer);
        }

        private void ReadOne(TcpConnection connection, List<byte> into)
        {
            while (connection.Received.Receive(
                ReceiveFlags.None, _buffer.Length, _buffer, [], out ReceiveResult result) == Errno.Success)
            {
                into.AddRange(_buffer.AsSpan(0, result.Bytes));
                connection.HandleRead();
            }
        }
    }
}
