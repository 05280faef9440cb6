using Wayleave.Core;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Transfers;
using Wayleave.Linux.UserFaults;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>
/// Memory of a real process, watched by userfaultfd, that a host's GPU and NIC reach: its faults are served, and what
/// the process does to it they hear. This process touches it through P/Invoke alone.
/// </summary>
public sealed class WatchedMemoryTests : IDisposable
{
    private const int Page = UserFaultRegion.PageBytes;
    private const int Bytes = ContextPeer.Bytes;

    private readonly ControlTestFolder _folder = new();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(GpuUserMemory.WaitForFences, "127.0.46.2")]
    [InlineData(GpuUserMemory.DrainLocally, "127.0.46.3")]
    public async Task A_peer_a_GPU_and_the_process_see_the_same_bytes(GpuUserMemory mode, string address)
    {
        UserFaultRegion memory = Create();
        await using ServedHost served = await StartAsync(address, mode);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        ContextBuffer buffer = await TakeOverAsync(served, memory);
        RegionDocument region = await RegisterAsync(context, buffer, ContextRegionKind.OnDemand);
        Assert.Equal(memory.Addresses.Start, region.Va);
        await using ContextPeer peer = await ContextPeer.OpenAsync(address, context);
        await peer.FillAsync(0x5A);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
        Assert.All(Load(memory.Addresses.Start, Page), b => Assert.Equal(0x5A, b));

        // The process writes, the GPU adds, the process reads.
        UserFaultRegion.Store(memory.Addresses.Start + Page, [1, 0, 0, 0]);
        await RunAsync(context, new GpuCommand
        {
            Opcode = GpuOpcode.Add,
            Target = buffer.Address + Page,
            A = buffer.Address + Page,
            B = buffer.Address + Page,
            Count = 1,
        });
        Assert.Equal([2, 0, 0, 0], Load(memory.Addresses.Start + Page, 4));

        // Pages that the process has thrown out of its table come again, with what is in the memfd.
        long faults = served.Host.Nics[0].Device.Port.Stats.Faults;
        UserFaultRegion.Discard(memory.Addresses);
        await UntilAsync(served, s => !s.TryReadNow(memory.Addresses.Start, new byte[1]));
        await peer.FillAsync(0x33);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
        Assert.True(served.Host.Nics[0].Device.Port.Stats.Faults > faults, "the NIC kept what was thrown away");
        Assert.Equal([0x33], Load(memory.Addresses.Start, 1));
        WayleaveException pinned = await Assert.ThrowsAsync<WayleaveException>(
            () => RegisterAsync(context, buffer, ContextRegionKind.Pinned));
        Assert.Equal(Errno.EOPNOTSUPP, pinned.Errno);
    }

    [Theory]
    [InlineData(true, "127.0.46.4")]
    [InlineData(false, "127.0.46.5")]
    public async Task What_the_process_unmaps_or_moves_peers_reach_no_more_unless_nobody_tells_them(
        bool tells, string address)
    {
        UserFaultRegion memory = Create();
        await using ServedHost served = await StartAsync(address, GpuUserMemory.WaitForFences);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        ContextBuffer buffer = await TakeOverAsync(served, memory);
        RegionDocument region = await RegisterAsync(context, buffer, ContextRegionKind.Implicit);
        await using ContextPeer peer = await ContextPeer.OpenAsync(address, context);
        await peer.FillAsync(1);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
        served.Host.Compute.List()[0].Watched[0].TellsMirrors = tells;

        Core.AddressSpaces.AddressRange half = new(memory.Addresses.Start, Bytes / 2);
        MappedMemory room = MappedMemory.AllocateAnonymous(Bytes, hugePages: false);
        ulong to;
        using (System.Buffers.MemoryHandle pin = room.Pin())
        {
            unsafe
            {
                to = (ulong)pin.Pointer;
            }
        }

        UserFaultRegion.Move(half, to);
        UserFaultRegion.Unmap(new(half.End, Bytes / 2));
        if (!tells)
        {
            // The twin: nobody has heard, and the peer still writes what is no memory of the process.
            Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
            return;
        }

        await UntilAsync(served, s => s.FindRegion(half.Start) is null && s.FindRegion(half.End) is null);
        await peer.FillAsync(9);
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, peer.Transfer(BulkDirection.Write, region));
        Assert.Equal(
            WorkCompletionStatus.RemoteAccessError,
            peer.Transfer(BulkDirection.Write, region with { Va = half.End }));
        Assert.Equal(
            WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region with { Va = to }, Bytes / 2));
        Assert.Equal([9], Load(to, 1));
        await context.DisposeAsync();
        ((IDisposable)room).Dispose(); // what was moved there goes with it
    }

    [Fact]
    public async Task Descriptors_that_are_something_else_are_refused_by_name()
    {
        UserFaultRegion memory = Create();
        await using ServedHost served = await StartAsync("127.0.46.6", GpuUserMemory.WaitForFences);
        await using HeldContext remote = await served.Client.OpenGpuAsync("gpu0", "remote", Cancellation);
        await ExpectAsync(Errno.EOPNOTSUPP, remote.TakeOverAsync(memory, Cancellation));
        using ControlClient local = ControlClient.Open(
            null, _folder.ClientOptions with { SocketPath = served.Server.SocketPath });
        await using HeldContext context = await local.OpenGpuAsync("gpu0", "local", Cancellation);
        ComputeContext own = served.Host.Compute.List().Single(c => c.Name == "local");
        (int events, int memfd) = memory.Numbers;
        await ExpectAsync(Errno.EBADF, TakeAsync(memory.Addresses, (99_999, memfd)));
        await ExpectAsync(Errno.EBADF, TakeAsync(memory.Addresses, (events, -1)));
        await ExpectAsync(Errno.EINVAL, TakeAsync(memory.Addresses, (memfd, memfd)));
        await ExpectAsync(Errno.EPERM, TakeAsync(memory.Addresses, (events, events)));
        await ExpectAsync(Errno.EPERM, TakeAsync(new(memory.Addresses.Start, Bytes + Page), (events, memfd)));
        await ExpectAsync(Errno.EINVAL, TakeAsync(new(memory.Addresses.Start + 1, Page), (events, memfd)));
        await ExpectAsync(Errno.EINVAL, TakeAsync(new(ulong.MaxValue - Page + 1, 2 * Page), (events, memfd)));
        Assert.Empty(own.Watched);

        // And what is right is taken, from whoever came by the socket.
        BufferHandleDocument taken = await context.TakeOverAsync(memory, Cancellation);
        Assert.Equal((memory.Addresses.Start, (ulong)Bytes), (taken.Va, taken.SizeBytes));
        Assert.Equal([0], Load(memory.Addresses.Start, 1)); // served by the host
        await ExpectAsync(Errno.EEXIST, TakeAsync(memory.Addresses, (events, memfd)));
        await context.CloseBufferAsync(taken.Handle, Cancellation);
        await context.DisposeAsync();
        memory.Dispose();

        async Task TakeAsync(Core.AddressSpaces.AddressRange range, (int, int) numbers) =>
            await served.Host.Compute.Memory.TakeOverAsync(own, range, numbers);
    }

    private static UserFaultRegion Create()
    {
        Assert.SkipUnless(UserFaultRegion.IsSupported(out string? reason), $"no userfaultfd: {reason}");
        return UserFaultRegion.Create(Bytes);
    }

    private Task<ServedHost> StartAsync(string address, GpuUserMemory mode) => ServedHost.StartAsync(
        _folder,
        address,
        TimeProvider.System,
        devices: ControlTestFolder.Config with
        {
            Gpus =
            [
                new GpuConfig
                {
                    VramBytes = 2 << 20,
                    SystemPoolBytes = 0,
                    Compute = new ComputeConfig { UserMemory = mode },
                },
            ],
        });

    // By this process, which is the host's.
    private static Task<ContextBuffer> TakeOverAsync(ServedHost served, UserFaultRegion memory) =>
        served.Host.Compute.Memory.TakeOverAsync(served.Host.Compute.List()[0], memory);

    private static Task<RegionDocument> RegisterAsync(
        HeldContext context, ContextBuffer buffer, ContextRegionKind kind) =>
        context.RegisterAsync(new RegisterRegionDocument { Handle = buffer.Handle, Kind = kind }, Cancellation);

    private static async Task RunAsync(HeldContext context, GpuCommand command)
    {
        QueueDocument queue = await context.CreateQueueAsync(new CreateQueueDocument { Name = "q" }, Cancellation);
        byte[] bytes = new byte[GpuCommand.SizeBytes];
        command.Write(bytes);
        JobDocument job = await context.SubmitAsync(
            new SubmitJobDocument { Queue = queue.Id, Commands = bytes }, Cancellation);
        job = await context.WaitAsync(job.Id, Cancellation);
        Assert.Equal((ContextJobState.Done, null), (job.State, job.Error));
    }

    // The process goes on as soon as its event was taken: the host may be a moment behind.
    private static async Task UntilAsync(ServedHost served, Func<Core.AddressSpaces.AddressSpace, bool> condition)
    {
        ComputeContext context = served.Host.Compute.List()[0];
        while (true)
        {
            using (served.Host.Context.Enter())
            {
                if (condition(context.Memory!.Space))
                {
                    return;
                }
            }

            await Task.Yield();
        }
    }

    private static async Task ExpectAsync(Errno errno, Task refused) =>
        Assert.Equal(errno, (await Assert.ThrowsAsync<WayleaveException>(() => refused)).Errno);

    private static byte[] Load(ulong address, int lengthBytes)
    {
        byte[] bytes = GC.AllocateArray<byte>(lengthBytes, pinned: true);
        UserFaultRegion.Load(address, bytes);
        return bytes;
    }
}
