using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Removal;
using Wayleave.Linux.Tests.Control;
using Xunit;

namespace Wayleave.Linux.Tests.Objects;

/// <summary>What a new owner of device memory finds in it, on a running host with mapped memory.</summary>
public class ObjectMemoryTests
{
    private const ulong AllOfVram = 64 << 20;

    [Theory]
    [InlineData(StorageKind.Movable)]
    [InlineData(StorageKind.Revocable)]
    public async Task Memory_is_cleared_before_a_new_owner_sees_it(StorageKind storage)
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        await using WayleaveHost host = await WayleaveHost.StartAsync(ControlTestFolder.Config);
        DeviceObject old = await host.Objects.CreateAsync("gpu0", "old", AllOfVram, storage, cancellation);
        await host.Objects.ForEachPieceAsync(old, (_, bytes) => bytes.Fill(0xA5), cancellation);
        await host.Objects.CommitAsync(old, null);
        if (storage == StorageKind.Movable)
        {
            // Its way through system memory leaves the bytes there too.
            await host.Objects.EvictAsync(old);
            await host.Objects.RestoreAsync(old);
        }

        Assert.Equal(RetirementGrade.Retired, (await host.Objects.RevokeAsync(old, new RevokePolicy())).Grade);

        // All of VRAM was the old owner's, so all that the new one gets was.
        DeviceObject next = await host.Objects.CreateAsync("gpu0", "next", AllOfVram, storage, cancellation);
        bool isClear = true;
        ulong seen = 0;
        await host.Objects.ForEachPieceAsync(
            next,
            (_, bytes) =>
            {
                isClear &= !bytes.ContainsAnyExcept((byte)0);
                seen += (ulong)bytes.Length;
            },
            cancellation);
        Assert.Equal((true, AllOfVram), (isClear, seen));
    }

    [Fact]
    public async Task Two_commits_of_one_name_leave_one_object()
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        await using WayleaveHost host = await WayleaveHost.StartAsync(ControlTestFolder.Config);
        DeviceObject[] made = new DeviceObject[8];
        for (int i = 0; i < made.Length; i++)
        {
            made[i] = await host.Objects.CreateAsync("gpu0", "name", 4096, StorageKind.Movable, cancellation);
        }

        await Task.WhenAll(made.Select(o => Task.Run(() => host.Objects.CommitAsync(o, null), cancellation)));
        Assert.Same(host.Objects.Find("gpu0", "name"), Assert.Single(host.Objects.List()));
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task Who_finds_the_ring_of_the_copy_engine_full_asks_again_by_the_clock()
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        ManualClock clock = new();
        await using WayleaveHost host = await WayleaveHost.StartAsync(
            ControlTestFolder.Config, new WayleaveHostOptions { Clock = clock });
        GpuHandle gpu = host.Gpus[0];
        while (!gpu.Device.CopyEngine.TryEnter())
        {
            await Task.Yield(); // the time limit of the test ends it
        }

        for (int i = 0; i < new GpuOptions().CopyRingSlots; i++)
        {
            await host.Objects.CreateAsync("gpu0", $"{i}", 4096, null, cancellation);
        }

        using CancellationTokenSource left = new();
        Task<DeviceObject> waits = host.Objects.CreateAsync("gpu0", "waits", 4096, null, cancellation);
        Task<DeviceObject> leaves = host.Objects.CreateAsync("gpu0", "leaves", 4096, null, left.Token);
        await left.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => leaves);
        gpu.Device.CopyEngine.Exit();
        while (CountJobs() != 0)
        {
            await Task.Delay(1, cancellation);
        }

        Assert.False(waits.IsCompleted); // there is room, and nobody has spent a processor on asking for it
        clock.Advance(TimeSpan.FromMilliseconds(1));
        Assert.Equal("waits", (await waits).Name);

        int CountJobs()
        {
            using (host.Context.Enter())
            {
                return gpu.Device.CopyEngine.Jobs.Count;
            }
        }
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_device_that_left_has_no_object_that_was_being_made_when_the_removal_began()
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        await using WayleaveHost host = await WayleaveHost.StartAsync(ControlTestFolder.Config);
        GpuHandle gpu = host.Gpus[0];
        DeviceObject first = await host.Objects.CreateAsync("gpu0", "first", AllOfVram, null, cancellation);
        await host.Objects.CommitAsync(first, null);
        await host.Objects.Sha256Async(first, cancellation); // its clear has ended, so that it can be evicted
        while (!gpu.Device.CopyEngine.TryEnter())
        {
            await Task.Yield(); // the time limit of the test ends it
        }

        Task<DeviceObject> late = host.Objects.CreateAsync("gpu0", "late", AllOfVram, null, cancellation);
        Assert.False(late.IsCompleted); // it waits for the eviction of the first
        Task<RemovalResult> removal = new DeviceRemoval(host).RunAsync(
            "gpu0", new RemovalRequest(IsSurprise: false, Patience.Max));
        gpu.Device.CopyEngine.Exit();
        RemovalResult result = await removal;

        Assert.Empty(host.Objects.List());
        Assert.True(late.IsCompleted);
        Assert.Equal(late.IsCompletedSuccessfully ? 2 : 1, result.Proofs.Count);
        Assert.All(result.Proofs, p => Assert.True(p.IsSufficient));
    }

    [Fact]
    public async Task An_object_of_a_device_that_leaves_is_not_lent()
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        await using WayleaveHost host = await WayleaveHost.StartAsync(ControlTestFolder.Config);
        DeviceObject o = await host.Objects.CreateAsync("gpu0", "object", 4096, null, cancellation);
        Assert.True(host.Gpus[0].Presence.TryLeave());
        ConnectionEnd peer = new ConnectionEndDocument
        {
            Gid = "127.0.0.1",
            UdpPort = 4791,
            QpNumber = 17,
            Psn = 0,
            PathMtuBytes = 4096,
        }.ToEnd();

        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => host.Leases.LendAsync(o, new LeaseRequest(LeaseAccess.Write, ImporterKind.Dynamic, peer)));

        Assert.Equal((Errno.ENODEV, "lend gpu0/object", "gpu0 was pulled out"), (e.Errno, e.Operation, e.Reason));
        Assert.Empty(host.Leases.List());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Who_reads_memory_of_a_device_that_is_just_pulled_out_is_told_that(bool isRevoked)
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        await using WayleaveHost host = await WayleaveHost.StartAsync(ControlTestFolder.Config);
        DeviceObject o = await host.Objects.CreateAsync("gpu0", "o", 4 << 20, StorageKind.Movable, cancellation);
        Task revoked = Task.CompletedTask;
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => host.Objects.ForEachPieceAsync(o, (_, _) => PullOut(), cancellation));
        Assert.Equal(Errno.ENODEV, e.Errno);
        Assert.Contains("gpu0 was pulled out", e.Message, StringComparison.Ordinal);
        await revoked;

        // What a surprise does, to its half or whole: nothing answers any more, and then the memory is taken back.
        void PullOut()
        {
            StopAnswering(host, o.Owner);
            revoked = isRevoked ? host.Objects.RevokeAsync(o, new RevokePolicy()) : revoked;
        }
    }

    [Fact]
    public async Task Who_reads_results_of_jobs_on_a_device_that_is_just_pulled_out_is_told_that()
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        await using WayleaveHost host = await WayleaveHost.StartAsync(ControlTestFolder.Config);
        GpuHandle gpu = Assert.Single(host.Gpus);
        ComputeContext context = await host.Compute.OpenAsync(gpu, "c", cancellation: cancellation);
        Assert.Single(await host.Compute.Jobs.ReadResultsAsync(context, 1, cancellation));
        StopAnswering(host, gpu);
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => host.Compute.Jobs.ReadResultsAsync(context, 1, cancellation));
        Assert.Equal(Errno.ENODEV, e.Errno);
        Assert.Contains("gpu0 was pulled out", e.Message, StringComparison.Ordinal);
    }

    // The first half of a surprise.
    private static void StopAnswering(WayleaveHost host, IObjectDevice device)
    {
        Assert.True(device.Presence.TryLeave());
        using (host.Context.Enter())
        {
            host.Fabric.Unplug(device.Function);
        }
    }
}
