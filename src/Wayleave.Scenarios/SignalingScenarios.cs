using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

// The rule of dma-fence.c's cross-driver contract, C2 to C4 and C6 in linux.md 3.8: what stands between publishing a
// fence and signalling it takes no reservation, waits for no fence and takes no memory from anybody, because whoever
// waits for the fence may hold, or be, just that. Faithful: the engine, the importer's drain, the mover and the
// reservations are the shipped ones, and a broken rule is reported in the first order, as lockdep would, although
// nothing hangs. Not faithful: the engine's completion is user code here, where a kernel has a driver's interrupt
// handler, and an allocation that may reclaim is the call that makes room by evicting.

/// <summary>What is not done between a published fence and its signal.</summary>
internal static class SignalingScenarios
{
    public static NamedScenario Path { get; } = new(
        "signalling-path",
        "A job of a GPU reads a buffer that a NIC writes to and that the GPU evicts; what runs between publishing a "
        + "fence and signalling it takes no reservation, waits for no fence and evicts nothing.",
        c => Build(c, new ImporterFaults(), (_, _) => { }),
        [
            new("completion-locks", "The completion of a job takes the reservation of the buffer that it read.",
                c => Build(c, new ImporterFaults(), LockAndUnlock)),
            new("completion-waits", "The completion of a job waits for the writers of the buffer that it read.",
                c => Build(c, new ImporterFaults(), Wait)),
            new("completion-evicts", "The completion of a job makes room for a result by evicting others.",
                c => Build(c, new ImporterFaults(), Evict)),
            new("drain-locks", "An importer takes the reservation to unmap before it says that it has drained.",
                c => Build(c, new ImporterFaults { UnmapsWithoutLock = false }, (_, _) => { })),
        ])
    {
        Defence = "the checker knows who is between publishing and signalling, and says what must not be done there",
    };

    private static Scenario Build(Choices choices, ImporterFaults faults, Action<World, CopyJob> ended)
    {
        World world = new(choices);
        User nic = world.AddUser("nic", ImporterKind.Dynamic, offset: 0, faults);
        return world.ToScenario(
            ("nic", nic.Write(rounds: 2)),
            ("reader", Read(world, ended)),
            ("gpu", MoveOnce(world)));
    }

    // Reads and writes back what it read: nothing changes but by others.
    private static IEnumerable<Step> Read(World world, Action<World, CopyJob> ended)
    {
        Reservation reservation = world.Lent.Shared.Reservation;
        yield return new("submit", () => reservation.Owner is null);
        Fence read;
        using (world.Host.Enter())
        {
            AcquireTicket ticket = new(world.Host, "reader");
            reservation.TryLock(ticket);
            reservation.ReserveFences(ticket, 1);
            read = new Timeline(world.Host, "reader").CreateFence();
            DmaAddressList place = world.Lent.Placement.LocalAddresses;
            CopyJob job = new()
            {
                Name = "read lent",
                Source = place,
                Target = place,
                Waits = reservation.GetPendingFences(ReservationUsage.Kernel),
                Fence = read,
                Ended = j => ended(world, j),
            };
            World.Require(Errno.Success, world.Gpu.CopyEngine.TrySubmit(job));
            reservation.AddFence(ticket, read, ReservationUsage.Read);
            reservation.Unlock(ticket);
        }

        yield return new("read", () => read.IsSignaled);
    }

    private static IEnumerable<Step> MoveOnce(World world)
    {
        yield return "move to System";
        MoveOperation move;
        using (world.Host.Enter())
        {
            move = world.Gpu.Evict(world.Lent);
        }

        yield return new("moved", () => move.IsCompleted);
        World.Require(Errno.Success, move.Error);
    }

    private static void LockAndUnlock(World world, CopyJob job)
    {
        AcquireTicket ticket = new(world.Host, job.Name);
        if (world.Lent.Shared.Reservation.TryLock(ticket).Kind == LockOutcomeKind.Acquired)
        {
            world.Lent.Shared.Reservation.Unlock(ticket);
        }
    }

    private static void Wait(World world, CopyJob job) =>
        FenceWait.Start(
            world.Host, waiter: null, world.Lent.Shared.Reservation, ReservationUsage.Write, FenceWait.NoTimeout);

    private static void Evict(World world, CopyJob job) => world.Gpu.TryMakeRoom((ulong)world.BufferBytes, out _);
}
