using System.Diagnostics;
using System.Globalization;
using System.Net;
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
    internal const int Bytes = 64 << 10;
    private const string Address = "127.0.45.2";

    // In an order in which each has what it needs; a seed changes it within that.
    private static readonly (string Step, string[] Needs)[] s_steps =
    [
        ("broker", []),
        ("give", ["broker"]),
        ("take", ["broker"]),
        ("work", ["broker"]),
        ("fences", ["work", "take"]),
        ("rings", ["work"]),
        ("keys", ["broker"]),
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
            Gpus =
            [
                new GpuConfig
                {
                    VramBytes = 64 << 20,
                    SystemPoolBytes = 16 << 20,

                    // A job that never ends is the test's to end, on however busy a machine.
                    Compute = new ComputeConfig { HangLimit = ComputeConfig.HangLimitMax },
                },
            ],
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
        await using DeathBystander bystander =
            await DeathBystander.OpenAsync(_served, _broker.SocketPath, _peer);
        DeathLedger before = await DeathLedger.TakeAsync(_served, _broker.Store);

        string[] steps = order[..(last + 1)];
        using VictimProcess victim = StartVictim(seed, steps);
        using DeathExchange exchange = DeathExchange.Start(Meeting, bystander, _peer);
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
                (await DeathLedger.TakeAsync(_served, _broker.Store)).PendingPoints == before.PendingPoints + 3);
            await UntilAsync("a peer writes and the other program has the fences", () =>
                Task.FromResult(exchange is { Writes: not null, Fences: > 0 }));
            exchange.ExpectWaiting();
            ExpectEverything(before, await DeathLedger.TakeAsync(_served, _broker.Store), taken);
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

        await exchange.ExpectToldAsync();
        exchange.Dispose();
        await ExpectLedgerAsync(before);
        ExpectGone(taken);
        await bystander.ExpectUndisturbedAsync();
    }

    [Fact]
    public async Task A_host_that_forgets_the_regions_of_the_dead_is_found_out()
    {
        Host.Compute.Regions.EndsWithClient = false;
        DeathLedger before = await DeathLedger.TakeAsync(_served, _broker.Store);
        using VictimProcess victim = StartVictim(0, ["context", "memory", "objects"]);
        await victim.UntilSaysAsync("end objects");
        Taken taken = TakeNote();
        Task<WorkCompletionStatus> writes = WriteToVictim(ContextRegionKind.Pinned);
        ContextRegion pinned = taken.Contexts[0].Regions.First(r => r.Kind == ContextRegionKind.Pinned);
        await UntilAsync("a peer writes there", () => Task.FromResult(pinned.Region.BytesPlaced > 0));
        victim.Kill();
        await UntilAsync("its context has ended", () => Task.FromResult(Host.Compute.List().Count == 0));

        // Its pages are not free, its keys are alive, and a peer still writes to what it had pinned.
        Assert.NotEqual(before, await DeathLedger.TakeAsync(_served, _broker.Store));
        Assert.Contains(taken.Keys, k => Host.Nics[0].Device.FindRegion(k) is { State: MemoryRegionState.Valid });
        Assert.False(writes.IsCompleted);
        foreach (ComputeContext context in taken.Contexts)
        {
            await Host.Compute.Regions.EndAllAsync(context);
        }

        Assert.NotEqual(WorkCompletionStatus.Success, await writes);
    }

    [Fact]
    public async Task A_host_that_forgets_the_keys_of_a_dead_program_is_found_out()
    {
        _broker.Store.EndsUses = false;
        await using DeathBystander bystander =
            await DeathBystander.OpenAsync(_served, _broker.SocketPath, _peer);
        DeathLedger before = await DeathLedger.TakeAsync(_served, _broker.Store);
        using VictimProcess victim = StartVictim(0, ["broker", "keys"]);
        using DeathExchange exchange = DeathExchange.Start(Meeting, bystander, _peer);
        await victim.UntilSaysAsync("end keys");
        victim.Kill();
        exchange.Stop();
        await UntilAsync("its connection has ended", () =>
            Task.FromResult(AccountOf(victim.Id, BrokerAccount.Connections) == 0));

        // Its keys are on its account, and a peer still writes to its memory, which is nobody else's.
        DeathLedger now = await DeathLedger.TakeAsync(_served, _broker.Store);
        Assert.Equal((before.Keys + 5, before.Programs + 1), (now.Keys, now.Programs));
        Assert.True(now.VramFree < before.VramFree);
        BrokerNicUse[] left = [.. _broker.Store.Regions.AllLocked.Reverse()];
        long placed = left.OfType<BrokerRegion>().Sum(r => r.Region.BytesPlaced);
        await UntilAsync("a peer still writes there", () =>
            Task.FromResult(left.OfType<BrokerRegion>().Sum(r => r.Region.BytesPlaced) > placed));
        Array.ForEach(left, u => u.End());
        await exchange.ExpectToldAsync();
        await UntilAsync("the ledger is as before", async () =>
            await DeathLedger.TakeAsync(_served, _broker.Store) == before);
    }

    [Fact]
    public async Task A_host_that_tells_nobody_of_the_fences_of_the_dead_is_found_out()
    {
        _broker.Store.Syncs.Signals = false;
        await using DeathBystander bystander =
            await DeathBystander.OpenAsync(_served, _broker.SocketPath, _peer);
        using VictimProcess victim = StartVictim(0, ["broker", "take", "work", "fences"]);
        using DeathExchange exchange = DeathExchange.Start(Meeting, bystander, _peer);
        await victim.UntilSaysAsync("end fences");
        await UntilAsync("the other program has them", () => Task.FromResult(exchange.Fences > 0));
        victim.Kill();
        await UntilAsync("nothing is on its account but what is given away", () =>
            Task.FromResult(AccountOf(victim.Id, BrokerAccount.Jobs) == 0));
        exchange.ExpectWaiting();
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

    private long AccountOf(int processId, BrokerAccount account)
    {
        using (Host.Context.Enter())
        {
            return _broker.Store.Programs.AllLocked.First(p => p.ProcessId == processId).Ledger[account];
        }
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

    private static void ExpectEverything(DeathLedger before, DeathLedger now, Taken taken)
    {
        int keys = UserFaultRegion.IsSupported(out _) ? 8 : 7;
        Assert.Equal((keys, 1), (taken.Keys.Length, taken.Pairs.Length));
        Assert.True(now.VramFree < before.VramFree && now.FreePages < before.FreePages, now.ToString());
        Assert.True(now.Attachments >= before.Attachments + 4, now.ToString()); // of objects that are not its own
        Assert.Equal(
            (before.Contexts + 2, before.Leases + 1, before.Resources + 1, before.Programs + 1, before.Objects + 1),
            (now.Contexts, now.Leases, now.Resources, now.Programs, now.Objects));
        Assert.Equal((before.Shared + 5, before.Keys + 5), (now.Shared, now.Keys)); // three keys and two queue pairs
        Assert.True(now.SharedAttachments >= before.SharedAttachments + 7, now.ToString());
        Assert.True(now.Descriptors >= before.Descriptors + 6, now.ToString()); // of memory, and five fences
    }

    private void ExpectGone(Taken taken)
    {
        Assert.All(taken.Keys, k => Assert.Null(Host.Nics[0].Device.FindRegion(k)));
        Assert.All(taken.Pairs, p => Assert.NotEqual(QueuePairState.ReadyToSend, p.State));
        Assert.All(taken.Contexts, c => Assert.True(c.Ending!.IsCompletedSuccessfully));
    }

    private async Task ExpectLedgerAsync(DeathLedger before)
    {
        DeathLedger now = await DeathLedger.TakeAsync(_served, _broker.Store);
        long start = Stopwatch.GetTimestamp();
        while (now != before && Stopwatch.GetElapsedTime(start) < Patience.Max)
        {
            await Task.Delay(5, Cancellation);
            now = await DeathLedger.TakeAsync(_served, _broker.Store);
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
            Assert.True(Stopwatch.GetElapsedTime(start) < Patience.Max, $"never came true: {what}");
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

    /// <summary>What the victim had when it died.</summary>
    private sealed record Taken(ComputeContext[] Contexts, uint[] Keys, QueuePair[] Pairs);
}
