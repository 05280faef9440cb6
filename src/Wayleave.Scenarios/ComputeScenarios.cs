using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>Jobs of a process on buffers that their owner moves.</summary>
internal static class ComputeScenarios
{
    private const int BufferBytes = 256; // four blocks of the compute engine, two of the copy engine

    public static NamedScenario UnderMove { get; } = new(
        "job-under-move",
        "A process submits two jobs that fill a buffer while its GPU evicts it; each job writes where the buffer is, "
        + "and what the second one wrote is there at the end.",
        c => Build(c, new GpuOptions()),
        [
            new("copy-does-not-wait", "The copy starts while a job still writes to the old place.",
                c => Build(c, new GpuOptions { WaitsForFences = false, WaitsForProof = false })),
        ])
    {
        Defence = "a job's fence stands in the buffer's reservation, and the next one maps again",
    };

    private static Scenario Build(Choices choices, GpuOptions options)
    {
        World world = new(choices, options with { ComputeBlockBytes = 64 }, BufferBytes);
        QueueEngine engine = world.Gpu.ComputeEngine;
        List<SubmitOperation> submitted = [];
        ComputeQueue queue;
        uint handle;
        using (world.Host.Enter())
        {
            GpuProcess process = world.Gpu.OpenProcess("process");
            World.Require(Errno.Success, process.TryOpen(world.Lent.Shared, GpuAccess.ReadWrite, out handle));
            queue = process.CreateQueue("queue");
        }

        Service compute = new("compute", () => engine.HasReadyJob, () =>
        {
            engine.TryEnter();
            engine.Step();
            engine.Exit();
        });
        Scenario scenario = world.ToScenario(
            [compute],
            ("program", Submit(world, queue, handle, submitted)),
            ("gpu", Evict(world)));
        return scenario with
        {
            Fingerprint = () =>
            {
                StateHash hash = new();
                world.AddTo(ref hash);
                hash.Add((ulong)queue.Count + (engine.HasReadyJob ? 100UL : 0));
                hash.Add((ulong)engine.Hangs.WatchedCount);
                foreach (SubmitOperation operation in submitted)
                {
                    hash.Add((ulong)operation.State + (operation.Fence is { IsSignaled: true } ? 16UL : 0));
                    hash.Add((ulong)(operation.Fence?.Error ?? 0));
                }

                foreach (Attachment attachment in world.Lent.Shared.Attachments)
                {
                    hash.Add((ulong)attachment.State);
                }

                return hash.Value;
            },
        };
    }

    private static IEnumerable<Step> Submit(
        World world, ComputeQueue queue, uint handle, List<SubmitOperation> submitted)
    {
        for (uint value = 1; value <= 2; value++)
        {
            byte[] ring = new byte[GpuCommand.SizeBytes];
            new GpuCommand
            {
                Opcode = GpuOpcode.Fill,
                TargetHandle = handle,
                Value = value * 0x01010101,
                Count = BufferBytes,
            }.Write(ring);
            yield return $"submit job {value}";
            using (world.Host.Enter())
            {
                submitted.Add(SubmitOperation.Start(queue, new GpuSubmission(GpuCommandMode.Parsed, ring)));
            }
        }

        yield return new("jobs done", () => submitted.TrueForAll(
            s => s.IsCompleted && s.Fence is null or { HasEnded: true }));
        foreach (SubmitOperation operation in submitted)
        {
            World.Require(Errno.Success, operation.Fence?.Error ?? operation.Error);
        }

        for (int at = 0; at < BufferBytes; at++)
        {
            if (world.Peek(world.Lent, at) is byte found && found != 2 && world.IsIdle(world.Lent))
            {
                throw new ViolationException($"job 2 wrote 2, and the buffer holds {found} at {at}");
            }
        }
    }

    private static IEnumerable<Step> Evict(World world)
    {
        yield return "evict";
        MoveOperation move;
        using (world.Host.Enter())
        {
            move = world.Gpu.Evict(world.Lent);
        }

        yield return new("evicted", () => move.IsCompleted);
        World.Require(Errno.Success, move.Error);
    }
}
