using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Scenarios.TakeBack;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// Everything that take-backs are made of, at once: pages are reclaimed for another process and for each other's faults,
// a process throws pages out of its table, a GPU moves buffers away and back, and a job with a fence works on pages
// that are wanted elsewhere; and all the while a peer writes by keys of every kind.
//
// Faithful: both NICs with their queue pairs and packets, regions and their faults, address spaces, the GPU's engines,
// buffers, jobs and moves are the shipped ones, and so is who waits for whom.
// Not faithful: a packet is placed in one step, and the wire loses none.

/// <summary>A peer writes to regions of every kind while their memory is taken and given back.</summary>
internal static class RegionsUnderPressure
{
    private const int Rounds = 2;
    private const int OtherPages = 6;

    public static NamedScenario Scenario { get; } = new(
        "regions-under-pressure",
        "A peer writes to regions of seven kinds while there are half as many pages as are wanted, buffers move and a "
        + "GPU works on pages of the process; every message completes, and every byte is the last that was written.",
        c => Build(c),
        [
            new("reclaim-tells-nobody", "Pages are reclaimed without a word to the NIC that mirrors them.",
                c => Build(c, core: CoreDefences.All & ~CoreDefences.TellsBeforeReclaim)),
            new("pin-not-counted", "Reclaim does not see that a page is pinned.",
                c => Build(c, core: CoreDefences.All & ~CoreDefences.CountsPins)),
            new("notifier-waits-for-nobody", "The notifier of a job returns while the job is still running.",
                c => Build(c, options: new GpuOptions { WaitsInNotifier = false })),
        ])
    {
        Defence = "who takes memory tells all who use it, waits for what is under way, and passes over what is held",
        Orders = OrderSource.Random,
    };

    private static Scenario Build(
        Choices choices, CoreDefences core = CoreDefences.All, GpuOptions? options = null)
    {
        RegionPressureWorld world = new(choices, core, options ?? new GpuOptions());
        Run run = new(world);
        return world.ToScenario(
            run.ExpectEnd,
            ("peer", run.Write()),
            ("other", run.TakePages()),
            ("gpu", run.Move()),
            ("job", run.Compute()),
            ("process", run.DiscardAndRead()));
    }

    private sealed class Run(RegionPressureWorld world)
    {
        private readonly Dictionary<PressedRegion, byte> _written = [];
        private readonly byte[] _others = new byte[OtherPages];
        private uint _filled;

        public void ExpectEnd() => world.ExpectEnd(_written, _filled, _others);

        public IEnumerable<Step> Write()
        {
            byte value = 0;
            for (int round = 0; round < Rounds; round++)
            {
                foreach (PressedRegion kind in Enum.GetValues<PressedRegion>())
                {
                    value++;
                    bool isDone = false;
                    while (!isDone)
                    {
                        yield return $"write to {kind}";
                        world.Peer.Post(world.TargetOf(kind), value);
                        yield return new("complete", () => world.Peer.Nic.HasCompletion);
                        WorkCompletionStatus status = world.Peer.Nic.Poll().Status;
                        isDone = status == WorkCompletionStatus.Success;
                        if (isDone)
                        {
                            _written[kind] = value;
                            continue;
                        }

                        if ((kind, status) != (PressedRegion.LegacyPeer, WorkCompletionStatus.RemoteAccessError))
                        {
                            throw new ViolationException($"a write to {kind} ended with {status}");
                        }

                        yield return new("register again", () => world.CanReplace(kind));
                        world.Replace(kind);
                        RdmaEnd.Reconnect(world.Nic, world.Peer.Nic);
                    }
                }
            }
        }

        public IEnumerable<Step> TakePages()
        {
            for (int i = 0; i < Rounds * OtherPages; i++)
            {
                int page = i % OtherPages;
                byte value = (byte)(0x80 + i);
                byte[] bytes = new byte[PageFrame.SizeBytes];
                Array.Fill(bytes, value);
                ulong at = world.OtherRange.Start + (ulong)(page * PageFrame.SizeBytes);
                AccessOperation write = world.Locked(() => world.Other.Write(at, bytes));
                foreach (Step step in world.Complete(write))
                {
                    yield return step;
                }

                _others[page] = value;
            }
        }

        // One that is pinned stays where it is.
        public IEnumerable<Step> Move()
        {
            foreach (GpuDomain domain in (GpuDomain[])[GpuDomain.System, GpuDomain.Vram])
            {
                foreach (PressedRegion kind in (PressedRegion[])
                    [PressedRegion.Dynamic, PressedRegion.PinnedRevocable, PressedRegion.LegacyPeer])
                {
                    yield return $"move {kind}";
                    MoveOperation move = world.Locked(() => world.Gpu.Move(world.BufferOf(kind), domain));
                    yield return new("moved", () => move.IsCompleted);
                    World.Require(
                        kind == PressedRegion.PinnedRevocable ? Errno.EBUSY : Errno.Success, move.Error);
                }
            }
        }

        public IEnumerable<Step> Compute()
        {
            for (uint round = 1; round <= Rounds; round++)
            {
                yield return "submit";
                uint value = 0x01010101 * (0x70 + round);
                byte[] commands = new byte[GpuCommand.SizeBytes];
                RegionPressureWorld.Fill(value).Write(commands);
                SubmitOperation job = world.Locked(
                    () => SubmitOperation.Start(world.Jobs, new GpuSubmission(GpuCommandMode.Paged, commands)));
                yield return new(
                    "the job has ended", () => job.Error != Errno.Success || job.Fence is { HasEnded: true });
                World.Require(Errno.Success, job.Error);
                World.Require(Errno.Success, job.Fence!.Error);
                _filled = value;
            }
        }

        public IEnumerable<Step> DiscardAndRead()
        {
            for (int round = 0; round < Rounds; round++)
            {
                foreach (Step step in world.Complete(world.Discard()))
                {
                    yield return step;
                }

                AccessOperation read = world.Read(PressedRegion.OnDemand, new byte[RegionPressureWorld.Bytes]);
                foreach (Step step in world.Complete(read))
                {
                    yield return step;
                }
            }
        }
    }
}
