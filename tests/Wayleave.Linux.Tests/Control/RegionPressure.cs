using Wayleave.Core;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Wayleave.Linux.UserFaults;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>
/// Clients of a host, each with a region and a peer on a host of its own. In each round a peer writes, reads back and
/// compares; what is taken away meanwhile is the business of each kind.
/// </summary>
/// <param name="served">The host.</param>
/// <param name="address">The last byte of the first peer's address.</param>
/// <param name="rounds">Of each client.</param>
internal sealed class RegionPressure(ServedHost served, int address, int rounds)
{
    private const int Bytes = ContextPeer.Bytes;
    private const ulong RingBytes = 64 * GpuCommand.SizeBytes;
    private const int DiscardsPerRound = 16;

    private readonly List<HeldContext> _contexts = [];
    private int _moves;
    private int _keysLost;

    /// <summary>Objects that went to system memory and back.</summary>
    public int Moves => _moves;

    /// <summary>Keys of legacy peers that died by that.</summary>
    public int KeysLost => _keysLost;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    /// <summary>Pages of the client's own, which its neighbours' faults take unless they are pinned.</summary>
    public async Task UseOwnMemoryAsync(ContextRegionKind kind)
    {
        (HeldContext context, uint number, string at) = await OpenAsync();
        ulong sizeBytes = kind == ContextRegionKind.Pinned ? Bytes : 2UL * Bytes;
        BufferHandleDocument memory = await context.AllocateAsync(sizeBytes, Cancellation);
        RegionDocument region = await RegisterAsync(context, memory.Handle, kind);
        await using ContextPeer peer = await ContextPeer.OpenAsync(at, context);
        for (uint round = 0; round < rounds; round++)
        {
            // Each half in turn, so that the other one is there to be taken.
            ulong offset = round % 2 * (sizeBytes - Bytes);
            await WriteAndReadAsync(peer, region with { Va = region.Va + offset }, Seed(number, round));
        }
    }

    /// <summary>A peer writes one half, the GPU doubles it into the other, from where the peer reads.</summary>
    public async Task ComputeOnOwnMemoryAsync(GpuUserMemory mode)
    {
        (HeldContext context, uint number, string at) = await OpenAsync();
        BufferHandleDocument memory = await context.AllocateAsync(2 * Bytes, Cancellation);
        RegionDocument region = await RegisterAsync(context, memory.Handle, ContextRegionKind.OnDemand);
        Engine engine = await Engine.OpenAsync(served, context, usesRing: mode == GpuUserMemory.Fault);
        await using ContextPeer peer = await ContextPeer.OpenAsync(at, context);
        for (uint round = 0; round < rounds; round++)
        {
            uint seed = Seed(number, round);
            await peer.FillWordsAsync(seed);
            Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
            await engine.RunAsync(new GpuCommand
            {
                Opcode = GpuOpcode.Add,
                Target = memory.Address + Bytes,
                A = memory.Address,
                B = memory.Address,
                Count = Bytes / 4,
            });
            Assert.Equal(
                WorkCompletionStatus.Success,
                peer.Transfer(BulkDirection.Read, region with { Va = region.Va + Bytes }));
            await peer.ExpectWordsAsync(seed, factor: 2);
        }
    }

    /// <summary>
    /// An object that its owner moves away and back all the time, or tries to. A legacy peer loses its key by that, as
    /// it did with PeerDirect, and begins the round anew.
    /// </summary>
    public async Task UseObjectAsync(ContextRegionKind kind)
    {
        (HeldContext context, uint number, string at) = await OpenAsync();
        string name = $"{kind}-{number}";
        ObjectDocument made = await served.Client.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu0", Name = name, SizeBytes = Bytes }, Cancellation);
        await served.Client.CommitObjectAsync(made.Id, null, Cancellation);
        BufferHandleDocument handle = await context.OpenBufferAsync("gpu0", name, write: true, Cancellation);
        RegionDocument region = await RegisterAsync(context, handle.Handle, kind);
        await using ContextPeer peer = await ContextPeer.OpenAsync(at, context);
        using SemaphoreSlim turns = new(0);
        using CancellationTokenSource enough = CancellationTokenSource.CreateLinkedTokenSource(Cancellation);
        Task moves = MoveAsync(name, kind, turns, enough.Token);
        for (uint round = 0; round < rounds; round++)
        {
            turns.Release(); // one move begins in each round, wherever in it
            uint seed = Seed(number, round);
            while (true)
            {
                await peer.FillWordsAsync(seed);
                WorkCompletionStatus status = peer.Transfer(BulkDirection.Write, region);
                if (status == WorkCompletionStatus.Success)
                {
                    await peer.FillWordsAsync(0);
                    status = peer.Transfer(BulkDirection.Read, region);
                }

                if (status == WorkCompletionStatus.Success)
                {
                    await peer.ExpectWordsAsync(seed);
                    break;
                }

                Assert.Equal(
                    (ContextRegionKind.LegacyPeer, WorkCompletionStatus.RemoteAccessError), (kind, status));
                Assert.Equal(
                    MemoryRegionState.Dead, (await context.GetRegionAsync(region.Id, Cancellation)).State);
                Interlocked.Increment(ref _keysLost);
                await context.DeregisterAsync(region.Id, Cancellation);
                region = await RegisterAsync(context, handle.Handle, kind);
            }
        }

        await enough.CancelAsync();
        await moves;
    }

    /// <summary>Pages of this process itself, which it throws out of its table meanwhile.</summary>
    public async Task UseProcessMemoryAsync()
    {
        if (!UserFaultRegion.IsSupported(out _))
        {
            return; // WatchedMemoryTests skip and say why
        }

        (HeldContext context, uint number, string at) = await OpenAsync();
        UserFaultRegion memory = UserFaultRegion.Create(Bytes);
        ContextBuffer buffer = await served.Host.Compute.Memory.TakeOverAsync(
            served.Host.Compute.List().Single(c => c.Name == NameOf(number)), memory);
        RegionDocument region = await RegisterAsync(context, buffer.Handle, ContextRegionKind.OnDemand);
        await using ContextPeer peer = await ContextPeer.OpenAsync(at, context);
        using SemaphoreSlim turns = new(0);
        using CancellationTokenSource enough = CancellationTokenSource.CreateLinkedTokenSource(Cancellation);
        Task discards = Task.Factory.StartNew(
            () => Discard(memory, turns, enough.Token), TaskCreationOptions.LongRunning);
        byte[] seen = GC.AllocateArray<byte>(Bytes, pinned: true);
        for (uint round = 0; round < rounds; round++)
        {
            turns.Release(DiscardsPerRound);
            uint seed = Seed(number, round);
            await WriteAndReadAsync(peer, region, seed);
            UserFaultRegion.Load(memory.Addresses.Start, seen);
            ContextPeer.ExpectWords(seen, seed);
        }

        await enough.CancelAsync();
        await discards;
    }

    /// <summary>Closes every client, and waits until the host has let go of what they had.</summary>
    public async Task EndAsync()
    {
        foreach (HeldContext context in _contexts)
        {
            await context.DisposeAsync();
        }

        while ((await served.Client.GetComputeAsync(Cancellation)).Gpus[0].Contexts.Count > 0)
        {
            await Task.Yield();
        }
    }

    private static async Task WriteAndReadAsync(ContextPeer peer, RegionDocument region, uint seed)
    {
        await peer.FillWordsAsync(seed);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
        await peer.FillWordsAsync(0);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Read, region));
        await peer.ExpectWordsAsync(seed);
    }

    private static Task<RegionDocument> RegisterAsync(HeldContext context, uint handle, ContextRegionKind kind) =>
        context.RegisterAsync(new RegisterRegionDocument { Handle = handle, Kind = kind }, Cancellation);

    private static uint Seed(uint number, uint round) => (number << 24) + round + 1;

    private static string NameOf(uint number) => $"client-{number}";

    private async Task<(HeldContext Context, uint Number, string Address)> OpenAsync()
    {
        uint number;
        lock (_contexts)
        {
            number = (uint)_contexts.Count + 1;
            _contexts.Add(null!);
        }

        HeldContext context = await served.Client.OpenGpuAsync("gpu0", NameOf(number), Cancellation);
        _contexts[(int)number - 1] = context;
        await Task.Yield();
        return (context, number, $"127.0.47.{address + number}");
    }

    // So many in each round, and no more: a packet needs its pages for a moment, and who throws them out without end
    // keeps it away without end.
    private static void Discard(UserFaultRegion memory, SemaphoreSlim turns, CancellationToken enough)
    {
        try
        {
            while (true)
            {
                turns.Wait(enough);
                UserFaultRegion.Discard(memory.Addresses);
            }
        }
        catch (OperationCanceledException) when (enough.IsCancellationRequested)
        {
            // The rounds are over.
        }
    }

    // What is pinned stays: it says EBUSY.
    private async Task MoveAsync(string name, ContextRegionKind kind, SemaphoreSlim turns, CancellationToken enough)
    {
        try
        {
            while (true)
            {
                await turns.WaitAsync(enough);
                try
                {
                    await served.Client.EvictAsync("gpu0", name, Cancellation);
                    await served.Client.RestoreAsync("gpu0", name, Cancellation);
                    Interlocked.Increment(ref _moves);
                }
                catch (WayleaveException e) when (
                    e.Errno == Errno.EBUSY && kind == ContextRegionKind.PinnedRevocable)
                {
                    // See above.
                }
            }
        }
        catch (OperationCanceledException) when (enough.IsCancellationRequested)
        {
            // The rounds are over.
        }
    }

    /// <summary>The GPU at the service of one client, by jobs or by a ring of its own.</summary>
    private sealed class Engine(ServedHost served, HeldContext context, ulong queue, bool usesRing)
    {
        private const string Ring = "ring";

        private ulong _written;

        public static async Task<Engine> OpenAsync(ServedHost served, HeldContext context, bool usesRing)
        {
            CreateQueueDocument create = new() { Name = "q" };
            if (usesRing)
            {
                ObjectDocument made = await served.Client.CreateObjectAsync(
                    new CreateObjectDocument { Device = "gpu0", Name = Ring, SizeBytes = RingBytes }, Cancellation);
                await served.Client.CommitObjectAsync(made.Id, null, Cancellation);
                BufferHandleDocument ring = await context.OpenBufferAsync("gpu0", Ring, write: false, Cancellation);
                create = new CreateQueueDocument
                {
                    Name = "q",
                    RingAddress = ring.Address,
                    RingCommands = (uint)(RingBytes / GpuCommand.SizeBytes),
                };
            }

            return new Engine(served, context, (await context.CreateQueueAsync(create, Cancellation)).Id, usesRing);
        }

        public async Task RunAsync(GpuCommand command)
        {
            byte[] bytes = new byte[GpuCommand.SizeBytes];
            command.Write(bytes);
            if (!usesRing)
            {
                JobDocument job = await context.SubmitAsync(
                    new SubmitJobDocument { Queue = queue, Commands = bytes }, Cancellation);
                job = await context.WaitAsync(job.Id, Cancellation);
                Assert.Equal((ContextJobState.Done, null), (job.State, job.Error));
                return;
            }

            ulong at = _written++ * GpuCommand.SizeBytes % RingBytes;
            DeviceObject ring = served.Host.Objects.Find("gpu0", Ring)!;
            await served.Host.Objects.ForEachPieceAsync(
                ring, at, GpuCommand.SizeBytes, (_, piece) => bytes.CopyTo(piece), Cancellation);
            QueueDocument state = await context.RingDoorbellAsync(queue, _written, Cancellation);
            while (state.State == QueueState.Busy)
            {
                await Task.Yield();
                state = await context.GetQueueAsync(queue, Cancellation);
            }

            Assert.Equal((QueueState.Idle, _written, null), (state.State, state.Done, state.Error));
        }
    }
}
