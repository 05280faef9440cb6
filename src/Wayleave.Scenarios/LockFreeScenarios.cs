using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// The pieces that take no lock, on threads that pass a baton at each interleaving point of the shipped code. What no
/// search of this kind sees is a weaker order of memory: that is for a stress test.
/// </summary>
internal static class LockFreeScenarios
{
    /// <summary>A gate that closes while two users come and go.</summary>
    public static NamedScenario Gate { get; } = new(
        "gate-closed-under-users",
        "An owner closes a gate while two users enter and leave; nobody is inside after the drain, which comes once.",
        _ => BuildGate(g => g.TryEnter()),
        [
            new("look-then-count", "A user looks whether the gate is open, and is counted afterwards.",
                _ => BuildGate(g => g.TryEnterCheckThenAct())),
        ])
    {
        Defence = "one word holds the count and the close: who is refused was never counted",
        UsesThreads = true,
    };

    /// <summary>Two threads that submit work and drive the engine if nobody else does.</summary>
    public static NamedScenario Engine { get; } = new(
        "engine-left-by-its-driver",
        "Two threads submit work to a copy engine and drive it unless the other does; no job is left behind.",
        c => BuildEngine(c, engine => engine.Drive(int.MaxValue)),
        [
            new("no-second-look", "Who leaves the engine does not look again for work that came meanwhile.",
                c => BuildEngine(c, DriveOnce)),
        ])
    {
        Defence = "a doorbell that is looked at after the token was given back",
        Orders = OrderSource.Random,
        UsesThreads = true,
    };

    private static Scenario BuildGate(Func<InFlightGate, bool> enter)
    {
        int inside = 0, drains = 0;
        void Free()
        {
            if (++drains != 1 || inside != 0)
            {
                throw new ViolationException($"drain number {drains}, with {inside} inside");
            }
        }

        InFlightGate gate = new(Free);
        void Use()
        {
            if (enter(gate))
            {
                inside++;
                ThreadedActor.Stop("use the memory");
                inside--;
                gate.Exit();
            }
        }

        void Close()
        {
            if (gate.Close(out _))
            {
                Free();
            }
        }

        return new Scenario(
            [Actor.OnThread("user 1", Use), Actor.OnThread("user 2", Use), Actor.OnThread("owner", Close)],
            Invariant: () =>
            {
                if (drains > 0 && inside != 0)
                {
                    throw new ViolationException("somebody is inside a gate that has drained");
                }
            },
            AtEnd: () =>
            {
                if (drains != 1 || !gate.IsDrained)
                {
                    throw new ViolationException($"{drains} drains at the end");
                }
            });
    }

    private static void DriveOnce(CopyEngine engine)
    {
        if (engine.TryEnter())
        {
            while (engine.Step())
            {
            }

            engine.Exit();
        }
    }

    private static Scenario BuildEngine(Choices choices, Action<CopyEngine> drive)
    {
        const int BufferBytes = 64;
        Story story = new(choices);
        HostContext host = new(new VirtualClock(), choices.IsTold ? story : null);
        GpuDevice gpu;
        using (host.Enter())
        {
            GpuOptions options = new() { GranularityBytes = BufferBytes, CopyBlockBytes = BufferBytes };
            PciFunction function = new(new PciAddress(0, 1, 0, 0), "gpu0");
            byte[] vram = new byte[2 * BufferBytes];
            gpu = new GpuDevice(host, new PciFabric(), function, options, [vram], [new byte[BufferBytes]]);
        }

        void SubmitAndDrive(string name)
        {
            using (host.Enter())
            {
                GpuBufferInfo info = new(name, BufferBytes, StorageKind.Movable);
                World.Require(Errno.Success, gpu.TryCreate(info, out _)); // queues the job that clears it
            }

            drive(gpu.CopyEngine);
        }

        return new Scenario(
            [
                Actor.OnThread("thread 1", () => SubmitAndDrive("one")),
                Actor.OnThread("thread 2", () => SubmitAndDrive("two")),
            ],
            Invariant: () => Contracts.Require(host),
            AtEnd: () =>
            {
                if (gpu.CopyEngine.QueuedCount != 0)
                {
                    throw new ViolationException("a job was left behind in the ring, and nobody drives the engine");
                }
            },
            Narrate: story.Take);
    }
}
