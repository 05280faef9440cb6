using System.Diagnostics;
using System.Globalization;
using System.Net;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Broker;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Wayleave.Linux.Sharing;
using Wayleave.Linux.Tests.Control;
using Wayleave.Linux.UserFaults;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// One process that has everything of a host, by the broker and the control plane together, and dies: everything is
/// reclaimed, who used something of it is told, the ledger is as before, and nobody else notices.
/// </summary>
[Collection(EndToEndRuns.Name)]
public sealed class DeathTests : IAsyncLifetime
{
    private const int Bytes = 64 << 10;
    private const string Address = "127.0.45.2";

    // In an order in which each has what it needs; a seed changes it within that.
    private static readonly (string Step, string[] Needs)[] s_steps =
    [
        ("broker", []),
        ("give", ["broker"]),
        ("take", ["broker"]),
        ("context", []),
        ("memory", ["context"]),
        ("objects", ["context"]),
        ("watched", ["context"]),
        ("ring", ["context"]),
        ("jobs", ["context"]),
        ("resource", []),
        ("host", []),
        ("traffic", ["host", "memory"]),
        ("lease", ["host"]),
        ("transfer", ["host"]),
    ];

    private readonly ControlTestFolder _folder = new();
    private ServedHost _served = null!;
    private BrokerServer _broker = null!;
    private WayleaveHost _peer = null!;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private WayleaveHost Host => _served.Host;

    private string Meeting => Path.Combine(_folder.Root, "meeting");

    public async ValueTask InitializeAsync()
    {
        _served = await ServedHost.StartAsync(_folder, Address, TimeProvider.System, devices: new HostConfig
        {
            Nics = [new NicConfig { PathMtuBytes = 1024 }],
            Gpus = [new GpuConfig { VramBytes = 64 << 20, SystemPoolBytes = 16 << 20 }],
            Nvmes = [],
            Broker = new BrokerConfig { SocketPath = Path.Combine(_folder.Root, "broker") },
            Control = new ControlConfig { Port = 0 },
        });
        _broker = BrokerServer.Start(Host, _ => null)!;
        _peer = await WayleaveHost.StartAsync(new HostConfig
        {
            Name = "peer",
            Nics = [new NicConfig { Address = IPAddress.Parse("127.0.45.3"), UdpPort = 0, PathMtuBytes = 1024 }],
            Gpus = [new GpuConfig { VramBytes = 4 << 20, SystemPoolBytes = 0 }],
            Nvmes = [],
        });
        foreach (string name in (string[])["a", "b", "c", "d", "ring", "mine"])
        {
            await MakeAsync(name, Bytes);
        }

        await MakeAsync("big", 8 << 20);
        await Host.Objects.ForEachPieceAsync(
            Host.Objects.Find("gpu0", "ring")!,
            0,
            GpuCommand.SizeBytes,
            (_, bytes) => new GpuCommand { Opcode = GpuOpcode.Spin, Count = ulong.MaxValue }.Write(bytes),
            Cancellation);
    }

    public async ValueTask DisposeAsync()
    {
        _broker.Dispose();
        await _served.DisposeAsync();
        await _peer.DisposeAsync();
        _folder.Dispose();
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    [InlineData(6)]
    [InlineData(7)]
    [InlineData(8)]
    public async Task Whenever_it_dies_everything_is_reclaimed_and_nobody_else_notices(int seed)
    {
        // The first has everything; later ones die in the middle of a step, or between two.
        Random random = new(seed);
        string[] order = Shuffle(random);
        int last = seed == 1 ? order.Length - 1 : random.Next(order.Length);
        bool isInside = seed != 1 && random.Next(2) == 0;
        await using Bystander bystander = await Bystander.OpenAsync(this);
        Ledger before = await TakeLedgerAsync();

        string[] steps = order[..(last + 1)];
        using VictimProcess victim = StartVictim(seed, steps);
        using Exchange exchange = Exchange.Start(Meeting, bystander);
        await victim.UntilSaysAsync($"{(isInside ? "begin" : "end")} {steps[^1]}");
        Taken taken = TakeNote();
        Task<WorkCompletionStatus>? writes = steps.SkipLast(1).Contains("memory")
            ? WriteToVictim(ContextRegionKind.Implicit)
            : null;
        JobDocument? waiter =
            steps.SkipLast(1).Contains("jobs") ? await bystander.WaitForAsync($"victim-{seed}") : null;
        if (seed == 1)
        {
            await UntilAsync("three names wait", async () =>
                (await TakeLedgerAsync()).PendingPoints == before.PendingPoints + 3);
            ExpectEverything(before, await TakeLedgerAsync(), taken);
        }

        victim.Kill();

        // Who used something of it is told.
        if (waiter is not null)
        {
            Assert.Equal((ContextJobState.Done, null), await bystander.EndOfAsync(waiter));
        }

        if (writes is not null)
        {
            Assert.NotEqual(WorkCompletionStatus.Success, await writes);
        }

        exchange.Stop();
        Assert.All(exchange.Given, m => Assert.Equal(-1, m.Memory.Span.IndexOfAnyExcept((byte)0xEE)));
        exchange.Dispose();
        await ExpectLedgerAsync(before);
        ExpectGone(taken);
        await bystander.ExpectUndisturbedAsync();
    }

    [Fact]
    public async Task A_host_that_forgets_the_regions_of_the_dead_is_found_out()
    {
        Host.Compute.Regions.EndsWithClient = false;
        Ledger before = await TakeLedgerAsync();
        using VictimProcess victim = StartVictim(0, ["context", "memory", "objects"]);
        await victim.UntilSaysAsync("end objects");
        Taken taken = TakeNote();
        Task<WorkCompletionStatus> writes = WriteToVictim(ContextRegionKind.Pinned);
        ContextRegion pinned = taken.Contexts[0].Regions.First(r => r.Kind == ContextRegionKind.Pinned);
        await UntilAsync("a peer writes there", () => Task.FromResult(pinned.Region.BytesPlaced > 0));
        victim.Kill();
        await UntilAsync("its context has ended", () => Task.FromResult(Host.Compute.List().Count == 0));

        // Its pages are not free, its keys are alive, and a peer still writes to what it had pinned.
        Assert.NotEqual(before, await TakeLedgerAsync());
        Assert.Contains(taken.Keys, k => Host.Nics[0].Device.FindRegion(k) is { State: MemoryRegionState.Valid });
        Assert.False(writes.IsCompleted);
        foreach (ComputeContext context in taken.Contexts)
        {
            await Host.Compute.Regions.EndAllAsync(context);
        }

        Assert.NotEqual(WorkCompletionStatus.Success, await writes);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_policy_ends_the_process_itself_and_with_it_everything(bool isPressure)
    {
        await using ServedHost strict = await ServedHost.StartAsync(
            _folder,
            "127.0.45.4",
            TimeProvider.System,
            devices: ControlTestFolder.Config with
            {
                Nics =
                [
                    new NicConfig
                    {
                        PinnedMemory = Devices.Rdma.Regions.PinnedMemoryPolicy.EndProcess,
                        LegacyPeers = LegacyPeerPolicy.EndProcess,
                    },
                ],
                Gpus =
                [
                    new GpuConfig
                    {
                        VramBytes = 16 << 20,
                        SystemPoolBytes = 16 << 20,
                        Compute = new ComputeConfig { UserMemoryBytes = 256 << 10 },
                    },
                ],
            });
        foreach (string name in (string[])["a", "b", "c", "d"])
        {
            await MakeAsync(name, Bytes, strict.Client);
        }

        using VictimProcess victim = VictimProcess.Start(
            strict.Server.SocketPath!, "none", Meeting, "127.0.45.9", "0", "context", "memory", "objects");
        await victim.UntilSaysAsync("end objects");
        if (isPressure)
        {
            // It holds 64 KiB of 256 by a pinned region, and somebody wants more than the rest.
            HeldContext other = await strict.Client.OpenGpuAsync("gpu0", "other", Cancellation);
            BufferHandleDocument wanted = await other.AllocateAsync(224 << 10, Cancellation);
            WayleaveException refused = await Assert.ThrowsAsync<WayleaveException>(() => other.RegisterAsync(
                new RegisterRegionDocument { Handle = wanted.Handle, Kind = ContextRegionKind.Pinned }, Cancellation));
            Assert.Equal(Errno.ENOMEM, refused.Errno);
            await other.DisposeAsync();
        }
        else
        {
            await strict.Client.EvictAsync("gpu0", "c", Cancellation); // which it has as a legacy peer
        }

        Assert.Equal(128 + CliProcess.SigKill, await victim.WaitAsync());
        await UntilAsync("nothing of it is left", async () =>
            (await strict.Client.GetComputeAsync(Cancellation)).Gpus[0] is
            {
                Contexts.Count: 0,
                UserMemoryFreeBytes: 256 << 10,
            });
        Assert.Empty(strict.Host.GetViolations());
    }

    private VictimProcess StartVictim(int seed, string[] steps) => VictimProcess.Start(
    [
        _served.Server.SocketPath!,
        _broker.SocketPath,
        Meeting,
        $"127.0.45.{100 + seed}",
        seed.ToString(CultureInfo.InvariantCulture),
        .. steps,
    ]);

    private static string[] Shuffle(Random random)
    {
        (string Step, string[] Needs)[] steps =
            [.. s_steps.Where(s => s.Step != "watched" || UserFaultRegion.IsSupported(out _))];
        List<string> order = [];
        while (order.Count < steps.Length)
        {
            string[] ready =
            [
                .. steps.Where(s => !order.Contains(s.Step) && s.Needs.All(order.Contains)).Select(s => s.Step),
            ];
            order.Add(ready[random.Next(ready.Length)]);
        }

        return [.. order];
    }

    // A peer of another host, connected to a region of the victim's own memory, that writes there until it cannot.
    private Task<WorkCompletionStatus> WriteToVictim(ContextRegionKind kind)
    {
        ContextRegion region = Host.Compute.List().SelectMany(c => c.Regions)
            .First(r => r.Kind == kind && r.Context.Name == "victim");
        return Task.Factory.StartNew(
            () => WriteAsync(region).GetAwaiter().GetResult(), TaskCreationOptions.LongRunning);
    }

    private async Task<WorkCompletionStatus> WriteAsync(ContextRegion region)
    {
        DeviceObject local = await _peer.Objects.CreateAsync("gpu0", "local", Bytes, null, Cancellation);
        try
        {
            await using Connection connection = await Connection.OpenAsync(_peer.Nics[0], local);
            try
            {
                connection.Connect(Host.Compute.Regions.Connect(region.Context, null, connection.Local));
            }
            catch (WayleaveException e) when (e.Errno == Errno.ECANCELED)
            {
                return WorkCompletionStatus.RemoteAccessError; // it died first
            }

            BulkTransfer bulk = new(_peer.Nics[0].Driver, connection.QueuePair, connection.Completions, _peer.Context);
            BulkRange range = new(0, connection.Region.Key, region.Address, region.Region.Key, Bytes);
            WorkCompletionStatus status;
            do
            {
                status = bulk.Run(BulkDirection.Write, range, Cancellation);
            }
            while (status == WorkCompletionStatus.Success);
            return status;
        }
        finally
        {
            await _peer.Objects.AbortAsync(local, "the test ended");
        }
    }

    private Taken TakeNote()
    {
        ComputeContext[] contexts = [.. Host.Compute.List().Where(c => c.Name == "victim")];
        using (Host.Context.Enter())
        {
            return new Taken(
                contexts,
                [.. contexts.SelectMany(c => c.Regions).Select(r => r.Region.Key)],
                [.. contexts.SelectMany(c => c.Pairs).Select(p => p.Pair)]);
        }
    }

    private static void ExpectEverything(Ledger before, Ledger now, Taken taken)
    {
        int keys = UserFaultRegion.IsSupported(out _) ? 8 : 7;
        Assert.Equal((keys, 1), (taken.Keys.Length, taken.Pairs.Length));
        Assert.True(now.VramFree < before.VramFree && now.FreePages < before.FreePages, now.ToString());
        Assert.True(now.Attachments >= before.Attachments + 4, now.ToString()); // of objects that are not its own
        Assert.Equal(
            (before.Contexts + 1, before.Leases + 1, before.Resources + 1, before.Programs + 1, before.Objects + 1),
            (now.Contexts, now.Leases, now.Resources, now.Programs, now.Objects));
    }

    private void ExpectGone(Taken taken)
    {
        Assert.All(taken.Keys, k => Assert.Null(Host.Nics[0].Device.FindRegion(k)));
        Assert.All(taken.Pairs, p => Assert.NotEqual(QueuePairState.ReadyToSend, p.State));
        Assert.All(taken.Contexts, c => Assert.True(c.Ending!.IsCompletedSuccessfully));
    }

    private async Task<Ledger> TakeLedgerAsync()
    {
        ComputeDocument compute = await _served.Client.GetComputeAsync(Cancellation);
        StatsDocument stats = await _served.Client.GetStatsAsync(Cancellation);
        ResourcesDocument resources = await _served.Client.GetResourcesAsync(Cancellation);
        BuffersDocument buffers = await _served.Client.GetBuffersAsync(Cancellation);
        IReadOnlyList<DeviceObject> objects = Host.Objects.List();
        int transfers = Host.Transfers.List().Count, programs = _broker.Store.Programs.Count;
        using (Host.Context.Enter())
        {
            GpuHandle gpu = Host.Gpus[0];
            return new Ledger(
                gpu.Device.Stats.VramFreeBytes,
                gpu.Device.Stats.SystemFreeBytes,
                gpu.Device.Quarantine.Bytes,
                gpu.UserMemory.FreePages,
                gpu.UserMemory.SwapUsed,
                compute.Gpus.Sum(g => g.Contexts.Count),
                compute.Points.Count(p => p.State != SyncPointState.Signaled),
                stats.Objects,
                stats.Leases,
                resources.Providers.Sum(p => p.Resources.Count),
                buffers.Buffers.Count,
                objects.Sum(o => o.Buffer.Attachments.Count),
                transfers,
                programs);
        }
    }

    private async Task ExpectLedgerAsync(Ledger before)
    {
        Ledger now = await TakeLedgerAsync();
        long start = Stopwatch.GetTimestamp();
        while (now != before && Stopwatch.GetElapsedTime(start) < TimeSpan.FromSeconds(30))
        {
            await Task.Delay(5, Cancellation);
            now = await TakeLedgerAsync();
        }

        Assert.Equal(before, now);
        Assert.DoesNotContain(Host.GetViolations(), v => v.Kind != ViolationKind.LateUnmap);
        Assert.All(Host.Gpus, g => Assert.Null(g.Failure));
        foreach (string name in (string[])["a", "b", "c", "d", "ring", "big"])
        {
            ProofDocument proof = await _served.Client
                .RevokeAsync("gpu0", name, new RevokeObjectDocument(), Cancellation);
            Assert.Equal((name, RetirementGrade.Retired), (name, proof.Grade));
        }
    }

    private static async Task UntilAsync(string what, Func<Task<bool>> condition)
    {
        long start = Stopwatch.GetTimestamp();
        while (!await condition())
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < TimeSpan.FromSeconds(30), $"never came true: {what}");
            await Task.Delay(2, Cancellation);
        }
    }

    private Task MakeAsync(string name, ulong sizeBytes) => MakeAsync(name, sizeBytes, _served.Client);

    private static async Task MakeAsync(string name, ulong sizeBytes, ControlClient client)
    {
        ObjectDocument made = await client.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu0", Name = name, SizeBytes = sizeBytes }, Cancellation);
        await client.CommitObjectAsync(made.Id, null, Cancellation);
    }

    /// <summary>What a host has given out, counted; the same before and after.</summary>
    private sealed record Ledger(
        ulong VramFree,
        ulong SystemFree,
        ulong Quarantined,
        long FreePages,
        long Swapped,
        int Contexts,
        int PendingPoints,
        int Objects,
        int Leases,
        int Resources,
        int Buffers,
        int Attachments,
        int Transfers,
        int Programs);

    /// <summary>What the victim had when it died.</summary>
    private sealed record Taken(ComputeContext[] Contexts, uint[] Keys, QueuePair[] Pairs);

    /// <summary>The other side of "give" and "take": descriptors go to and fro.</summary>
    private sealed class Exchange(System.Net.Sockets.Socket listener, Bystander bystander) : IDisposable
    {
        private readonly List<ClientMapping> _given = [];
        private readonly List<IDisposable> _held = [];
        private Thread? _thread;

        public IReadOnlyList<ClientMapping> Given => _given;

        public static Exchange Start(string meeting, Bystander bystander)
        {
            Exchange exchange = new(MessageSocket.Listen(meeting, 4), bystander);
            exchange._thread = new Thread(exchange.Run) { IsBackground = true };
            exchange._thread.Start();
            return exchange;
        }

        public void Stop()
        {
            listener.Dispose();
            _thread?.Join();
            _thread = null;
        }

        public void Dispose()
        {
            Stop();
            _given.ForEach(m => m.Dispose());
            _held.ForEach(h => h.Dispose());
            _given.Clear();
            _held.Clear();
        }

        private void Run()
        {
            byte[] word = new byte[16];
            while (true)
            {
                System.Net.Sockets.Socket accepted;
                try
                {
                    accepted = listener.Accept();
                }
                catch (Exception e) when (e is System.Net.Sockets.SocketException or ObjectDisposedException)
                {
                    return; // Stop
                }

                using MessageSocket met = new(accepted);
                if (met.Receive(word, out int length, out FileDescriptor[] sent) != Errno.Success || length == 0)
                {
                    continue; // it died before it said anything
                }

                if (sent is [{ } given])
                {
                    ClientBuffer buffer = bystander.Broker.Import(given);
                    _held.AddRange([buffer, given]);
                    _given.Add(buffer.Map());
                }
                else
                {
                    _ = met.Send("take"u8, [bystander.Exported], waits: false); // or it died while it waited
                }
            }
        }
    }

    /// <summary>A program that works beside the victim: it shares a buffer with it, and queues, and a NIC.</summary>
    private sealed class Bystander(DeathTests test) : IAsyncDisposable
    {
        private HeldContext _context = null!;
        private QueueDocument _queue = null!;
        private ClientBuffer _shared = null!;
        private ClientMapping _mapping = null!;
        private Connection _connection = null!;
        private BulkRange _range;
        private readonly CancellationTokenSource _enough = new();
        private Task<WorkCompletionStatus> _writes = null!;
        private DeviceObject _local = null!;

        public BrokerClient Broker { get; private set; } = null!;

        public FileDescriptor Exported { get; private set; } = null!;

        public static async Task<Bystander> OpenAsync(DeathTests test)
        {
            Bystander bystander = new(test);
            await bystander.OpenAsync();
            return bystander;
        }

        /// <summary>A job behind a name of the victim's.</summary>
        public Task<JobDocument> WaitForAsync(string point) => SubmitAsync([point]);

        public async Task<(ContextJobState State, string? Error)> EndOfAsync(JobDocument job)
        {
            JobDocument ended = await _context.WaitAsync(job.Id, Cancellation);
            return (ended.State, ended.Error);
        }

        public async Task ExpectUndisturbedAsync()
        {
            Assert.False(_writes.IsCompleted, "its peer was cut off");
            Assert.Equal((ContextJobState.Done, null), await EndOfAsync(await SubmitAsync([])));
            Assert.Equal(-1, _mapping.Memory.Span[1..].IndexOfAnyExcept((byte)0x55)); // the first is the victim's
            Assert.False(_shared.Describe().IsRevoked);
        }

        public async ValueTask DisposeAsync()
        {
            await _enough.CancelAsync();
            await ((Task)_writes).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            await _connection.DisposeAsync();
            await test._peer.Objects.AbortAsync(_local, "the test ended");
            _mapping.Dispose();
            Exported.Dispose();
            Broker.Dispose();
            await _context.DisposeAsync();
            _enough.Dispose();
        }

        private async Task OpenAsync()
        {
            Broker = BrokerClient.Connect(test._broker.SocketPath, "bystander");
            _shared = Broker.OpenDevice("gpu0").Allocate("bystander", Bytes);
            _mapping = _shared.Map();
            _mapping.Memory.Span.Fill(0x55);
            Exported = _shared.Export();

            _context = await test._served.Client.OpenGpuAsync("gpu0", "bystander", Cancellation);
            _queue = await _context.CreateQueueAsync(new CreateQueueDocument { Name = "q" }, Cancellation);
            BufferHandleDocument memory = await _context.AllocateAsync(Bytes, Cancellation);
            RegionDocument region = await _context.RegisterAsync(
                new RegisterRegionDocument { Handle = memory.Handle, Kind = ContextRegionKind.OnDemand }, Cancellation);
            await _context.PrefetchAsync(
                region.Id, new PrefetchDocument { Va = region.Va, LengthBytes = Bytes, Write = true }, Cancellation);
            _local = await test._peer.Objects.CreateAsync("gpu0", "bystander", Bytes, null, Cancellation);
            _connection = await Connection.OpenAsync(test._peer.Nics[0], _local);
            ConnectionEndDocument end = await _context.ConnectAsync(
                new ConnectContextDocument { Peer = ConnectionEndDocument.From(_connection.Local) }, Cancellation);
            _connection.Connect(end.ToEnd());
            _range = new BulkRange(0, _connection.Region.Key, region.Va, region.Rkey, Bytes);
            _writes = Task.Factory.StartNew(WriteAll, TaskCreationOptions.LongRunning);
        }

        private WorkCompletionStatus WriteAll()
        {
            BulkTransfer bulk = new(
                test._peer.Nics[0].Driver, _connection.QueuePair, _connection.Completions, test._peer.Context);
            WorkCompletionStatus status;
            do
            {
                status = bulk.Run(BulkDirection.Write, _range, _enough.Token);
            }
            while (status == WorkCompletionStatus.Success);
            return status;
        }

        private Task<JobDocument> SubmitAsync(string[] after)
        {
            byte[] fill = new byte[GpuCommand.SizeBytes];
            GpuCommand command = new()
            {
                Opcode = GpuOpcode.Fill,
                Target = _context.Context.Results.Address,
                Count = 4,
            };
            command.Write(fill);
            SubmitJobDocument submit = new() { Queue = _queue.Id, Commands = fill };
            submit.After = after;
            return _context.SubmitAsync(submit, Cancellation);
        }
    }
}
