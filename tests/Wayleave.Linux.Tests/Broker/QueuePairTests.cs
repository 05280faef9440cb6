using System.Buffers.Binary;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Broker;
using Wayleave.Host.Configuration;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Programs that move bytes over a host's NIC, by queue pairs of their own.</summary>
public sealed class QueuePairTests : BrokerTest
{
    private const int Size = 64 << 10;
    private const int Depth = 64; // of either queue
    private const ClientRegionAccess All = ClientRegionAccess.LocalWrite | ClientRegionAccess.RemoteWrite
        | ClientRegionAccess.RemoteRead | ClientRegionAccess.RemoteAtomic;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Two_programs_send_write_read_and_add_over_the_wire(bool isOtherHost)
    {
        await using WayleaveHost? far = isOtherHost ? await StartOtherAsync() : null;
        using BrokerServer? farServer = far is null ? null : BrokerServer.Start(far, _ => null);
        using End one = new(Server.SocketPath), two = new((farServer ?? Server).SocketPath);
        End.Connect(one, two);
        one.Fill(0x5A);
        ClientPiece half = new(Size / 2, Size / 2, one.Region.Key);

        two.Pair.PostReceive(21, two.Piece(0, 4096), two.Piece(8192, 4096));
        one.Pair.Post(
            new ClientWorkRequest(ClientWorkOpcode.SendWithImmediate, 1) { Immediate = 77 },
            one.Piece(0, 4096), one.Piece(4096, 904));
        Assert.Equal(new ClientCompletion(1, ClientWorkStatus.Success, false, 5000, null), one.Take());
        Assert.Equal(new ClientCompletion(21, ClientWorkStatus.Success, true, 5000, 77), two.Take());
        Assert.Equal(5000, two.Count(0x5A));
        Assert.Equal(0x5A, two.Bytes[8192 + 903]);
        Assert.Equal(0, two.Bytes[8192 + 904]);

        one.Pair.Post(new ClientWorkRequest(ClientWorkOpcode.Write, 2, Size / 2, two.Region.Key), half);
        Assert.Equal(ClientWorkStatus.Success, one.Take().Status);
        Assert.Equal(5000 + (Size / 2), two.Count(0x5A));

        one.Fill(0);
        one.Pair.Post(new ClientWorkRequest(ClientWorkOpcode.Read, 3, Size / 2, two.Region.Key), half);
        Assert.Equal(ClientWorkStatus.Success, one.Take().Status);
        Assert.Equal(Size / 2, one.Count(0x5A));

        two.Fill(0);
        ClientWorkRequest add = new(ClientWorkOpcode.FetchAdd, 4, 8, two.Region.Key) { CompareOrAdd = 5 };
        ClientWorkRequest swap = new(ClientWorkOpcode.CompareSwap, 5, 8, two.Region.Key) { CompareOrAdd = 5, Swap = 9 };
        one.Pair.Post(add with { Flags = ClientWorkFlags.None }, one.Piece(0, 8));
        one.Pair.Post(swap with { Flags = ClientWorkFlags.Fence | ClientWorkFlags.Signaled }, one.Piece(8, 8));
        Assert.Equal((5UL, ClientWorkStatus.Success), (one.Take() is var c ? c.Id : 0, c.Status));
        Assert.Equal(9UL, BinaryPrimitives.ReadUInt64LittleEndian(two.Bytes.AsSpan(8)));
        Assert.Equal(0UL, BinaryPrimitives.ReadUInt64LittleEndian(one.Bytes.AsSpan(0)));
        Assert.Equal(5UL, BinaryPrimitives.ReadUInt64LittleEndian(one.Bytes.AsSpan(8)));
        Assert.Empty(one.Pair.TakeCompletions(TimeSpan.Zero));
        Assert.Empty(Host.GetViolations());
    }

    public static TheoryData<string, ClientWorkStatus> Wrong => new()
    {
        { "a local key of another program", ClientWorkStatus.LocalProtectionError },
        { "a local key that is none", ClientWorkStatus.LocalProtectionError },
        { "a local range", ClientWorkStatus.LocalProtectionError },
        { "a read into memory that is not to be written", ClientWorkStatus.LocalProtectionError },
        { "a remote key of another program", ClientWorkStatus.RemoteAccessError },
        { "a remote range", ClientWorkStatus.RemoteAccessError },
        { "memory that was taken back", ClientWorkStatus.LocalProtectionError },
        { "memory that was taken back from the peer", ClientWorkStatus.RemoteAccessError },
    };

    [Theory]
    [MemberData(nameof(Wrong))]
    public void What_a_request_may_not_reach_it_does_not_and_the_queue_pair_is_in_error(
        string what, ClientWorkStatus status)
    {
        using End one = new(Server.SocketPath), two = new(Server.SocketPath), stranger = new(Server.SocketPath);
        End.Connect(one, two);
        one.Fill(0x5A);
        stranger.Fill(0x5E);
        using ClientRegion locked = one.Nic.Register(one.Buffer, 0, Size, ClientRegionAccess.None);
        ClientPiece mine = one.Piece(0, 4096);
        ClientWorkRequest write = new(ClientWorkOpcode.Write, 1, 0, two.Region.Key);
        (ClientWorkRequest request, ClientPiece piece) = what switch
        {
            "a local key of another program" => (write, stranger.Piece(0, 4096)),
            "a local key that is none" => (write, mine with { Key = one.Region.Key + 1 }),
            "a local range" => (write, one.Piece(Size - 4096, 4097)),
            "a read into memory that is not to be written" =>
                (write with { Opcode = ClientWorkOpcode.Read }, mine with { Key = locked.Key }),
            "a remote key of another program" => (write with { RemoteKey = stranger.Region.Key }, mine),
            "a remote range" => (write with { RemoteAddress = Size - 4095 }, mine),
            _ => (write, mine),
        };
        if (what.StartsWith("memory that was taken back", StringComparison.Ordinal))
        {
            (what.EndsWith("peer", StringComparison.Ordinal) ? two : one).LetGoAndRevoke();
        }

        one.Pair.Post(request, piece);
        Assert.Equal(status, one.Take().Status);
        one.Pair.Post(write with { Id = 2 }, mine);
        Assert.Equal((2UL, ClientWorkStatus.Flushed), (one.Take() is var c ? c.Id : 0, c.Status));
        Assert.Equal(Size, stranger.Count(0x5E));
        Assert.Empty(Host.GetViolations());
    }

    [Fact]
    public void A_queue_that_is_full_or_not_connected_refuses_and_completions_make_room()
    {
        using End one = new(Server.SocketPath), two = new(Server.SocketPath);
        ClientWorkRequest send = new(ClientWorkOpcode.Send, 1);
        Assert.Equal(Errno.EINVAL, Refusal(() => one.Pair.Post(send, one.Piece(0, 8))));
        Assert.Equal(Errno.EINVAL, Refusal(() => one.Pair.PostReceive(1, one.Piece(0, 8))));
        End.Connect(one, two);
        for (ulong n = 0; n < Depth; n++)
        {
            one.Pair.Post(send with { Id = n }, one.Piece(0, 8)); // nobody receives: they wait
            one.Pair.PostReceive(n, one.Piece(0, 8));
        }

        Assert.Equal(Errno.ENOMEM, Refusal(() => one.Pair.Post(send, one.Piece(0, 8))));
        Assert.Equal(Errno.ENOMEM, Refusal(() => one.Pair.PostReceive(1, one.Piece(0, 8))));
        for (ulong n = 0; n < Depth; n++)
        {
            two.Pair.PostReceive(n, two.Piece(0, 8));
        }

        Assert.Equal(Enumerable.Range(0, Depth).Select(n => (ulong)n), one.TakeAll(Depth).Select(c => c.Id));
        Assert.Equal(Depth, two.TakeAll(Depth).Count(c => c.IsReceive && c.LengthBytes == 8));
        two.Pair.PostReceive(1, two.Piece(0, 8));
        one.Pair.Post(send, one.Piece(0, 8));
        Assert.Equal(ClientWorkStatus.Success, one.Take().Status);
    }

    [Fact]
    public async Task A_program_that_dies_with_requests_under_way_leaves_nothing_and_its_peer_hears_of_it()
    {
        using End peer = new(Server.SocketPath);
        for (int round = 0; round < 5; round++)
        {
            End leaver = new(Server.SocketPath);
            using ClientQueuePair pair = peer.Nic.CreateQueuePair();
            End.Connect(leaver.Pair, pair);
            for (ulong n = 0; n < 32; n++)
            {
                leaver.Pair.Post(
                    new ClientWorkRequest(ClientWorkOpcode.Write, n, 0, peer.Region.Key), leaver.Piece(0, Size));
                leaver.Pair.Post(new ClientWorkRequest(ClientWorkOpcode.Send, n), leaver.Piece(0, Size));
            }

            leaver.Client.Dispose(); // its mapping is there for longer than its connection
            pair.PostReceive(1, peer.Piece(0, Size));
            if (round == 0)
            {
                // What the peer asks then is answered by nobody.
                await UntilAsync("the leaver has none", () =>
                    AccountOf(Environment.ProcessId, BrokerAccount.QueuePairs) == 2);
                pair.Post(new ClientWorkRequest(ClientWorkOpcode.Write, 2, 0, leaver.Region.Key), peer.Piece(0, 8));
                IReadOnlyList<ClientCompletion> ended = pair.TakeCompletions(Patience.Max);
                while (!ended.Any(c => !c.IsReceive))
                {
                    ended = pair.TakeCompletions(Patience.Max);
                    Assert.NotEmpty(ended);
                }

                Assert.Contains(ended, c => c is { IsReceive: false, Status: ClientWorkStatus.RetryExceeded });
            }

            leaver.Dispose();
        }

        await UntilAsync("only the peer is left", () =>
            AccountOf(Environment.ProcessId, BrokerAccount.QueuePairs) == 1
            && AccountOf(Environment.ProcessId, BrokerAccount.Keys) == 1
            && AccountOf(Environment.ProcessId, BrokerAccount.Bytes) == Size);
        Assert.Empty(Host.GetViolations());
    }

    [Fact]
    public async Task A_program_that_is_killed_while_its_queue_pairs_read_and_write_leaves_nothing()
    {
        for (int round = 0; round < 5; round++)
        {
            ForeignProgram program = await StartAsync();
            int nic = await program.OkAsync("open rdma0");
            int buffer = await program.OkAsync($"allocate 1 {Size} 0");
            string key = (await program.AskAsync($"register {nic} {buffer} {Size}")).Split(' ')[2];
            await program.OkAsync($"pair {nic}");
            await program.OkAsync($"pair {nic}");
            await program.OkAsync("join");
            await program.OkAsync($"write 0 0 {key} {key} {Size / 2}");
            string ended;
            do
            {
                ended = await program.AskAsync("completions 0 1000");
            }
            while (ended == "ok 0 0");

            Assert.Equal("ok 1 0", ended);
            for (int n = 0; n < 30; n++)
            {
                await program.OkAsync($"write {n % 2} {(n % 4 < 2 ? 0 : 4)} {key} {key} {Size / 2}");
            }

            await ExpectSettledAsync(program);
        }
    }

    private static Errno Refusal(Action action) => Assert.Throws<BrokerException>(action).Errno;

    private async Task<WayleaveHost> StartOtherAsync() => await WayleaveHost.StartAsync(Devices with
    {
        Broker = new BrokerConfig { SocketPath = Path.Combine(Root, "other") },
    });

    /// <summary>A program with a buffer that is registered and mapped, and a queue pair.</summary>
    private sealed class End : IDisposable
    {
        private ClientMapping? _mapping;

        public End(string socketPath)
        {
            Client = BrokerClient.Connect(socketPath, "end");
            Nic = Client.OpenDevice("rdma0");
            Buffer = Client.OpenDevice("gpu0").Allocate("x", Size);
            _mapping = Buffer.Map();
            Region = Nic.Register(Buffer, 0, Size, All);
            Pair = Nic.CreateQueuePair();
        }

        public BrokerClient Client { get; }

        public ClientDevice Nic { get; }

        public ClientBuffer Buffer { get; }

        public ClientRegion Region { get; }

        public ClientQueuePair Pair { get; }

        public byte[] Bytes => _mapping!.Memory.ToArray();

        public static void Connect(End one, End two) => Connect(one.Pair, two.Pair);

        public static void Connect(ClientQueuePair one, ClientQueuePair two)
        {
            one.Connect(two.Local);
            two.Connect(one.Local);
        }

        public ClientPiece Piece(ulong address, uint bytes) => new(address, bytes, Region.Key);

        public void Fill(byte value) => _mapping!.Memory.Span.Fill(value);

        public int Count(byte value) => _mapping!.Memory.Span.Count(value);

        public void LetGoAndRevoke()
        {
            _mapping!.Dispose();
            _mapping = null;
            Assert.Contains("\"grade\":\"Retired\"", Buffer.Revoke(Patience.Max), StringComparison.Ordinal);
        }

        public ClientCompletion Take() => TakeAll(1)[0];

        // Of one question there may be more than one.
        public List<ClientCompletion> TakeAll(int count)
        {
            List<ClientCompletion> taken = [];
            while (taken.Count < count)
            {
                IReadOnlyList<ClientCompletion> some = Pair.TakeCompletions(Patience.Max);
                Assert.NotEmpty(some);
                taken.AddRange(some);
            }

            Assert.Equal(count, taken.Count);
            return taken;
        }

        public void Dispose()
        {
            _mapping?.Dispose();
            Client.Dispose();
        }
    }
}
