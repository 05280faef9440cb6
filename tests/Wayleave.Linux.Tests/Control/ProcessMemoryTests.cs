using Wayleave.Core;
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

/// <summary>
/// Pages of a client of a running host that migrate to its GPU, and a NIC that wants them: the two ways to another
/// device's private pages.
/// </summary>
public sealed class ProcessMemoryTests : IDisposable
{
    private const int Bytes = ContextPeer.Bytes;
    private const long Pages = Bytes / 4096;
    private const ulong RingBytes = 64 * GpuCommand.SizeBytes;

    private readonly ControlTestFolder _folder = new();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(PrivatePagePolicy.BringHome, "127.0.53.2")]
    [InlineData(PrivatePagePolicy.Direct, "127.0.53.3")]
    public async Task A_NIC_gets_pages_that_are_in_a_GPUs_memory_home_or_reaches_them_there(
        PrivatePagePolicy policy, string address)
    {
        bool isDirect = policy == PrivatePagePolicy.Direct;
        await using ServedHost served = await StartAsync(policy, address);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        BufferHandleDocument shown = await MakeAsync(served, context, "shown", Bytes);
        Ring ring = await Ring.OpenAsync(served, context, "gpu0");
        await ring.RunAsync(new GpuCommand
        {
            Opcode = GpuOpcode.Fill,
            Target = memory.Address,
            Count = Bytes,
            Value = 0x3333_3333,
        });
        ComputeGpuDocument filled = await LookAsync(served);
        Assert.Equal(256UL << 10, filled.UserVramBytes);
        Assert.Equal(filled.UserVramBytes - Bytes, filled.UserVramFreeBytes);
        Assert.Equal((Pages, 0L), (filled.PagesMigratedToVram, filled.PagesMigratedHome));

        RegionDocument region = await context.RegisterAsync(
            new RegisterRegionDocument { Handle = memory.Handle, Kind = ContextRegionKind.OnDemand }, Cancellation);
        await using ContextPeer peer = await ContextPeer.OpenAsync(address, context);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Read, region));
        await peer.ExpectAsync(0x33);
        await peer.FillAsync(0x5A);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
        ComputeGpuDocument written = await LookAsync(served);
        Assert.Equal(isDirect ? 0 : Pages, written.PagesMigratedHome);
        Assert.Equal(isDirect ? filled.UserVramFreeBytes : written.UserVramBytes, written.UserVramFreeBytes);

        // The GPU finds what the peer wrote, there or after its pages came back.
        await ring.RunAsync(new GpuCommand
        {
            Opcode = GpuOpcode.Copy,
            A = memory.Address,
            Target = shown.Address,
            Count = Bytes,
        });
        await served.Host.Objects.ForEachPieceAsync(
            served.Host.Objects.Find("gpu0", "shown")!,
            (_, bytes) => Assert.Equal(-1, bytes.IndexOfAnyExcept((byte)0x5A)),
            Cancellation);

        // A pin for long is of the machine's memory, whatever the NIC may reach.
        RegionDocument pinned = await context.RegisterAsync(
            new RegisterRegionDocument { Handle = memory.Handle, Kind = ContextRegionKind.Pinned }, Cancellation);
        ComputeGpuDocument home = await LookAsync(served);
        Assert.Equal(home.UserVramBytes, home.UserVramFreeBytes);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Read, pinned));
        await peer.ExpectAsync(0x5A);
        await context.DisposeAsync();
        while ((await LookAsync(served)).Contexts.Count > 0)
        {
            await Task.Yield();
        }

        using (served.Host.Context.Enter())
        {
            Assert.Equal(served.Host.Gpus[0].UserMemory.PageCount, served.Host.Gpus[0].UserMemory.FreePages);
        }

        Assert.Empty(served.Host.GetViolations());
    }

    [Theory]
    [InlineData(PrivatePagePolicy.BringHome, "127.0.53.8")]
    [InlineData(PrivatePagePolicy.Direct, "127.0.53.9")]
    public async Task A_ring_of_another_GPU_gets_pages_home_or_reaches_them_there(
        PrivatePagePolicy policy, string address)
    {
        bool isDirect = policy == PrivatePagePolicy.Direct;
        GpuConfig gpu1 = Second with { Compute = Second.Compute with { PrivatePages = policy } };
        await using ServedHost served = await StartAsync(PrivatePagePolicy.BringHome, address, gpu1);
        await using HeldContext one = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await one.AllocateAsync(Bytes, Cancellation);
        Ring first = await Ring.OpenAsync(served, one, "gpu0");
        await first.RunAsync(Fill(memory.Address, 0x3333_3333));
        Assert.Equal((Pages, 0L), (await MigratedAsync(served)));

        await using HeldContext two = await served.Client.OpenGpuAsync("gpu1", "c", Cancellation);
        BufferHandleDocument there = await two.ShareAsync(one, memory.Handle, Cancellation);
        BufferHandleDocument shown = await MakeAsync(served, two, "shown", Bytes, "gpu1");
        Ring second = await Ring.OpenAsync(served, two, "gpu1");
        await second.RunAsync(Copy(there.Address, shown.Address));
        await ExpectAsync(served, "gpu1", 0x33);
        Assert.Equal(isDirect ? 0 : Pages, (await MigratedAsync(served)).Home);

        // And the other way: what the second writes where the pages are, the first finds.
        await second.RunAsync(Fill(there.Address, 0x5A5A_5A5A));
        BufferHandleDocument back = await MakeAsync(served, one, "shown", Bytes);
        await first.RunAsync(Copy(memory.Address, back.Address));
        await ExpectAsync(served, "gpu0", 0x5A);
        Assert.Equal(isDirect ? 0 : Pages, (await MigratedAsync(served)).Home);

        // It stays the first one's: when that goes, the other finds nothing there.
        await one.CloseBufferAsync(memory.Handle, Cancellation);
        QueueDocument lost = await second.TryRunAsync(Fill(there.Address, 1));
        Assert.Equal((QueueState.Lost, "EFAULT"), (lost.State, lost.Error));
        await one.DisposeAsync();
        await two.DisposeAsync();
        while ((await served.Client.GetComputeAsync(Cancellation)).Gpus.Any(g => g.Contexts.Count > 0))
        {
            await Task.Yield();
        }

        using (served.Host.Context.Enter())
        {
            Assert.All(served.Host.Gpus, g => Assert.Equal(g.UserMemory.PageCount, g.UserMemory.FreePages));
            Assert.Equal(64, served.Host.Gpus[0].Device.ProcessMemory!.Pages.FreePages);
        }

        Assert.Empty(served.Host.GetViolations());
    }

    [Fact]
    public async Task Memory_is_shared_by_who_has_it_with_another_GPU_of_its_own()
    {
        await using ServedHost served = await StartAsync(PrivatePagePolicy.BringHome, "127.0.53.10", Second);
        await using HeldContext one = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        await using HeldContext two = await served.Client.OpenGpuAsync("gpu1", "c", Cancellation);
        BufferHandleDocument memory = await one.AllocateAsync(Bytes, Cancellation);
        BufferHandleDocument o = await MakeAsync(served, one, "object", Bytes);
        Task<BufferHandleDocument> Share(HeldContext with, HeldContext owner, uint handle) =>
            with.ShareAsync(owner, handle, Cancellation);
        Assert.Equal(Errno.EINVAL, await RefusalAsync(() => Share(one, one, memory.Handle)));
        Assert.Equal(Errno.EINVAL, await RefusalAsync(() => Share(two, one, o.Handle)));
        Assert.Equal(Errno.ENOENT, await RefusalAsync(() => Share(two, one, 4711)));
        BufferHandleDocument there = await Share(two, one, memory.Handle);
        RegisterRegionDocument region = new() { Handle = there.Handle, Kind = ContextRegionKind.OnDemand };
        Assert.Equal(Errno.EINVAL, await RefusalAsync(() => two.RegisterAsync(region, Cancellation)));
        await two.CloseBufferAsync(there.Handle, Cancellation);
        there = await Share(two, one, memory.Handle);

        // The owner dies while a ring of the other is at work there.
        Ring ring = await Ring.OpenAsync(served, two, "gpu1");
        await ring.RunAsync(Fill(there.Address, 7));
        await one.DisposeAsync();
        while ((await LookAsync(served)).Contexts.Count > 0)
        {
            await Task.Yield();
        }

        Assert.Equal("EFAULT", (await ring.TryRunAsync(Fill(there.Address, 8))).Error);
        Assert.Equal(Errno.ENOENT, await RefusalAsync(() => Share(two, one, memory.Handle)));
        using (served.Host.Context.Enter())
        {
            Assert.Equal(served.Host.Gpus[0].UserMemory.PageCount, served.Host.Gpus[0].UserMemory.FreePages);
        }

        Assert.Empty(served.Host.GetViolations());
    }

    [Theory]
    [InlineData("gpu0", false, "127.0.53.11")]
    [InlineData("gpu0", true, "127.0.53.12")]
    [InlineData("gpu1", false, "127.0.53.13")]
    [InlineData("gpu1", true, "127.0.53.14")]
    public async Task Of_two_GPUs_that_share_memory_one_is_pulled_out_and_the_other_goes_on(
        string pulled, bool isSurprise, string address)
    {
        GpuConfig direct = Second with { Compute = Second.Compute with { PrivatePages = PrivatePagePolicy.Direct } };
        await using ServedHost served = await StartAsync(PrivatePagePolicy.BringHome, address, direct);
        await using HeldContext one = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        await using HeldContext two = await served.Client.OpenGpuAsync("gpu1", "c", Cancellation);
        BufferHandleDocument memory = await one.AllocateAsync(Bytes, Cancellation);
        BufferHandleDocument there = await two.ShareAsync(one, memory.Handle, Cancellation);
        Ring first = await Ring.OpenAsync(served, one, "gpu0"), second = await Ring.OpenAsync(served, two, "gpu1");
        await first.RunAsync(Fill(memory.Address, 1));
        await second.RunAsync(Fill(there.Address, 2)); // in the VRAM of the first

        UnpluggedDocument unplugged = await served.Client.UnplugAsync(
            pulled, new UnplugDeviceDocument { Surprise = isSurprise, TimeoutMs = 5000 }, Cancellation);
        Assert.Empty(unplugged.Late);
        if (pulled == "gpu0")
        {
            Assert.Equal("EFAULT", (await second.TryRunAsync(Fill(there.Address, 3))).Error);
            BufferHandleDocument own = await two.AllocateAsync(Bytes, Cancellation);
            await (await Ring.OpenAsync(served, two, "gpu1", "again")).RunAsync(Fill(own.Address, 4));
        }
        else
        {
            await first.RunAsync(Fill(memory.Address, 0x0505_0505));
            BufferHandleDocument shown = await MakeAsync(served, one, "shown", Bytes);
            await first.RunAsync(Copy(memory.Address, shown.Address));
            await ExpectAsync(served, "gpu0", 5);
        }

        Assert.Empty(served.Host.GetViolations());
    }

    [Fact]
    public void To_reach_pages_there_is_for_rings_that_fault()
    {
        ComputeConfig compute = new() { PrivatePages = PrivatePagePolicy.Direct };
        ConfigProblem problem = Assert.Single(
            (ControlTestFolder.Config with { Gpus = [new GpuConfig { Compute = compute }] }).Validate());
        Assert.Equal("gpus[0].compute.private_pages", problem.Where);
    }

    [Fact]
    public async Task What_is_opened_while_a_ring_runs_is_in_its_reach()
    {
        await using ServedHost served = await StartAsync(PrivatePagePolicy.BringHome, "127.0.53.4");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        Ring ring = await Ring.OpenAsync(served, context, "gpu0");
        await ring.RunAsync(new GpuCommand { Opcode = GpuOpcode.Nop });
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        BufferHandleDocument shown = await MakeAsync(served, context, "shown", Bytes);
        await ring.RunAsync(
            new GpuCommand { Opcode = GpuOpcode.Fill, Target = memory.Address, Count = Bytes, Value = 0x7777_7777 });
        await ring.RunAsync(
            new GpuCommand { Opcode = GpuOpcode.Copy, A = memory.Address, Target = shown.Address, Count = Bytes });
        await served.Host.Objects.ForEachPieceAsync(
            served.Host.Objects.Find("gpu0", "shown")!,
            (_, bytes) => Assert.Equal(-1, bytes.IndexOfAnyExcept((byte)0x77)),
            Cancellation);
    }

    [Fact]
    public async Task A_cache_does_not_wait_for_pages_to_come_home_and_has_them_the_next_time()
    {
        await using ServedHost served = await StartAsync(PrivatePagePolicy.Direct, "127.0.53.7");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        Ring ring = await Ring.OpenAsync(served, context, "gpu0");
        await ring.RunAsync(
            new GpuCommand { Opcode = GpuOpcode.Fill, Target = memory.Address, Count = Bytes, Value = 0x2222_2222 });
        RegisterRegionDocument cached = new()
        {
            Handle = memory.Handle,
            Kind = ContextRegionKind.Pinned,
            Cached = true,
        };
        await using ContextPeer peer = await ContextPeer.OpenAsync("127.0.53.7", context);
        List<RegionOrigin?> origins = [];
        for (int i = 0; i < 3; i++)
        {
            RegionDocument region = await context.RegisterAsync(cached, Cancellation);
            origins.Add(region.Cache);
            Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Read, region));
            await peer.ExpectAsync(0x22);
            await context.DeregisterAsync(region.Id, Cancellation);
        }

        Assert.Equal([null, RegionOrigin.Made, RegionOrigin.Found], origins);
        await context.DisposeAsync();
        while ((await LookAsync(served)).Contexts.Count > 0)
        {
            await Task.Yield();
        }

        using (served.Host.Context.Enter())
        {
            Assert.Equal(served.Host.Gpus[0].UserMemory.PageCount, served.Host.Gpus[0].UserMemory.FreePages);
        }
    }

    [Theory]
    [InlineData(false, "127.0.53.5")]
    [InlineData(true, "127.0.53.6")]
    public async Task A_GPU_that_is_pulled_out_with_pages_of_a_client_leaves_nothing_behind(
        bool isSurprise, string address)
    {
        await using ServedHost served = await StartAsync(PrivatePagePolicy.Direct, address);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        Ring ring = await Ring.OpenAsync(served, context, "gpu0");
        await ring.RunAsync(
            new GpuCommand { Opcode = GpuOpcode.Fill, Target = memory.Address, Count = Bytes, Value = 1 });
        RegionDocument region = await context.RegisterAsync(
            new RegisterRegionDocument { Handle = memory.Handle, Kind = ContextRegionKind.OnDemand }, Cancellation);
        await using ContextPeer peer = await ContextPeer.OpenAsync(address, context);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Read, region));

        UnpluggedDocument unplugged = await served.Client.UnplugAsync(
            "gpu0", new UnplugDeviceDocument { Surprise = isSurprise, TimeoutMs = 5000 }, Cancellation);
        Assert.Empty(unplugged.Late);
        Assert.Null(served.Host.Nics[0].Device.FindRegion(region.Rkey));
        using (served.Host.Context.Enter())
        {
            Assert.Equal(served.Host.Gpus[0].UserMemory.PageCount, served.Host.Gpus[0].UserMemory.FreePages);
        }

        Assert.Empty(served.Host.GetViolations());
    }

    [Fact]
    public void Memory_for_pages_that_never_migrate_is_no_configuration()
    {
        ComputeConfig compute = new() { UserVramBytes = 1 << 20 };
        ConfigProblem problem = Assert.Single(
            (ControlTestFolder.Config with { Gpus = [new GpuConfig { Compute = compute }] }).Validate());
        Assert.Equal("gpus[0].compute.user_vram_bytes", problem.Where);
    }

    private static GpuConfig Second => new()
    {
        Name = "gpu1",
        VramBytes = 16 << 20,
        SystemPoolBytes = 16 << 20,
        Compute = new ComputeConfig { UserMemory = GpuUserMemory.Fault },
    };

    private Task<ServedHost> StartAsync(PrivatePagePolicy policy, string address, params GpuConfig[] further) =>
        ServedHost.StartAsync(
        _folder,
        address,
        TimeProvider.System,
        devices: ControlTestFolder.Config with
        {
            Nics = [new NicConfig { PrivatePages = policy }],
            Gpus =
            [
                new GpuConfig
                {
                    VramBytes = 16 << 20,
                    SystemPoolBytes = 16 << 20,
                    Compute = new ComputeConfig
                    {
                        UserMemory = GpuUserMemory.Fault,
                        UserMemoryBytes = 512 << 10,
                        UserVramBytes = 256 << 10,
                    },
                },
                .. further,
            ],
        });

    private static async Task<ComputeGpuDocument> LookAsync(ServedHost served) =>
        (await served.Client.GetComputeAsync(Cancellation)).Gpus[0];

    private static async Task<(long There, long Home)> MigratedAsync(ServedHost served)
    {
        ComputeGpuDocument gpu = await LookAsync(served);
        return (gpu.PagesMigratedToVram, gpu.PagesMigratedHome);
    }

    private static GpuCommand Fill(ulong address, uint value) =>
        new() { Opcode = GpuOpcode.Fill, Target = address, Count = Bytes, Value = value };

    private static GpuCommand Copy(ulong from, ulong to) =>
        new() { Opcode = GpuOpcode.Copy, A = from, Target = to, Count = Bytes };

    private static async Task<Errno> RefusalAsync(Func<Task> action) =>
        (await Assert.ThrowsAsync<WayleaveException>(action)).Errno;

    private static Task ExpectAsync(ServedHost served, string gpu, byte value) =>
        served.Host.Objects.ForEachPieceAsync(
            served.Host.Objects.Find(gpu, "shown")!,
            (_, bytes) => Assert.Equal(-1, bytes.IndexOfAnyExcept(value)),
            Cancellation);

    private static async Task<BufferHandleDocument> MakeAsync(
        ServedHost served, HeldContext context, string name, ulong sizeBytes, string gpu = "gpu0")
    {
        ObjectDocument made = await served.Client.CreateObjectAsync(
            new CreateObjectDocument { Device = gpu, Name = name, SizeBytes = sizeBytes }, Cancellation);
        await served.Client.CommitObjectAsync(made.Id, null, Cancellation);
        return await context.OpenBufferAsync(gpu, name, write: true, Cancellation);
    }

    /// <summary>A ring of a context, in an object of its GPU, and commands one after the other.</summary>
    private sealed class Ring(ServedHost served, HeldContext context, string gpu, string name, QueueDocument queue)
    {
        private ulong _written;

        public static async Task<Ring> OpenAsync(
            ServedHost served, HeldContext context, string gpu, string name = "ring")
        {
            BufferHandleDocument ring = await MakeAsync(served, context, name, RingBytes, gpu);
            return new Ring(served, context, gpu, name, await context.CreateQueueAsync(
                new CreateQueueDocument
                {
                    Name = "ring",
                    RingAddress = ring.Address,
                    RingCommands = (uint)(RingBytes / GpuCommand.SizeBytes),
                },
                Cancellation));
        }

        public async Task RunAsync(GpuCommand command)
        {
            QueueDocument seen = await TryRunAsync(command);
            Assert.Equal((QueueState.Idle, _written, null), (seen.State, seen.Done, seen.Error));
        }

        public async Task<QueueDocument> TryRunAsync(GpuCommand command)
        {
            await served.Host.Objects.ForEachPieceAsync(
                served.Host.Objects.Find(gpu, name)!,
                _written++ * GpuCommand.SizeBytes,
                GpuCommand.SizeBytes,
                (_, bytes) => command.Write(bytes),
                Cancellation);
            QueueDocument seen = await context.RingDoorbellAsync(queue.Id, _written, Cancellation);
            while (seen.State == QueueState.Busy)
            {
                await Task.Yield();
                seen = await context.GetQueueAsync(queue.Id, Cancellation);
            }

            return seen;
        }
    }
}
