using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>Memory of clients' own on the GPUs of a running host: more of it than there are pages.</summary>
public sealed class UserMemoryTests : IDisposable
{
    private const int Clients = 3;
    private const int Rounds = 12;
    private const ulong Bytes = 256 << 10;
    private const ulong RingBytes = 64 * GpuCommand.SizeBytes;

    private readonly ControlTestFolder _folder = new();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(GpuUserMemory.Fault, GpuEngineKind.Compute, "127.0.42.2")]
    [InlineData(GpuUserMemory.WaitForFences, GpuEngineKind.Compute, "127.0.42.3")]
    [InlineData(GpuUserMemory.DrainLocally, GpuEngineKind.Compute, "127.0.42.6")]
    [InlineData(GpuUserMemory.Fault, GpuEngineKind.Copy, "127.0.42.10")]
    [InlineData(GpuUserMemory.WaitForFences, GpuEngineKind.Copy, "127.0.42.11")]
    public async Task Rings_go_on_while_pages_of_one_client_are_taken_for_another(
        GpuUserMemory mode, GpuEngineKind engine, string address)
    {
        await using ServedHost served = await StartAsync(mode, address);
        Client[] clients = await Task.WhenAll(
            Enumerable.Range(0, Clients).Select(i => Client.OpenAsync(served, i, engine)));
        for (uint round = 0; round < Rounds; round++)
        {
            await Task.WhenAll(clients.Select(c => c.FillAndCopyAsync(round)));
        }

        ComputeGpuDocument gpu = (await served.Client.GetComputeAsync(Cancellation)).Gpus[0];
        Assert.Equal(mode, gpu.UserMemory);
        Assert.All(gpu.Contexts.SelectMany(c => c.Queues), q => Assert.Equal(engine, q.Engine));
        Assert.True(gpu.UserMemoryReclaims > 0, "nobody's pages were taken");
        Assert.Equal(mode == GpuUserMemory.Fault, gpu.Contexts.Any(c => c.Faults > 0));
        Assert.Null(gpu.Failure);
        foreach (Client client in clients)
        {
            await client.Context.DisposeAsync();
        }

        // Every page is back, whatever it was taken for.
        while ((await served.Client.GetComputeAsync(Cancellation)).Gpus[0].Contexts.Count > 0)
        {
            await Task.Yield();
        }

        using (served.Host.Context.Enter())
        {
            Assert.Equal(served.Host.Gpus[0].UserMemory.PageCount, served.Host.Gpus[0].UserMemory.FreePages);
            Assert.Equal(0, served.Host.Gpus[0].UserMemory.SwapUsed);
        }
    }

    [Fact]
    public async Task A_job_with_a_fence_may_not_fault_and_a_closed_handle_gives_its_pages_back()
    {
        await using ServedHost served = await StartAsync(GpuUserMemory.Fault, "127.0.42.4");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(5000, Cancellation);
        Assert.Equal(8192UL, memory.SizeBytes);
        QueueDocument queue = await context.CreateQueueAsync(new CreateQueueDocument { Name = "q" }, Cancellation);
        byte[] command = new byte[GpuCommand.SizeBytes];
        new GpuCommand { Opcode = GpuOpcode.Fill, Target = memory.Address, Count = 64 }.Write(command);
        JobDocument job = await context.SubmitAsync(
            new SubmitJobDocument { Queue = queue.Id, Commands = command }, Cancellation);
        Assert.Equal("EFAULT", (await context.WaitAsync(job.Id, Cancellation)).Error);

        await context.CloseBufferAsync(memory.Handle, Cancellation);
        await Assert.ThrowsAsync<WayleaveException>(() => context.CloseBufferAsync(memory.Handle, Cancellation));
        WayleaveException none = await Assert.ThrowsAsync<WayleaveException>(
            () => context.AllocateAsync(0, Cancellation));
        Assert.Equal(Errno.EINVAL, none.Errno);
        none = await Assert.ThrowsAsync<WayleaveException>(() => context.AllocateAsync(ulong.MaxValue, Cancellation));
        Assert.Equal(Errno.EINVAL, none.Errno);
    }

    [Fact]
    public async Task Jobs_with_fences_reach_memory_that_a_notifier_waits_for()
    {
        await using ServedHost served = await StartAsync(GpuUserMemory.WaitForFences, "127.0.42.5");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        QueueDocument queue = await context.CreateQueueAsync(new CreateQueueDocument { Name = "q" }, Cancellation);
        byte[] commands = new byte[2 * GpuCommand.SizeBytes];
        new GpuCommand { Opcode = GpuOpcode.Fill, Value = 9, Target = memory.Address, Count = Bytes }.Write(commands);
        new GpuCommand
        {
            Opcode = GpuOpcode.Copy,
            Target = context.Context.Results.Address,
            A = memory.Address + Bytes - 8,
            Count = 8,
        }.Write(commands.AsSpan(GpuCommand.SizeBytes));
        JobDocument job = await context.SubmitAsync(
            new SubmitJobDocument { Queue = queue.Id, Commands = commands, Results = 2 }, Cancellation);
        job = await context.WaitAsync(job.Id, Cancellation);
        Assert.Equal((ContextJobState.Done, null), (job.State, job.Error));
        Assert.Equal([9U, 9U], job.Results);
    }

    // The comparison's question, asked of a running host: a job of one client waits for another GPU, and somebody else
    // wants its pages.
    [Theory]
    [InlineData(GpuUserMemory.WaitForFences, "127.0.42.7")]
    [InlineData(GpuUserMemory.DrainLocally, "127.0.42.8")]
    [InlineData(GpuUserMemory.Pinned, "127.0.42.9")]
    public async Task Pages_of_a_job_that_waits_for_another_GPU_are_taken_as_the_host_was_told(
        GpuUserMemory mode, string address)
    {
        await using ServedHost served = await StartAsync(mode, address);
        HeldContext slow = await served.Client.OpenGpuAsync("gpu1", "slow", Cancellation);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        await using HeldContext other = await served.Client.OpenGpuAsync("gpu0", "other", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        ulong queue = (await context.CreateQueueAsync(new CreateQueueDocument { Name = "q" }, Cancellation)).Id;
        GpuCommand fill = new() { Opcode = GpuOpcode.Fill, Value = 6, Target = memory.Address, Count = Bytes };
        JobDocument first = await SubmitAsync(context, queue, [fill]);
        Assert.Equal(ContextJobState.Done, (await context.WaitAsync(first.Id, Cancellation)).State);

        QueueDocument elsewhere = await slow.CreateQueueAsync(new CreateQueueDocument { Name = "q" }, Cancellation);
        await SubmitAsync(
            slow, elsewhere.Id, [new GpuCommand { Opcode = GpuOpcode.Spin, Count = ulong.MaxValue }], signal: "slow");
        GpuCommand half = fill with { Value = 7, Count = Bytes / 2 };
        GpuCommand show = new()
        {
            Opcode = GpuOpcode.Copy,
            Target = context.Context.Results.Address,
            A = memory.Address + (Bytes / 2) - 4,
            Count = 8,
        };
        JobDocument waiting = await SubmitAsync(context, queue, [half, show], after: ["slow"], results: 2);

        // 400 KiB of 512, of which the job has 256.
        BufferHandleDocument wanted = await other.AllocateAsync(400 << 10, Cancellation);
        RegisterRegionDocument pin = new() { Handle = wanted.Handle, Kind = ContextRegionKind.Pinned };
        Task<RegionDocument> pinned = other.RegisterAsync(pin, Cancellation);
        switch (mode)
        {
            case GpuUserMemory.WaitForFences:
                await UntilNoneIsFreeAsync(served);
                Assert.False(pinned.IsCompleted, "the pages were taken from a job that had not ended");
                await slow.DisposeAsync();
                await pinned;
                break;
            case GpuUserMemory.DrainLocally:
                await pinned;
                Assert.Null((await context.WaitAsync(first.Id, Cancellation)).Error);
                Assert.Equal(ContextJobState.Queued, await StateOfAsync(served, waiting.Id));
                await other.DisposeAsync(); // or there would be no room for the job's
                await UntilFreeAsync(served, 400 << 10);
                break;
            default:
                Assert.Equal(
                    Errno.ENOMEM, (await Assert.ThrowsAsync<WayleaveException>(() => pinned)).Errno);
                Assert.Equal(ContextJobState.Queued, await StateOfAsync(served, waiting.Id));
                break;
        }

        await slow.DisposeAsync();
        waiting = await context.WaitAsync(waiting.Id, Cancellation);
        Assert.Equal((ContextJobState.Done, null), (waiting.State, waiting.Error));
        Assert.Equal([7U, 6U], waiting.Results);
        Assert.Equal(
            mode == GpuUserMemory.Pinned,
            (await served.Client.GetComputeAsync(Cancellation)).Gpus[0].UserMemoryReclaims == 0);
        Assert.Equal(
            mode == GpuUserMemory.DrainLocally,
            served.Host.GetViolations().Any(v => v.Kind == ViolationKind.SignalingSection));
    }

    private static async Task<JobDocument> SubmitAsync(
        HeldContext context,
        ulong queue,
        GpuCommand[] commands,
        string[]? after = null,
        string? signal = null,
        int results = 0)
    {
        byte[] bytes = new byte[commands.Length * GpuCommand.SizeBytes];
        for (int i = 0; i < commands.Length; i++)
        {
            commands[i].Write(bytes.AsSpan(i * GpuCommand.SizeBytes));
        }

        SubmitJobDocument submit = new() { Queue = queue, Commands = bytes, Signal = signal, Results = results };
        submit.After = after ?? [];
        return await context.SubmitAsync(submit, Cancellation);
    }

    private static async Task<ContextJobState> StateOfAsync(ServedHost served, ulong job) =>
        (await served.Client.GetComputeAsync(Cancellation)).Gpus
            .SelectMany(g => g.Contexts).SelectMany(c => c.Jobs).Single(j => j.Id == job).State;

    // Somebody is looking for pages: what there was is gone.
    private static async Task UntilNoneIsFreeAsync(ServedHost served)
    {
        while ((await served.Client.GetComputeAsync(Cancellation)).Gpus[0].UserMemoryFreeBytes > 0)
        {
            await Task.Yield();
        }
    }

    private static async Task UntilFreeAsync(ServedHost served, ulong bytes)
    {
        while ((await served.Client.GetComputeAsync(Cancellation)).Gpus[0].UserMemoryFreeBytes < bytes)
        {
            await Task.Yield();
        }
    }

    private Task<ServedHost> StartAsync(GpuUserMemory mode, string address) => ServedHost.StartAsync(
        _folder,
        address,
        TimeProvider.System,
        devices: ControlTestFolder.Config with
        {
            Gpus =
            [
                new GpuConfig
                {
                    VramBytes = 16 << 20,
                    SystemPoolBytes = 16 << 20,
                    Compute = new ComputeConfig { UserMemory = mode, UserMemoryBytes = 512 << 10 },
                },
                new GpuConfig { Name = "gpu1", VramBytes = 2 << 20, SystemPoolBytes = 0 },
            ],
        });

    /// <summary>A client with a ring, memory of its own, and an object that shows what was there.</summary>
    private sealed class Client(ServedHost served, int number, HeldContext context)
    {
        private BufferHandleDocument _memory = null!;
        private BufferHandleDocument _shown = null!;
        private QueueDocument _queue = null!;
        private ulong _written;

        public HeldContext Context => context;

        private string Ring => $"ring{number}";

        private string Shown => $"shown{number}";

        public static async Task<Client> OpenAsync(ServedHost served, int number, GpuEngineKind engine)
        {
            Client client = new(
                served, number, await served.Client.OpenGpuAsync("gpu0", $"client{number}", Cancellation));
            await client.MakeAsync(client.Ring, RingBytes);
            await client.MakeAsync(client.Shown, Bytes);
            BufferHandleDocument ring = await client.Context
                .OpenBufferAsync("gpu0", client.Ring, write: false, Cancellation);
            client._shown = await client.Context.OpenBufferAsync("gpu0", client.Shown, write: true, Cancellation);
            client._memory = await client.Context.AllocateAsync(Bytes, Cancellation);
            client._queue = await client.Context.CreateQueueAsync(
                new CreateQueueDocument
                {
                    Name = "ring",
                    Engine = engine,
                    RingAddress = ring.Address,
                    RingCommands = (uint)(RingBytes / GpuCommand.SizeBytes),
                },
                Cancellation);
            return client;
        }

        public async Task FillAndCopyAsync(uint round)
        {
            uint value = (round * 7) + (uint)number + 1;
            await WriteAsync(new GpuCommand
            {
                Opcode = GpuOpcode.Fill,
                Value = value,
                Target = _memory.Address,
                Count = Bytes,
            });
            await WriteAsync(new GpuCommand
            {
                Opcode = GpuOpcode.Copy,
                Target = _shown.Address,
                A = _memory.Address,
                Count = Bytes,
            });
            QueueDocument queue = await Context.RingDoorbellAsync(_queue.Id, _written, Cancellation);
            while (queue.State == QueueState.Busy)
            {
                await Task.Yield();
                queue = await Context.GetQueueAsync(_queue.Id, Cancellation);
            }

            Assert.Equal((QueueState.Idle, _written, null), (queue.State, queue.Done, queue.Error));
            await served.Host.Objects.ForEachPieceAsync(
                served.Host.Objects.Find("gpu0", Shown)!,
                (_, bytes) => Assert.Equal(
                    -1,
                    System.Runtime.InteropServices.MemoryMarshal.Cast<byte, uint>(bytes).IndexOfAnyExcept(value)),
                Cancellation);
        }

        private async Task WriteAsync(GpuCommand command)
        {
            DeviceObject ring = served.Host.Objects.Find("gpu0", Ring)!;
            ulong at = _written++ * GpuCommand.SizeBytes % RingBytes;
            await served.Host.Objects.ForEachPieceAsync(
                ring, at, GpuCommand.SizeBytes, (_, bytes) => command.Write(bytes), Cancellation);
        }

        private async Task MakeAsync(string name, ulong sizeBytes)
        {
            ObjectDocument made = await served.Client.CreateObjectAsync(
                new CreateObjectDocument { Device = "gpu0", Name = name, SizeBytes = sizeBytes }, Cancellation);
            await served.Client.CommitObjectAsync(made.Id, null, Cancellation);
        }
    }
}
