using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// amdgpu_amdkfd_fence.c and amdgpu_hmm.c: what keeps memory in its place for work that has no fence of its own, and
// what takes memory of the process away from work that has one.
//
// Faithful: the engines, the queues, the eviction fence with its timers, the notifier and reclaim are the shipped ones.
// Not faithful: a block of an engine is one step.

/// <summary>GPU work whose memory is moved, or reclaimed, under it.</summary>
internal static class GpuEvictionScenarios
{
    private const ulong BufferVa = 0x30_0000;
    private const uint Value = 0x07070707;

    public static NamedScenario Mover { get; } = new(
        "queue-against-mover",
        "A user queue fills a buffer while its GPU evicts the buffer and brings it back; the queue goes on where the "
        + "buffer is, and every byte of it is there.",
        c => BuildMover(c, new GpuOptions()),
        [
            new("queue-not-stopped", "The eviction fence signals, and the queue keeps its page table.",
                c => BuildMover(c, new GpuOptions { StopsQueues = false })),
        ])
    {
        Defence = "who waits for the eviction fence stops the queues, and they are restored with what is true then",
        Orders = OrderSource.Priorities,
    };

    public static NamedScenario TwoEngines { get; } = new(
        "two-engines-against-mover",
        "A ring of the compute engine and one of the copy engine fill the halves of a buffer while its GPU evicts it; "
        + "the process's queues have stopped when both engines have left them, and both go on at the new place.",
        c => BuildTwoEngines(c, new GpuOptions()),
        [
            new("one-engine-awaited", "The eviction fence signals when the first engine has left.",
                c => BuildTwoEngines(c, new GpuOptions { AwaitsEveryEngine = false })),
        ])
    {
        Defence = "the eviction counts the engines that may be in a block, and the last one to leave signals its fence",
        Orders = OrderSource.Random,
    };

    public static NamedScenario Reclaim { get; } = new(
        "job-against-reclaim",
        "A job with a fence fills two pages of its process while memory is reclaimed and another process takes it; "
        + "nothing of the job lands in the other's memory, and all of it in its own.",
        c => BuildReclaim(c, new GpuOptions()),
        [
            new("notifier-waits-for-nobody", "The notifier returns while the job is still running.",
                c => BuildReclaim(c, new GpuOptions { WaitsInNotifier = false })),
        ])
    {
        Defence = "the notifier of a job with a fence waits for it",
        Orders = OrderSource.Priorities,
    };

    private static Scenario BuildMover(Choices choices, GpuOptions options)
    {
        GpuSpaceWorld world = new(choices, options with { ComputeBlockBytes = 1024, CopyBlockBytes = 2048 }, pages: 1);
        GpuBuffer buffer = world.MapBuffer("buffer", BufferVa);
        UserQueue queue = world.StartQueue(
            0x20_0000,
            new GpuCommand { Opcode = GpuOpcode.Fill, Target = BufferVa, Value = Value, Count = PageFrame.SizeBytes });
        bool hasMoved = false;
        bool isOver() => hasMoved && queue.Done == 1;
        IEnumerable<Step> Move()
        {
            foreach (GpuDomain to in (GpuDomain[])[GpuDomain.System, GpuDomain.Vram])
            {
                yield return "move";
                MoveOperation move = world.Locked(() => world.Gpu.Move(buffer, to));
                yield return new("moved", () => move.IsCompleted);
                World.Require(Errno.Success, move.Error);
            }

            hasMoved = true;
        }

        return world.ToScenario(
            () =>
            {
                world.ExpectNoViolation();
                world.RequireFilled(buffer, Value);
            },
            ("mover", Move()),
            ("engine", world.Engine(isOver)),
            ("copies", world.CopyEngine(isOver)),
            ("clock", Elapse(world, isOver)));
    }

    private static Scenario BuildTwoEngines(Choices choices, GpuOptions options)
    {
        const uint Half = PageFrame.SizeBytes / 2;
        GpuSpaceWorld world = new(choices, options with { ComputeBlockBytes = 512, CopyBlockBytes = 4096 }, pages: 1);
        GpuBuffer buffer = world.MapBuffer("buffer", BufferVa);
        GpuCommand fill = new() { Opcode = GpuOpcode.Fill, Target = BufferVa, Value = Value, Count = Half };
        UserQueue copies = world.AddQueue(GpuEngineKind.Copy, 0x50_0000, fill with { Target = BufferVa + Half });
        UserQueue queue = world.AddQueue(GpuEngineKind.Compute, 0x20_0000, fill);
        world.Locked(world.Process.Eviction.Start);
        world.Clock.AdvanceTo(world.Clock.Now + GpuEviction.ActiveTimeMin); // it may be stopped at once
        GpuEviction eviction = world.Process.Eviction;
        bool hasMoved = false;
        bool isOver() => hasMoved && queue.Done + copies.Done == 2;
        IEnumerable<Step> Move()
        {
            yield return "move";
            MoveOperation move = world.Locked(() => world.Gpu.Move(buffer, GpuDomain.System));
            yield return new("moved", () => move.IsCompleted);
            World.Require(Errno.Success, move.Error);
            hasMoved = true;
        }

        void RequireLeft()
        {
            foreach (QueueEngine engine in world.Gpu.QueueEngines)
            {
                if (eviction.State == GpuEvictionState.Evicted && engine.RunningQueue is UserQueue running)
                {
                    throw new ViolationException(
                        $"the eviction fence has signalled, and {engine.Name} is in {running.Name}");
                }
            }
        }

        return world.ToScenario(
            () =>
            {
                world.ExpectNoViolation();
                world.RequireFilled(buffer, Value);
            },
            () => world.Locked(RequireLeft),
            ("mover", Move()),
            ("compute", world.Engine(GpuEngineKind.Compute, isOver)),
            ("copies", world.Engine(GpuEngineKind.Copy, isOver)),
            ("mover's copies", world.CopyEngine(isOver)),
            ("clock", Elapse(world, isOver)));
    }

    // Time passes to what the eviction waits for.
    private static IEnumerable<Step> Elapse(GpuSpaceWorld world, Func<bool> isOver)
    {
        GpuEviction eviction = world.Process.Eviction;
        while (true)
        {
            yield return new("wait", () => isOver() || eviction.NextDeadline is not null);
            if (isOver())
            {
                yield break;
            }

            world.Clock.AdvanceTo(eviction.NextDeadline!.Value > world.Clock.Now
                ? eviction.NextDeadline.Value
                : world.Clock.Now);
            world.Locked(() => eviction.HandleTimeout(world.Clock.Now));
        }
    }

    private static Scenario BuildReclaim(Choices choices, GpuOptions options)
    {
        GpuSpaceWorld world = new(
            choices, options with { ComputeBlockBytes = 2048 }, pages: 2, GpuUserMemory.WaitForFences);
        AddressSpace other = world.Locked(() => new AddressSpace(world.Memory, "other"));
        AddressRange taken = default;
        world.Locked(() =>
        {
            MapOperation map = other.Map(new RegionRequest { LengthBytes = 8 * PageFrame.SizeBytes });
            map.Proceed();
            taken = map.Addresses;
        });
        ComputeQueue queue = world.Locked(() => world.Process.CreateQueue("jobs"));
        byte[] ring = new byte[GpuCommand.SizeBytes];
        new GpuCommand
        {
            Opcode = GpuOpcode.Fill,
            Target = GpuSpaceWorld.Va,
            Value = Value,
            Count = 2 * PageFrame.SizeBytes,
        }.Write(ring);
        SubmitOperation job = world.Locked(
            () => SubmitOperation.Start(queue, new GpuSubmission(GpuCommandMode.Paged, ring)));
        ReclaimOperation reclaim = world.Locked(() => world.Memory.Reclaim(2));
        byte[] zeroes = new byte[8 * PageFrame.SizeBytes];
        bool hasReclaimed = false;
        IEnumerable<Step> Take()
        {
            yield return new("memory is there", () => hasReclaimed);
            AccessOperation write = world.Locked(() => other.Write(taken.Start, zeroes));
            foreach (Step step in write.Drive(world.Host))
            {
                yield return step;
            }

            World.Require(Errno.Success, write.Errno);
        }

        return world.ToScenario(
            () =>
            {
                world.ExpectNoViolation();
                World.Require(Errno.Success, job.Fence!.Error);
                byte[] seen = new byte[zeroes.Length];
                world.Locked(() => other.Read(taken.Start, seen).Proceed());
                if (seen.AsSpan().IndexOfAnyExcept((byte)0) >= 0)
                {
                    throw new ViolationException("a job wrote into the memory of another process");
                }

                if (world.Load((2 * PageFrame.SizeBytes) - 4) != Value)
                {
                    throw new ViolationException("what a job wrote is not in its process's memory");
                }
            },
            ("reclaim", MigrateAgainstTouch.Then(reclaim.Drive(world.Host), () => hasReclaimed = true)),
            ("other", Take()),
            ("engine", world.Engine(() => job.Fence is { HasEnded: true })));
    }
}
