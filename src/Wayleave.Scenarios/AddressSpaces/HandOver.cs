using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// Two engines of a GPU, each with a thread of its own: what the one writes is what a queue of the other waits for.
//
// Faithful: the engines with their tokens, doorbells and holds of the host lock, and the queues, are the shipped ones.
// Not faithful: a block is not broken off in its middle.

/// <summary>A ring of the copy engine that waits for a value which a ring of the compute engine stores.</summary>
internal static class HandOver
{
    private const ulong DataVa = 0x30_0000;

    public static NamedScenario Scenario { get; } = new(
        "value-between-engines",
        "A ring of one engine stores a value while a ring of the other looks for it, and goes to sleep when it is not "
        + "there yet; whatever the order, it goes on.",
        c => Build(c, new GpuOptions()),
        [
            new("sleeps-unasked", "A queue goes to sleep although something has ended since it looked.",
                c => Build(c, new GpuOptions { LooksAgain = false })),
        ])
    {
        Defence = "an engine notes how often something has ended before it looks, and lets no queue sleep on less",
        Orders = OrderSource.Random,
        UsesThreads = true,
    };

    private static Scenario Build(Choices choices, GpuOptions options)
    {
        GpuSpaceWorld world = new(choices, options, pages: 1);
        world.MapBuffer("data", DataVa);
        UserQueue waits = world.AddQueue(
            GpuEngineKind.Copy,
            0x50_0000,
            new GpuCommand { Opcode = GpuOpcode.Acquire, A = DataVa, Value = 1 },
            new GpuCommand { Opcode = GpuOpcode.Release, Target = DataVa + 4, Value = 2 });
        UserQueue stores = world.AddQueue(
            GpuEngineKind.Compute,
            0x20_0000, new GpuCommand { Opcode = GpuOpcode.Release, Target = DataVa, Value = 1 });
        world.Locked(world.Process.Eviction.Start);

        return new Scenario(
            [
                Actor.OnThread("compute", () => world.Gpu.ComputeEngine.Drive(int.MaxValue)),
                Actor.OnThread("copies", () => world.Gpu.CopyQueueEngine.Drive(int.MaxValue)),
            ],
            Invariant: () => { },
            AtEnd: () =>
            {
                world.Gpu.CopyQueueEngine.Drive(int.MaxValue); // its thread had left, and was rung for
                world.ExpectNoViolation();
                if (stores.Done != 1 || waits.Done != 2)
                {
                    throw new ViolationException($"the value is there, and {waits.Name} sleeps for ever");
                }
            },
            Narrate: world.Story.Take);
    }
}
