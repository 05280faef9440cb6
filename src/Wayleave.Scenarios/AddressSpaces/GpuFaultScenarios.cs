using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// A GPU that may fault (KFD with XNACK, drm_gpusvm), against a process that throws pages away and a machine that is
// short of memory.
//
// Faithful: the mirror with its entries and gates, the faults with their retries, the engine, the user queue, the
// rounds and reclaim are the shipped ones.
// Not faithful: in the first scenario one actor stands for the engine, so that others run in the middle of a block; in
// the second a block is one step.

/// <summary>User queues that touch memory which is taken from under them.</summary>
internal static class GpuFaultScenarios
{
    private const ulong Va = 0x10_0000;
    private const ulong RingVa = 0x20_0000;
    private const uint First = 0x01010101;
    private const uint Second = 0x02020202;

    public static NamedScenario Block { get; } = new(
        "gpu-block-against-notifier",
        "A process discards a page and writes to its successor while a GPU's block reads it, after faults; no block "
        + "touches a page that was given away or reads what was overwritten before it began.",
        c => BuildBlock(c, new GpuOptions()),
        [
            new("block-not-awaited", "The callback returns while the block is still reading.",
                c => BuildBlock(c, Without(MirrorDefences.WaitsForBlock))),
            new("sequence-not-set", "The callback does not say that what the fault saw is stale.",
                c => BuildBlock(c, Without(MirrorDefences.SetsSequence))),
            new("entry-kept", "The GPU keeps its entry.", c => BuildBlock(c, Without(MirrorDefences.ClearsEntries))),
        ])
    {
        Defence = "entries go before the gate closes, all closed gates are awaited, and a fault that came too late "
            + "looks again",
    };

    public static NamedScenario Queue { get; } = new(
        "queue-under-faults",
        "A user queue copies from one page of a process to another while the process writes a third, discards the "
        + "target, and memory is short; every fault is served, the queue ends, and the bytes are those of the source.",
        c => BuildQueue(c, new GpuOptions()),
        [
            new("sequence-not-set", "The callback does not say that what the fault saw is stale.",
                c => BuildQueue(c, Without(MirrorDefences.SetsSequence))),
            new("entry-kept", "The GPU keeps its entries.", c => BuildQueue(c, Without(MirrorDefences.ClearsEntries))),
        ])
    {
        Defence = "a queue that faults gives the engine up, and goes on from the same block",
        Orders = OrderSource.Priorities,
    };

    public static NamedScenario CopyQueue { get; } = new(
        "copy-queue-under-faults",
        "As queue-under-faults, with a queue of the copy engine: it stalls at a fault and goes on, and no fence of it "
        + "stands anywhere.",
        c => BuildQueue(c, new GpuOptions(), GpuEngineKind.Copy),
        [
            new("sequence-not-set", "The callback does not say that what the fault saw is stale.",
                c => BuildQueue(c, Without(MirrorDefences.SetsSequence), GpuEngineKind.Copy)),
            new("entry-kept", "The GPU keeps its entries.",
                c => BuildQueue(c, Without(MirrorDefences.ClearsEntries), GpuEngineKind.Copy)),
        ])
    {
        Defence = "a queue that faults gives its engine up, whichever it is, and goes on from the same block",
        Orders = OrderSource.Priorities,
    };

    private static GpuOptions Without(MirrorDefences defence) =>
        new() { MirrorDefences = MirrorDefences.All & ~defence };

    private static Scenario BuildBlock(Choices choices, GpuOptions options)
    {
        GpuSpaceWorld world = new(choices, options, pages: 1);
        world.Store(0, First);
        DmaPort port = new(world.Gpu.Function);
        List<uint> now = [First], during = [];
        void Add(uint value)
        {
            now.Add(value);
            during.Add(value);
        }

        IEnumerable<Step> Discard()
        {
            Add(0);
            ChangeOperation discard = world.Locked(() => world.Space.Discard(world.Range));
            foreach (Step step in world.Complete(discard))
            {
                yield return step;
            }

            now.Remove(First);
            Add(Second);
            foreach (Step step in world.Write(0, Second))
            {
                yield return step;
            }

            now.Remove(0u);
        }

        IEnumerable<Step> Read()
        {
            for (int block = 0; block < 2; block++)
            {
                while (true)
                {
                    InFlightGate gate = world.Mirror.Enter();
                    during.Clear();
                    during.AddRange(now);
                    if (world.Mirror.TryTranslate(0, GpuAccess.Read, out DeviceAddress at, out _) == Errno.Success)
                    {
                        PageFrame frame = world.FrameAt(at);
                        ulong generation = frame.Generation;
                        yield return "in the block";
                        if (!frame.IsAllocated || frame.Generation != generation)
                        {
                            throw new ViolationException($"a block touches {frame}, which was given away");
                        }

                        World.Require(Errno.Success, port.TryRead(at, 4, out ReadOnlySpan<byte> bytes));
                        uint seen = BitConverter.ToUInt32(bytes);
                        if (!during.Contains(seen))
                        {
                            throw new ViolationException($"a block reads {seen:x}, which the page no longer holds");
                        }

                        gate.Exit();
                        break;
                    }

                    gate.Exit();
                    Core.Checking.Activity who = world.Locked(() => new Core.Checking.Activity(
                        world.Host, Core.Checking.ActivityKind.Thread, "fault"));
                    SpaceOperation fault = world.Locked(() => world.Mirror.Fault(0, isWrite: false, who, () => { }))!;
                    foreach (Step step in world.Complete(fault))
                    {
                        yield return step;
                    }
                }

                yield return "the next block";
            }
        }

        return world.ToScenario(
            () => world.ExpectNoViolation(),
            ("process", Discard()),
            ("engine", Read()));
    }

    private static Scenario BuildQueue(
        Choices choices, GpuOptions options, GpuEngineKind engine = GpuEngineKind.Compute)
    {
        GpuSpaceWorld world = new(choices, options with { ComputeBlockBytes = 2048, FaultAheadPages = 0 }, pages: 2);
        world.Fill(0, First);
        UserQueue queue = world.StartQueue(
            engine,
            RingVa,
            new GpuCommand
            {
                Opcode = GpuOpcode.Copy,
                A = Va,
                Target = Va + SpaceWorld.Page,
                Count = SpaceWorld.Page,
            });
        int running = 2;
        ChangeOperation discard = world.Locked(() => world.Space.Discard(
            new AddressRange(world.Range.Start + SpaceWorld.Page, SpaceWorld.Page)));
        ReclaimOperation reclaim = world.Locked(() => world.Memory.Reclaim(2));
        bool isOver() => running == 0 && (queue.Done == 1 || queue.IsLost) && world.Process.Faults.PendingCount == 0;
        return world.ToScenario(
            () =>
            {
                world.ExpectNoViolation();
                if (queue.IsLost || queue.Done != 1)
                {
                    throw new ViolationException($"the queue has ended {(queue.IsLost ? "badly" : "nothing")}");
                }

                // What was copied before the discard is gone with the page; what was copied after it is there.
                foreach (uint seen in (uint[])[world.Load(SpaceWorld.Page), world.Load((2 * SpaceWorld.Page) - 4)])
                {
                    if (seen is not (First or 0))
                    {
                        throw new ViolationException($"the copy holds {seen:x}");
                    }
                }

                if (world.Load((2 * SpaceWorld.Page) - 4) != First && world.DiscardedBeforeLastBlock)
                {
                    throw new ViolationException("a block wrote to a page that was not the process's any more");
                }
            },
            ("process", MigrateAgainstTouch.Then(
                world.Complete(discard), () => { running--; world.DiscardedBeforeLastBlock = queue.Done == 0; })),
            ("reclaim", MigrateAgainstTouch.Then(reclaim.Drive(world.Host), () => running--)),
            ("engine", world.Engine(engine, isOver)),
            ("faults", world.ServeFaults(isOver)));
    }
}
