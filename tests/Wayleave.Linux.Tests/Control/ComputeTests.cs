using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>Commands of clients on the GPUs of a running host, through its API.</summary>
public sealed class ComputeTests : IAsyncLifetime
{
    private readonly ControlTestFolder _folder = new();
    private readonly Dictionary<HeldContext, QueueDocument> _queues = [];
    private ServedHost _served = null!;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private WayleaveHost Host => _served.Host;

    private ControlClient Client => _served.Client;

    public async ValueTask InitializeAsync()
    {
        ComputeConfig compute = new() { HangLimit = TimeSpan.FromSeconds(3), QueuesMax = 4, QueueSlots = 2 };
        GpuConfig gpu = new() { VramBytes = 16 << 20, SystemPoolBytes = 16 << 20, Compute = compute };
        _served = await ServedHost.StartAsync(
            _folder,
            "127.0.41.2",
            TimeProvider.System,
            devices: ControlTestFolder.Config with
            {
                Gpus = [gpu, gpu with { Name = "gpu1", Compute = compute with { Mode = GpuCommandMode.Parsed } }],
            });
    }

    public async ValueTask DisposeAsync()
    {
        await _served.DisposeAsync();
        _folder.Dispose();
    }

    [Fact]
    public async Task Jobs_that_would_all_wait_to_be_submitted_are_refused_with_the_circle()
    {
        await using HeldContext one = await Client.OpenGpuAsync("gpu0", "one", Cancellation);
        await using HeldContext other = await Client.OpenGpuAsync("gpu1", "other", Cancellation);
        Task<JobDocument> first = SubmitAsync(one, after: ["a"], signal: "b");
        await HeldAsync(1);
        Task<JobDocument> second = SubmitAsync(other, after: ["b"], signal: "c");
        await HeldAsync(2);

        WayleaveException circle = await Assert.ThrowsAsync<WayleaveException>(
            () => SubmitAsync(one, after: ["c"], signal: "a"));
        Assert.Equal(Errno.EDEADLK, circle.Errno);
        Assert.Contains("it runs after 'c', which job ", circle.Message, StringComparison.Ordinal);
        Assert.Contains("which is what it signals itself", circle.Message, StringComparison.Ordinal);
        Assert.Equal(
            Errno.EDEADLK,
            (await Assert.ThrowsAsync<WayleaveException>(() => SubmitAsync(one, after: ["x"], signal: "x"))).Errno);
        Assert.Equal(
            Errno.EBUSY,
            (await Assert.ThrowsAsync<WayleaveException>(() => SubmitAsync(one, after: [], signal: "b"))).Errno);

        // The two are none the worse for it.
        await SubmitAsync(other, after: [], signal: "a");
        Assert.Equal(ContextJobState.Done, (await one.WaitAsync((await first).Id, Cancellation)).State);
        Assert.Equal(ContextJobState.Done, (await other.WaitAsync((await second).Id, Cancellation)).State);
    }

    [Theory]
    [InlineData(GpuEngineKind.Compute)]
    [InlineData(GpuEngineKind.Copy)]
    public async Task A_job_that_an_engine_is_in_is_said_to_run(GpuEngineKind engine)
    {
        const int Bytes = 4 << 20;
        await MakeAsync("gpu0", "x", Bytes);
        await using HeldContext context = await Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument x = await context.OpenBufferAsync("gpu0", "x", write: true, Cancellation);
        QueueDocument queue = await context.CreateQueueAsync(
            new CreateQueueDocument { Name = "q", Engine = engine }, Cancellation);
        byte[] commands = new byte[512 * GpuCommand.SizeBytes];
        for (int at = 0; at < commands.Length; at += GpuCommand.SizeBytes)
        {
            new GpuCommand { Opcode = GpuOpcode.Fill, Target = x.Address, Count = Bytes }.Write(commands.AsSpan(at));
        }

        // A job may end before anybody looks; one of many does not.
        ContextJobState seen = ContextJobState.Done;
        for (int i = 0; i < 50 && seen != ContextJobState.Running; i++)
        {
            await context.SubmitAsync(new SubmitJobDocument { Queue = queue.Id, Commands = commands }, Cancellation);
            do
            {
                seen = (await Client.GetComputeAsync(Cancellation)).Gpus[0].Contexts[0].Jobs[^1].State;
            }
            while (seen == ContextJobState.Queued);
        }

        Assert.Equal(ContextJobState.Running, seen);
    }

    [Fact]
    public async Task Garbage_in_either_mode_touches_nothing_of_another_client()
    {
        await MakeAsync("gpu0", "mine", 64 << 10);
        await MakeAsync("gpu0", "theirs", 64 << 10);
        DeviceObject theirs = Host.Objects.Find("gpu0", "theirs")!;
        await Host.Objects.ForEachPieceAsync(theirs, (_, bytes) => bytes.Fill(0xA5), Cancellation);
        string before = await Host.Objects.Sha256Async(theirs, Cancellation);
        await using HeldContext victim = await Client.OpenGpuAsync("gpu0", "victim", Cancellation);
        await victim.OpenBufferAsync("gpu0", "theirs", write: true, Cancellation);
        Random random = new(17);
        foreach (string gpu in (string[])["gpu0", "gpu1"])
        {
            for (int round = 0; round < 100; round++)
            {
                while (Host.Compute.List().Count > 2)
                {
                    await Task.Yield(); // those before are still ending, and a GPU has four queues
                }

                await using HeldContext attacker = await Client.OpenGpuAsync(gpu, "attacker", Cancellation);
                BufferHandleDocument own = await attacker.OpenBufferAsync("gpu0", "mine", write: true, Cancellation);
                byte[] garbage = new byte[64 * random.Next(1, 4)];
                for (int i = 0; i < garbage.Length; i += 64)
                {
                    RandomCommand(random, own).Write(garbage.AsSpan(i));
                    if (random.Next(4) == 0)
                    {
                        garbage[i + random.Next(64)] ^= (byte)(1 << random.Next(8));
                    }
                }

                QueueDocument queue = await QueueAsync(attacker);
                try
                {
                    JobDocument job = await attacker.SubmitAsync(
                        new SubmitJobDocument { Queue = queue.Id, Commands = garbage }, Cancellation);
                    await attacker.WaitAsync(job.Id, Cancellation);
                }
                catch (WayleaveException refused)
                {
                    Assert.True(
                        refused.Errno is Errno.EINVAL or Errno.ENOENT or Errno.EACCES, refused.Message);
                }
            }
        }

        Assert.Equal(before, await Host.Objects.Sha256Async(theirs, Cancellation));
        Assert.All(Host.Gpus, g => Assert.Null(g.Failure));
        Assert.Equal(ContextJobState.Done, (await RunAsync(victim)).State);
    }

    [Fact]
    public async Task An_object_that_is_taken_back_ends_the_jobs_on_it_and_is_proven_retired()
    {
        await MakeAsync("gpu0", "x", 1 << 20);
        await using HeldContext context = await Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument x = await context.OpenBufferAsync("gpu0", "x", write: true, Cancellation);
        QueueDocument queue = await QueueAsync(context);
        byte[] commands = Commands(
            new GpuCommand { Opcode = GpuOpcode.Spin, Count = ulong.MaxValue },
            new GpuCommand { Opcode = GpuOpcode.Fill, Value = 7, Target = x.Address, Count = x.SizeBytes });
        JobDocument job = await context.SubmitAsync(
            new SubmitJobDocument { Queue = queue.Id, Commands = commands }, Cancellation);

        ProofDocument proof = await Client.RevokeAsync("gpu0", "x", new RevokeObjectDocument(), Cancellation);

        Assert.Equal(RetirementGrade.Retired, proof.Grade);
        Assert.Contains(proof.Importers, i => i.Importer.StartsWith("context ", StringComparison.Ordinal));
        Assert.Equal("ECANCELED", (await context.WaitAsync(job.Id, Cancellation)).Error);
    }

    [Fact]
    public async Task An_object_moves_under_its_jobs_and_no_byte_is_lost()
    {
        await MakeAsync("gpu0", "x", 1 << 20);
        await using HeldContext context = await Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument x = await context.OpenBufferAsync("gpu0", "x", write: true, Cancellation);
        GpuCommand twice = new()
        {
            Opcode = GpuOpcode.Add,
            Target = x.Address,
            A = x.Address,
            B = x.Address,
            Count = x.SizeBytes / 4,
        };
        GpuCommand one = new() { Opcode = GpuOpcode.Fill, Value = 1, Target = x.Address, Count = x.SizeBytes };
        Assert.Equal(ContextJobState.Done, (await RunAsync(context, one)).State);
        for (int round = 0; round < 16; round++)
        {
            Task<ObjectDocument> move = round % 2 == 0
                ? Client.EvictAsync("gpu0", "x", Cancellation)
                : Client.RestoreAsync("gpu0", "x", Cancellation);
            Assert.Equal(ContextJobState.Done, (await RunAsync(context, twice)).State);
            await move;
        }

        await Host.Objects.ForEachPieceAsync(
            Host.Objects.Find("gpu0", "x")!,
            (_, bytes) => Assert.Equal(
                -1, System.Runtime.InteropServices.MemoryMarshal.Cast<byte, uint>(bytes).IndexOfAnyExcept(1U << 16)),
            Cancellation);
        Assert.Equal(1U << 16, await FirstWordAsync("gpu0", "x"));
    }

    [Fact]
    public async Task An_importer_that_ignores_its_callback_keeps_its_object_in_quarantine_and_nothing_else()
    {
        await MakeAsync("gpu0", "x", 1 << 20);
        await MakeAsync("gpu0", "y", 1 << 20);
        await using HeldContext context = await Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument y = await context.OpenBufferAsync("gpu0", "y", write: true, Cancellation);
        DeviceObject x = Host.Objects.Find("gpu0", "x")!;
        Deaf deaf = new(Host);
        deaf.Map(x.Buffer);

        ProofDocument proof = await Client.RevokeAsync(
            "gpu0", "x", new RevokeObjectDocument { TimeoutMs = 20 }, Cancellation);

        Assert.False(proof.Sufficient);
        Assert.Contains(proof.Importers, i => i.Importer == Deaf.ItsName);
        Assert.Equal(1UL << 20, (await Client.GetDevicesAsync(Cancellation)).Gpus[0].VramQuarantinedBytes);
        GpuCommand fill = new() { Opcode = GpuOpcode.Fill, Value = 1, Target = y.Address, Count = y.SizeBytes };
        Assert.Equal(ContextJobState.Done, (await RunAsync(context, fill)).State);

        deaf.LetGo();
        Assert.Equal(0UL, (await Client.GetDevicesAsync(Cancellation)).Gpus[0].VramQuarantinedBytes);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData("../x")]
    [InlineData("a b")]
    public async Task A_name_that_is_none_is_refused(string? name)
    {
        await using HeldContext context = await Client.OpenGpuAsync("gpu0", "c", Cancellation);
        WayleaveException refused = await Assert.ThrowsAsync<WayleaveException>(
            () => SubmitAsync(context, after: [name!], signal: "x"));
        Assert.Equal(Errno.EINVAL, refused.Errno);
        if (name is not null)
        {
            refused = await Assert.ThrowsAsync<WayleaveException>(() => SubmitAsync(context, after: [], signal: name));
            Assert.Equal(Errno.EINVAL, refused.Errno);
            await Assert.ThrowsAsync<WayleaveException>(() => Client.OpenGpuAsync("gpu0", name, Cancellation));
        }

        Assert.Empty((await Client.GetComputeAsync(Cancellation)).Points);
    }

    [Fact]
    public async Task A_number_that_is_somebody_elses_means_nothing()
    {
        await MakeAsync("gpu1", "x", 4096);
        await using HeldContext owner = await Client.OpenGpuAsync("gpu1", "owner", Cancellation);
        await using HeldContext other = await Client.OpenGpuAsync("gpu1", "other", Cancellation);
        BufferHandleDocument x = await owner.OpenBufferAsync("gpu1", "x", write: true, Cancellation);
        QueueDocument queue = await QueueOfAsync(owner);
        GpuCommand fill = new() { Opcode = GpuOpcode.Fill, TargetHandle = x.Handle, Count = 64 };
        SubmitJobDocument submit = new() { Queue = queue.Id, Commands = Commands(fill) };
        JobDocument job = await owner.SubmitAsync(submit, Cancellation);

        Assert.Equal(Errno.ENOENT, await RefusalAsync(() => other.SubmitAsync(submit, Cancellation)));
        Assert.Equal(Errno.ENOENT, await RefusalAsync(() => RunAsync(other, fill)));
        Assert.Equal(Errno.ENOENT, await RefusalAsync(() => other.WaitAsync(job.Id, Cancellation)));
        Assert.Equal(Errno.ENOENT, await RefusalAsync(() => other.GetQueueAsync(queue.Id, Cancellation)));
        Assert.Equal(Errno.ENOENT, await RefusalAsync(() => other.CloseBufferAsync(x.Handle, Cancellation)));
        Assert.Equal(Errno.ENOENT, await RefusalAsync(() => other.CloseBufferAsync(1, Cancellation))); // its results
        Assert.Equal(Errno.EACCES, await RefusalAsync(async () =>
        {
            BufferHandleDocument read = await other.OpenBufferAsync("gpu1", "x", write: false, Cancellation);
            await RunAsync(other, fill with { TargetHandle = read.Handle });
        }));
        await owner.CloseBufferAsync(x.Handle, Cancellation);
        Assert.Equal(Errno.ENOENT, await RefusalAsync(() => owner.SubmitAsync(submit, Cancellation)));
    }

    private static async Task<Errno> RefusalAsync(Func<Task> act) =>
        (await Assert.ThrowsAsync<WayleaveException>(act)).Errno;

    [Fact]
    public async Task Queues_and_slots_have_limits_that_are_named()
    {
        await using HeldContext context = await Client.OpenGpuAsync("gpu0", "c", Cancellation);
        QueueDocument queue = await QueueAsync(context);
        for (int i = 0; i < 3; i++)
        {
            await QueueAsync(context);
        }

        WayleaveException many = await Assert.ThrowsAsync<WayleaveException>(() => QueueAsync(context));
        Assert.Equal(Errno.EMFILE, many.Errno);
        Assert.Contains("gpu0 has 4 queues already", many.Message, StringComparison.Ordinal);

        byte[] hang = Commands(new GpuCommand { Opcode = GpuOpcode.Spin, Count = ulong.MaxValue });
        SubmitJobDocument submit = new() { Queue = queue.Id, Commands = hang };
        JobDocument first = await context.SubmitAsync(submit, Cancellation);
        JobDocument second = await context.SubmitAsync(submit, Cancellation);
        WayleaveException full = await Assert.ThrowsAsync<WayleaveException>(
            () => context.SubmitAsync(submit, Cancellation));
        Assert.Equal(Errno.EAGAIN, full.Errno);

        Assert.Equal("ETIME", (await context.WaitAsync(first.Id, Cancellation)).Error);
        Assert.Equal("ECANCELED", (await context.WaitAsync(second.Id, Cancellation)).Error);
        Assert.Equal(
            Errno.ECANCELED,
            (await Assert.ThrowsAsync<WayleaveException>(() => context.SubmitAsync(submit, Cancellation))).Errno);
    }

    [Fact]
    public async Task A_GPU_that_is_pulled_out_ends_its_contexts_with_the_reason()
    {
        await MakeAsync("gpu1", "x", 1 << 20);
        await using HeldContext gone = await Client.OpenGpuAsync("gpu1", "gone", Cancellation);
        await using HeldContext stays = await Client.OpenGpuAsync("gpu0", "stays", Cancellation);
        await stays.OpenBufferAsync("gpu1", "x", write: true, Cancellation);
        QueueDocument queue = await QueueAsync(gone);
        await gone.SubmitAsync(
            new SubmitJobDocument
            {
                Queue = queue.Id,
                Commands = Commands(new GpuCommand { Opcode = GpuOpcode.Spin, Count = ulong.MaxValue }),
            },
            Cancellation);

        UnpluggedDocument unplugged = await Client.UnplugAsync(
            "gpu1", new UnplugDeviceDocument { TimeoutMs = 5000 }, Cancellation);

        Assert.Empty(unplugged.Late);
        WayleaveException ended = await Assert.ThrowsAsync<WayleaveException>(() => gone.Completion);
        Assert.Contains("gpu1 was pulled out", ended.Message, StringComparison.Ordinal);
        Assert.Equal(ContextJobState.Done, (await RunAsync(stays)).State);
    }

    [Fact]
    public async Task Static_memory_is_taken_from_the_contexts_that_use_it_when_its_device_leaves()
    {
        ObjectDocument made = await Client.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu1", Name = "s", SizeBytes = 4096, Storage = StorageKind.Static },
            Cancellation);
        await Client.CommitObjectAsync(made.Id, null, Cancellation);
        await using HeldContext context = await Client.OpenGpuAsync("gpu0", "c", Cancellation);
        await context.OpenBufferAsync("gpu1", "s", write: true, Cancellation);
        Assert.Equal(ContextJobState.Done, (await RunAsync(context)).State);
        WayleaveException busy = await Assert.ThrowsAsync<WayleaveException>(
            () => Client.RevokeAsync("gpu1", "s", new RevokeObjectDocument(), Cancellation));
        Assert.Equal(Errno.EBUSY, busy.Errno);

        UnpluggedDocument unplugged = await Client.UnplugAsync(
            "gpu1", new UnplugDeviceDocument { TimeoutMs = 5000 }, Cancellation);
        Assert.Equal(RetirementGrade.Retired, Assert.Single(unplugged.Proofs).Grade);
    }

    private async Task MakeAsync(string device, string name, ulong sizeBytes)
    {
        ObjectDocument made = await Client.CreateObjectAsync(
            new CreateObjectDocument { Device = device, Name = name, SizeBytes = sizeBytes }, Cancellation);
        await Client.CommitObjectAsync(made.Id, null, Cancellation);
    }

    private static Task<QueueDocument> QueueAsync(HeldContext context) =>
        context.CreateQueueAsync(new CreateQueueDocument { Name = "q" }, Cancellation);

    private async Task<uint> FirstWordAsync(string device, string name)
    {
        uint word = 0;
        await Host.Objects.ForEachPieceAsync(
            Host.Objects.Find(device, name)!, 0, 4, (_, bytes) => word = BitConverter.ToUInt32(bytes), Cancellation);
        return word;
    }

    private async Task<JobDocument> RunAsync(HeldContext context, params GpuCommand[] commands)
    {
        QueueDocument queue = await QueueOfAsync(context);
        JobDocument job = await context.SubmitAsync(
            new SubmitJobDocument
            {
                Queue = queue.Id,
                Commands = Commands(commands.Length > 0 ? commands : [new GpuCommand { Opcode = GpuOpcode.Nop }]),
            },
            Cancellation);
        return await context.WaitAsync(job.Id, Cancellation);
    }

    private async Task<QueueDocument> QueueOfAsync(HeldContext context)
    {
        if (!_queues.TryGetValue(context, out QueueDocument? queue))
        {
            queue = await QueueAsync(context);
            _queues.Add(context, queue);
        }

        return queue;
    }

    private async Task<JobDocument> SubmitAsync(HeldContext context, string[] after, string signal)
    {
        QueueDocument queue = await QueueOfAsync(context);
        return await context.SubmitAsync(
            new SubmitJobDocument
            {
                Queue = queue.Id,
                Commands = Commands(new GpuCommand { Opcode = GpuOpcode.Nop }),
                After = after,
                Signal = signal,
                SubmitTimeoutMs = 30_000,
            },
            Cancellation);
    }

    private async Task HeldAsync(int count)
    {
        while ((await Client.GetComputeAsync(Cancellation)).Gpus
            .SelectMany(g => g.Contexts).SelectMany(c => c.Jobs).Count(j => j.State == ContextJobState.Held) != count)
        {
            await Task.Yield();
        }
    }

    private static byte[] Commands(params ReadOnlySpan<GpuCommand> commands)
    {
        byte[] bytes = new byte[commands.Length * GpuCommand.SizeBytes];
        for (int i = 0; i < commands.Length; i++)
        {
            commands[i].Write(bytes.AsSpan(i * GpuCommand.SizeBytes));
        }

        return bytes;
    }

    // Near enough to sense that many are run.
    private static GpuCommand RandomCommand(Random random, BufferHandleDocument own) => new()
    {
        Opcode = (GpuOpcode)random.Next(0, 8),
        Value = (uint)random.Next(),
        TargetHandle = RandomHandle(random, own),
        AHandle = RandomHandle(random, own),
        BHandle = RandomHandle(random, own),
        Inner = (uint)random.Next(0, 40),
        Target = RandomAddress(random, own),
        A = RandomAddress(random, own),
        B = RandomAddress(random, own),
        Count = (ulong)random.Next(0, 5000) * 4,
        Rows = (uint)random.Next(0, 40),
    };

    private static uint RandomHandle(Random random, BufferHandleDocument own) =>
        own.Address != 0 ? 0 : random.Next(8) == 0 ? (uint)random.Next(0, 6) : own.Handle;

    private static ulong RandomAddress(Random random, BufferHandleDocument own) => random.Next(8) switch
    {
        0 => (ulong)random.NextInt64(),
        1 => own.Address + own.SizeBytes - 4,
        2 => (ulong)random.Next(0, 16) << 20,
        _ => own.Address + (ulong)(4 * random.Next(0, 16384)),
    };

    /// <summary>An importer that maps, and does nothing when it is told to stop.</summary>
    private sealed class Deaf(WayleaveHost host) : IRevocableImporter
    {
        public const string ItsName = "deaf";

        private Attachment? _attachment;

        public string Name => ItsName;

        public string Holder => ItsName;

        public ImporterKind Kind => ImporterKind.Dynamic;

        public bool AllowPeerToPeer => true;

        public InvalidateOutcome InvalidateMappings(Attachment attachment) => InvalidateOutcome.Done;

        public void Map(SharedBuffer buffer)
        {
            using (host.Context.Enter())
            {
                Assert.Equal(Errno.Success, buffer.TryAttach(host.Gpus[1].Function, this, out _attachment));
                Core.Reservations.AcquireTicket ticket = new(host.Context, ItsName);
                buffer.Reservation.TryLock(ticket);
                Assert.Equal(MapOutcomeKind.Mapped, _attachment!.MapLocked(ticket, DmaDirection.Bidirectional).Kind);
                buffer.Reservation.Unlock(ticket);
            }
        }

        public void LetGo()
        {
            using (host.Context.Enter())
            {
                _attachment!.UnmapInvalidated();
                _attachment.Buffer.Detach(_attachment);
            }
        }
    }
}
