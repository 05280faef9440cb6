using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>Memory of clients that peers reach, in a running host: every kind of region, and who may end it.</summary>
public sealed class RegionTests : IDisposable
{
    private const int Bytes = ContextPeer.Bytes;

    private readonly ControlTestFolder _folder = new();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(ContextRegionKind.Pinned, "127.0.43.2")]
    [InlineData(ContextRegionKind.OnDemand, "127.0.43.3")]
    [InlineData(ContextRegionKind.Implicit, "127.0.43.4")]
    public async Task A_peer_writes_memory_of_a_clients_own_and_the_clients_GPU_finds_it(
        ContextRegionKind kind, string address)
    {
        await using ServedHost served = await StartAsync(address);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        RegionDocument region = await RegisterAsync(context, memory, kind);
        Assert.Equal((memory.Va, (ulong)Bytes), (region.Va, region.LengthBytes));
        await using ContextPeer peer = await ContextPeer.OpenAsync(address, context);
        await peer.FillAsync(0x5A);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
        Assert.Equal(Enumerable.Repeat(0x5A5A_5A5AU, 4), await ReadWordsAsync(context, memory, 4));
        Assert.Equal(Bytes, (await context.GetRegionAsync(region.Id, Cancellation)).BytesPlaced);

        // What the client gets later an implicit region has as well, and no other.
        BufferHandleDocument later = await context.AllocateAsync(Bytes, Cancellation);
        RegionDocument reached = region with { Va = later.Va!.Value };
        Assert.Equal(
            kind == ContextRegionKind.Implicit
                ? WorkCompletionStatus.Success : WorkCompletionStatus.RemoteAccessError,
            peer.Transfer(BulkDirection.Write, reached));
        await context.DeregisterAsync(region.Id, Cancellation);
        await context.CloseBufferAsync(memory.Handle, Cancellation);
    }

    [Fact]
    public async Task Pages_on_demand_may_be_fetched_before_and_a_hole_is_an_access_error()
    {
        await using ServedHost served = await StartAsync("127.0.43.5");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        RegionDocument region = await RegisterAsync(context, memory, ContextRegionKind.OnDemand);
        PrefetchDocument all = new() { Va = region.Va, LengthBytes = Bytes, Write = true };
        ulong free = await ReadFreeBytesAsync(served);
        await context.PrefetchAsync(region.Id, all, Cancellation);
        Assert.Equal(free - Bytes, await ReadFreeBytesAsync(served));
        await ExpectAsync(
            Errno.EINVAL, context.PrefetchAsync(region.Id, all with { LengthBytes = Bytes + 1 }, Cancellation));

        // Unmapped, the region stays and leads nowhere.
        await context.CloseBufferAsync(memory.Handle, Cancellation);
        Assert.Equal(free, await ReadFreeBytesAsync(served));
        await using ContextPeer peer = await ContextPeer.OpenAsync("127.0.43.5", context);
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, peer.Transfer(BulkDirection.Write, region));
    }

    [Theory]
    [InlineData(ContextRegionKind.Dynamic, LegacyPeerPolicy.Tell, "127.0.43.6")]
    [InlineData(ContextRegionKind.PinnedRevocable, LegacyPeerPolicy.Tell, "127.0.43.7")]
    [InlineData(ContextRegionKind.LegacyPeer, LegacyPeerPolicy.Tell, "127.0.43.8")]
    [InlineData(ContextRegionKind.LegacyPeer, LegacyPeerPolicy.EndProcess, "127.0.43.9")]
    public async Task An_owner_moves_and_takes_back_an_object_that_a_client_has_registered(
        ContextRegionKind kind, LegacyPeerPolicy policy, string address)
    {
        await using ServedHost served = await StartAsync(address, new NicConfig { LegacyPeers = policy });
        await MakeAsync(served, "x");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument handle = await context.OpenBufferAsync("gpu0", "x", write: true, Cancellation);
        RegionDocument region = await RegisterAsync(context, handle, kind);
        await using ContextPeer peer = await ContextPeer.OpenAsync(address, context);
        await peer.FillAsync(7);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));

        if (kind == ContextRegionKind.PinnedRevocable)
        {
            await ExpectAsync(Errno.EBUSY, served.Client.EvictAsync("gpu0", "x", Cancellation));
        }
        else
        {
            await served.Client.EvictAsync("gpu0", "x", Cancellation);
        }

        if (policy == LegacyPeerPolicy.EndProcess)
        {
            Assert.Contains(
                "gpu0/x was moved or taken back", await EndOfAsync(context), StringComparison.Ordinal);
            await UntilEmptyAsync(served);
            return;
        }

        bool isLegacy = kind == ContextRegionKind.LegacyPeer;
        Assert.Equal(
            isLegacy ? WorkCompletionStatus.RemoteAccessError : WorkCompletionStatus.Success,
            peer.Transfer(BulkDirection.Write, region));
        ProofDocument proof = await served.Client.RevokeAsync("gpu0", "x", new RevokeObjectDocument(), Cancellation);
        Assert.Equal(RetirementGrade.Retired, proof.Grade);
        Assert.Equal(
            MemoryRegionState.Dead, (await context.GetRegionAsync(region.Id, Cancellation)).State);
        if (!isLegacy)
        {
            Assert.Equal(WorkCompletionStatus.RemoteAccessError, peer.Transfer(BulkDirection.Write, region));
        }

        await context.DeregisterAsync(region.Id, Cancellation);
        Assert.Null(served.Host.Nics[0].Device.FindRegion(region.Rkey));
    }

    [Theory]
    [InlineData(PinnedMemoryPolicy.Keep, "127.0.43.10")]
    [InlineData(PinnedMemoryPolicy.Refuse, "127.0.43.11")]
    [InlineData(PinnedMemoryPolicy.EndProcess, "127.0.43.12")]
    public async Task An_unmap_of_pinned_memory_is_what_the_NICs_policy_says(PinnedMemoryPolicy policy, string address)
    {
        await using ServedHost served = await StartAsync(address, new NicConfig { PinnedMemory = policy });
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        RegionDocument region = await RegisterAsync(context, memory, ContextRegionKind.Pinned);
        await using ContextPeer peer = await ContextPeer.OpenAsync(address, context);
        Task closed = context.CloseBufferAsync(memory.Handle, Cancellation);
        switch (policy)
        {
            case PinnedMemoryPolicy.Refuse:
                Assert.Contains(
                    "deregister the region first",
                    (await ExpectAsync(Errno.EBUSY, closed)).Message,
                    StringComparison.Ordinal);
                break;
            case PinnedMemoryPolicy.EndProcess:
                await ExpectAsync(Errno.ECANCELED, closed);
                break;
            default:
                await closed;
                break;
        }

        if (policy == PinnedMemoryPolicy.EndProcess)
        {
            Assert.Contains("it unmapped ", await EndOfAsync(context), StringComparison.Ordinal);
        }
        else
        {
            // Refused or not: the pages are the region's until it is deregistered.
            Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
            await context.DeregisterAsync(region.Id, Cancellation);
        }

        await context.DisposeAsync();
        await UntilEmptyAsync(served);
    }

    [Theory]
    [InlineData(PinnedMemoryPolicy.Keep, "127.0.43.13")]
    [InlineData(PinnedMemoryPolicy.EndProcess, "127.0.43.14")]
    public async Task Pressure_on_pinned_memory_ends_the_largest_client_only_if_the_policy_says_so(
        PinnedMemoryPolicy policy, string address)
    {
        await using ServedHost served = await StartAsync(address, new NicConfig { PinnedMemory = policy });
        HeldContext small = await PinAsync(served, "small", 64 << 10);
        HeldContext large = await PinAsync(served, "large", 256 << 10);
        await using HeldContext other = await served.Client.OpenGpuAsync("gpu0", "other", Cancellation);
        BufferHandleDocument wanted = await other.AllocateAsync(256 << 10, Cancellation);
        await ExpectAsync(Errno.ENOMEM, RegisterAsync(other, wanted, ContextRegionKind.Pinned)); // 192 KiB are left
        if (policy == PinnedMemoryPolicy.EndProcess)
        {
            Assert.Contains("no memory is left", await EndOfAsync(large), StringComparison.Ordinal);
        }

        // Nobody else was disturbed.
        Assert.Equal(
            policy == PinnedMemoryPolicy.EndProcess ? ["other", "small"] : ["large", "other", "small"],
            (await served.Client.GetComputeAsync(Cancellation)).Gpus[0].Contexts
                .Where(c => c.Ending is null).Select(c => c.Name).Order());
        RegionDocument region = await RegisterAsync(other, wanted, ContextRegionKind.OnDemand);
        PrefetchDocument some = new() { Va = region.Va, LengthBytes = 64 << 10, Write = true };
        await other.PrefetchAsync(region.Id, some, Cancellation);
        await small.DisposeAsync();
        await large.DisposeAsync();
        await other.DisposeAsync();
        await UntilEmptyAsync(served);
    }

    [Fact]
    public async Task What_makes_no_sense_is_refused_by_name_and_a_key_is_of_use_to_no_other_clients_peer()
    {
        await using ServedHost served = await StartAsync(
            "127.0.43.15", new NicConfig { LegacyPeers = LegacyPeerPolicy.Refuse });
        await MakeAsync(served, "x");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        await using HeldContext other = await served.Client.OpenGpuAsync("gpu0", "other", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        BufferHandleDocument o = await context.OpenBufferAsync("gpu0", "x", write: true, Cancellation);
        RegionDocument region = await RegisterAsync(context, memory, ContextRegionKind.Pinned);

        await ExpectAsync(
            Errno.ENOENT, RegisterAsync(context, memory with { Handle = 4711 }, ContextRegionKind.Pinned));
        await ExpectAsync(Errno.ENOENT, RegisterAsync(other, memory with { Handle = 99 }, ContextRegionKind.Pinned));
        await ExpectAsync(Errno.EINVAL, RegisterAsync(context, memory, ContextRegionKind.Dynamic));
        await ExpectAsync(Errno.EINVAL, RegisterAsync(context, o, ContextRegionKind.OnDemand));
        await ExpectAsync(Errno.EOPNOTSUPP, RegisterAsync(context, o, ContextRegionKind.LegacyPeer));
        await MakeAsync(served, "lent", StorageKind.Revocable);
        BufferHandleDocument lent = await context.OpenBufferAsync("gpu0", "lent", write: true, Cancellation);
        await ExpectAsync(Errno.EOPNOTSUPP, RegisterAsync(context, lent, ContextRegionKind.Pinned));
        await ExpectAsync(Errno.ENOENT, other.DeregisterAsync(region.Id, Cancellation));
        await ExpectAsync(Errno.EINVAL, context.PrefetchAsync(
            region.Id, new PrefetchDocument { Va = region.Va, LengthBytes = 4096 }, Cancellation));
        RegisterRegionDocument outside = new()
        {
            Handle = memory.Handle,
            Kind = ContextRegionKind.Pinned,
            OffsetBytes = Bytes - 8,
            LengthBytes = 16,
        };
        await ExpectAsync(Errno.EINVAL, context.RegisterAsync(outside, Cancellation));
        await ExpectAsync(
            Errno.EINVAL,
            context.RegisterAsync(outside with { OffsetBytes = ulong.MaxValue, LengthBytes = 2 }, Cancellation));
        await ExpectAsync(Errno.ENODEV, context.RegisterAsync(outside with { Nic = "rdma7" }, Cancellation));

        await using ContextPeer peer = await ContextPeer.OpenAsync("127.0.43.15", other);
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, peer.Transfer(BulkDirection.Write, region));
        ConnectionEndDocument nonsense = new()
        {
            Gid = "127.0.0.1",
            UdpPort = 4791,
            QpNumber = 2,
            Psn = 0,
            PathMtuBytes = 777,
        };
        await ExpectAsync(Errno.EINVAL, context.ConnectAsync(
            new ConnectContextDocument { Peer = nonsense }, Cancellation));
        Assert.Equal(0, (await context.GetRegionAsync(region.Id, Cancellation)).BytesPlaced);
    }

    [Fact]
    public async Task A_connection_whose_peer_has_left_is_given_back_and_means_nothing_to_others()
    {
        await using ServedHost served = await StartAsync("127.0.43.30");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        await using HeldContext other = await served.Client.OpenGpuAsync("gpu0", "other", Cancellation);
        ConnectionEndDocument peer = new()
        {
            Gid = "127.0.0.1",
            UdpPort = 4791,
            QpNumber = 2,
            Psn = 0,
            PathMtuBytes = 1024,
        };
        List<ConnectionEndDocument> ends = [];
        for (int i = 0; i < RegionService.ConnectionsMax; i++)
        {
            ends.Add(await context.ConnectAsync(new ConnectContextDocument { Peer = peer }, Cancellation));
        }

        await ExpectAsync(
            Errno.EMFILE, context.ConnectAsync(new ConnectContextDocument { Peer = peer }, Cancellation));
        await ExpectAsync(Errno.ENOENT, other.DisconnectAsync(ends[0], cancellation: Cancellation));
        await context.DisconnectAsync(ends[0], "rdma0", Cancellation);
        Assert.Null(served.Host.Nics[0].Device.Port.FindQueuePair(ends[0].QpNumber));
        await ExpectAsync(Errno.ENOENT, context.DisconnectAsync(ends[0], cancellation: Cancellation));
        await context.ConnectAsync(new ConnectContextDocument { Peer = peer }, Cancellation);
    }

    [Fact]
    public async Task A_NIC_that_is_pulled_out_takes_its_regions_along_and_the_client_goes_on()
    {
        await using ServedHost served = await StartAsync("127.0.43.16");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        RegionDocument region = await RegisterAsync(context, memory, ContextRegionKind.Pinned);
        await using ContextPeer peer = await ContextPeer.OpenAsync("127.0.43.16", context);
        await served.Client.UnplugAsync("rdma0", new UnplugDeviceDocument { Surprise = true }, Cancellation);
        await ExpectAsync(Errno.ENOENT, context.GetRegionAsync(region.Id, Cancellation));
        Assert.Equal([0U], await ReadWordsAsync(context, memory, 1));
    }

    private Task<ServedHost> StartAsync(string address, NicConfig? nic = null) => ServedHost.StartAsync(
        _folder,
        address,
        TimeProvider.System,
        devices: ControlTestFolder.Config with
        {
            Nics = [nic ?? new NicConfig()],
            Gpus =
            [
                new GpuConfig
                {
                    VramBytes = 16 << 20,
                    SystemPoolBytes = 16 << 20,
                    Compute = new ComputeConfig { UserMemoryBytes = 512 << 10 },
                },
            ],
        });

    private static Task<RegionDocument> RegisterAsync(
        HeldContext context, BufferHandleDocument handle, ContextRegionKind kind) =>
        context.RegisterAsync(new RegisterRegionDocument { Handle = handle.Handle, Kind = kind }, Cancellation);

    private static async Task<HeldContext> PinAsync(ServedHost served, string name, ulong sizeBytes)
    {
        HeldContext context = await served.Client.OpenGpuAsync("gpu0", name, Cancellation);
        await RegisterAsync(
            context, await context.AllocateAsync(sizeBytes, Cancellation), ContextRegionKind.Pinned);
        return context;
    }

    // By a job of the client's own.
    private static async Task<IReadOnlyList<uint>?> ReadWordsAsync(
        HeldContext context, BufferHandleDocument memory, int count)
    {
        QueueDocument queue = await context.CreateQueueAsync(new CreateQueueDocument { Name = "q" }, Cancellation);
        byte[] command = new byte[GpuCommand.SizeBytes];
        new GpuCommand
        {
            Opcode = GpuOpcode.Copy,
            Target = context.Context.Results.Address,
            A = memory.Address,
            Count = (ulong)count * sizeof(uint),
        }.Write(command);
        JobDocument job = await context.SubmitAsync(
            new SubmitJobDocument { Queue = queue.Id, Commands = command, Results = count }, Cancellation);
        job = await context.WaitAsync(job.Id, Cancellation);
        Assert.Equal((ContextJobState.Done, null), (job.State, job.Error));
        return job.Results;
    }

    private static async Task MakeAsync(ServedHost served, string name, StorageKind storage = StorageKind.Movable)
    {
        ObjectDocument made = await served.Client.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu0", Name = name, SizeBytes = Bytes, Storage = storage },
            Cancellation);
        await served.Client.CommitObjectAsync(made.Id, null, Cancellation);
    }

    private static async Task<ulong> ReadFreeBytesAsync(ServedHost served) =>
        (await served.Client.GetComputeAsync(Cancellation)).Gpus[0].UserMemoryFreeBytes;

    private static async Task<WayleaveException> ExpectAsync(Errno errno, Task refused)
    {
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => refused);
        Assert.Equal(errno, e.Errno);
        return e;
    }

    // The stream's last line.
    private static async Task<string> EndOfAsync(HeldContext context) =>
        (await Assert.ThrowsAsync<WayleaveException>(() => context.Completion)).Message;

    private static async Task UntilEmptyAsync(ServedHost served)
    {
        while ((await served.Client.GetComputeAsync(Cancellation)).Gpus[0].Contexts.Count > 0)
        {
            await Task.Yield();
        }

        using (served.Host.Context.Enter())
        {
            Assert.Equal(served.Host.Gpus[0].UserMemory.PageCount, served.Host.Gpus[0].UserMemory.FreePages);
            Assert.Equal(0, served.Host.Gpus[0].UserMemory.SwapUsed);
        }

        Assert.Empty(served.Host.GetViolations());
    }
}
