using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

// Two engines of a GPU, each with a thread that looks at nothing but its doorbell, and a program that submits a chain
// of jobs, each for the other engine than the one before.
//
// Faithful: the engines with their tokens, doorbells, counts of ready jobs and holds of the host lock, and the fences,
// are the shipped ones; a thread that waits for its doorbell is that of a running host, but for its sleep. Not
// faithful: no job is broken off in its middle.

/// <summary>Fences that go to and fro between two engines, while the jobs that wait for them are submitted.</summary>
internal static class ChainBetweenEngines
{
    private const int Jobs = 3;
    private const int BufferBytes = 64;

    public static NamedScenario Scenario { get; } = new(
        "fence-between-engines",
        "Jobs in turns on two engines, each behind the fence of the one before, while they are submitted; an engine "
        + "looks only when it was rung for, and no job is left behind.",
        c => Build(c, new GpuOptions()),
        [
            new("ring-counted-late", "An engine notes how often it was rung for after it has looked for work.",
                c => Build(c, new GpuOptions { NotesRingsFirst = false })),
        ])
    {
        Defence = "an engine notes how often it was rung for before it looks, and looks again on another count",
        Orders = OrderSource.Random,
        UsesThreads = true,
    };

    private static Scenario Build(Choices choices, GpuOptions options)
    {
        Story story = new(choices);
        HostContext host = new(new VirtualClock(), choices.IsTold ? story : null);
        ComputeQueue[] queues;
        using (host.Enter())
        {
            PciFunction function = new(new PciAddress(0, 1, 0, 0), "gpu0");
            GpuOptions small = options with { GranularityBytes = BufferBytes };
            byte[][] memory = [new byte[BufferBytes], new byte[BufferBytes]];
            GpuDevice gpu = new(host, new PciFabric(), function, small, [memory[0]], [memory[1]]);
            GpuProcess process = gpu.OpenProcess("process");
            queues =
            [
                process.CreateQueue("chain", engine: GpuEngineKind.Compute),
                process.CreateQueue("chain", engine: GpuEngineKind.Copy),
            ];
        }

        int submitted = 0;
        bool isOver() => submitted == Jobs && queues[0].Count + queues[1].Count == 0;
        void Drive(QueueEngine engine)
        {
            while (!isOver())
            {
                Interleave.Wait("doorbell", () => engine.HasDoorbell || isOver());
                engine.Drive(int.MaxValue);
            }
        }

        void Submit()
        {
            byte[] nothing = new byte[GpuCommand.SizeBytes];
            new GpuCommand { Opcode = GpuOpcode.Nop }.Write(nothing);
            Fence[] before = [];
            while (submitted < Jobs)
            {
                using (host.Enter())
                {
                    SubmitOperation job = SubmitOperation.Start(
                        queues[submitted % 2], new GpuSubmission(GpuCommandMode.Paged, nothing, before));
                    World.Require(Errno.Success, job.Error);
                    before = [job.Fence!];
                    submitted++;
                }
            }
        }

        return new Scenario(
            [
                Actor.OnThread("compute", () => Drive(queues[0].Engine)),
                Actor.OnThread("copies", () => Drive(queues[1].Engine)),
                Actor.OnThread("program", Submit),
            ],
            Invariant: () => Contracts.Require(host),
            AtEnd: () =>
            {
                if (!isOver())
                {
                    throw new ViolationException("a job was left behind, and nobody drives its engine");
                }
            },
            Narrate: story.Take);
    }
}
