using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Report: https://github.com/sgl-project/sglang/pull/38961 (Harden deferred decode KV release). After an abort the
// decode side keeps the pages until the prefill side acknowledges that its writes have drained, or until a time-out.
// The prefill side forgets whom to tell while its worker is still inside the transfer, so the acknowledgement is never
// sent, every abort ends by the time-out, and the time-out frees the pages under a worker that is still writing.
//
// Faithful: who stops and who has stopped are told apart (the worker is inside the transfer between two steps), the
// acknowledgement is the only news of the drain, and the time-out is an event of its own that may come at any moment.
// The worker is an importer of the shipped core; the acknowledgement is the fence that it leaves in the reservation,
// which has one holder and no table that could be cleared.
// Not faithful: the acknowledgement does not travel over a network.

/// <summary>The news of the drain is lost, and the time-out frees what is still written.</summary>
internal static class LostAcknowledgement
{
    public static NamedScenario Scenario { get; } = new(
        "lost-acknowledgement",
        "An owner waits for a writer's acknowledgement or for a time-out; the pages never go to somebody else while "
        + "the writer is inside, and they do come back when it has left.",
        c => Build(c, new GpuOptions(), new ImporterFaults(), isOnTime: false),
        [
            new("time-out-frees",
                "The acknowledgement is lost, and the time-out gives the pages away.",
                c => Build(
                    c, new GpuOptions { WaitsForProof = false }, new ImporterFaults { ReportsDrain = false }, true)),
            new("acknowledgement-lost",
                "The acknowledgement is lost, and the pages stay in quarantine for ever: safe, and gone.",
                c => Build(c, new GpuOptions(), new ImporterFaults { ReportsDrain = false }, isOnTime: false)),
        ])
    {
        Reports = ["sgl-project/sglang#38961"],
        Defence = "the drain is a fence that somebody owns, and a time-out ends in quarantine",
    };

    private static Scenario Build(Choices choices, GpuOptions options, ImporterFaults faults, bool isOnTime)
    {
        World world = new(choices, options);
        User worker = world.AddUser("worker", ImporterKind.Dynamic, offset: 0, faults);
        return world.ToScenario(
            ("worker", worker.Write(rounds: 1)),
            ("decode", isOnTime ? TellThenFreeOnTime(world) : Free(world)));
    }

    private static IEnumerable<Step> Free(World world)
    {
        yield return "abort";
        RevokeOperation operation;
        using (world.Host.Enter())
        {
            operation = world.Gpu.Free(world.Lent, new RevokePolicy());
        }

        yield return "time-out";
        using (world.Host.Enter())
        {
            world.Clock.AdvanceTo(operation.Deadline);
            operation.HandleTimeout(world.Clock.Now);
        }

        foreach (Step step in world.HandOut(GpuDomain.Vram, "request B"))
        {
            yield return step;
        }
    }

    // What was done instead: tell, wait for the word or for the clock, and free either way.
    private static IEnumerable<Step> TellThenFreeOnTime(World world)
    {
        yield return "abort";
        Reservation reservation = world.Lent.Shared.Reservation;
        AcquireTicket ticket;
        LockWait? wait;
        using (world.Host.Enter())
        {
            ticket = new AcquireTicket(world.Host, "abort");
            wait = reservation.TryLock(ticket).Wait;
        }

        yield return new("tell the worker", () => wait is null or { IsCompleted: true });
        using (world.Host.Enter())
        {
            world.Lent.Shared.InvalidateMappings(ticket);
            reservation.Unlock(ticket);
        }

        yield return "time-out: free the pages";
        using (world.Host.Enter())
        {
            world.Gpu.Free(world.Lent, new RevokePolicy());
        }

        foreach (Step step in world.HandOut(GpuDomain.Vram, "request B"))
        {
            yield return step;
        }
    }
}
