using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Reservations;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Report: https://lwn.net/Articles/548909/ (Wait/wound mutexes), the problem for which the kernel got them, and why
// dma_resv is one (docs/internals/linux.md 2.4). A job that needs two buffers locks both, and nobody can tell in which
// order another job names the same two.
//
// Faithful: the reservations, the tickets and the recipe after -EDEADLK (let go of everything, take the contended lock
// first, then the rest) are those of the shipped core, and so is the lock without a ticket, which waits in line like
// any mutex. The checker, which sees it all the same, is off where nothing is to help.
// Not faithful: a job does nothing with the two buffers but hold them.

/// <summary>Two buffers are locked in opposite orders.</summary>
internal static class LockOrder
{
    private static readonly string[] s_reports = ["https://lwn.net/Articles/548909/"];

    private static readonly BrokenVariant s_noTickets = new(
        "no-tickets", "Each buffer is locked by itself, so that nobody knows who is older, and nobody looks.",
        c => Build(c, hasTickets: false, hasChecker: false));

    public static NamedScenario Scenario { get; } = new(
        "opposite-lock-orders",
        "Two jobs lock the same two buffers in opposite orders; both get both, whoever has to start again.",
        c => Build(c, hasTickets: true, hasChecker: false),
        [s_noTickets])
    {
        Reports = s_reports,
        Defence = "one ticket for all locks of a job: Wait-Die sends the younger back",
    };

    public static NamedScenario Checked { get; } = new(
        "opposite-locks-checked",
        "Two jobs lock the same two buffers in opposite orders, each by itself; the wait that would close the circle "
        + "is refused, and both get both.",
        c => Build(c, hasTickets: false, hasChecker: true),
        [s_noTickets])
    {
        Reports = s_reports,
        Defence = "the checker looks at each wait before it begins",
    };

    private static Scenario Build(Choices choices, bool hasTickets, bool hasChecker)
    {
        Story story = new(choices);
        CheckerOptions checks = hasChecker ? new CheckerOptions() : CheckerOptions.Off;
        HostContext host = new(new VirtualClock(), choices.IsTold ? story : null, checks);
        Reservation x = new(host, "x"), y = new(host, "y");
        return new Scenario(
            [
                new Actor("job 1", Lock(host, story, "job 1", hasTickets, x, y)),
                new Actor("job 2", Lock(host, story, "job 2", hasTickets, y, x)),
            ],
            Invariant: () => { },
            AtEnd: () =>
            {
                if (x.Owner is not null || y.Owner is not null)
                {
                    throw new ViolationException("a lock is left held");
                }
            },
            Narrate: story.Take);
    }

    private static IEnumerable<Step> Lock(
        HostContext host, Story story, string job, bool hasTickets, Reservation first, Reservation second)
    {
        yield return "start";
        Dictionary<Reservation, AcquireTicket> tickets = Tickets(host, job, hasTickets, first, second);
        List<Reservation> held = [];
        Reservation? contended = null;
        while (held.Count < 2)
        {
            Reservation next = contended ?? (held.Contains(first) ? second : first);
            contended = null;
            yield return $"lock {next.Name}";
            LockOutcome outcome;
            using (host.Enter())
            {
                outcome = next.TryLock(tickets[next]);
            }

            LockOutcomeKind result = outcome.Kind;
            if (outcome.Wait is { } wait)
            {
                yield return new($"wait for {next.Name}", () => wait.IsCompleted);
                result = wait.Result;
            }

            story.Say($"{result}");
            if (result == LockOutcomeKind.Deadlock)
            {
                Unlock(host, tickets, held);
                contended = next;
            }
            else
            {
                held.Add(next);
            }
        }

        yield return "work and unlock";
        Unlock(host, tickets, held);
    }

    private static Dictionary<Reservation, AcquireTicket> Tickets(
        HostContext host, string job, bool hasTickets, Reservation first, Reservation second)
    {
        using (host.Enter())
        {
            if (hasTickets)
            {
                AcquireTicket ticket = new(host, job);
                return new() { [first] = ticket, [second] = ticket };
            }

            // As two plain locks of one thread: only the checker knows that they belong together.
            Activity thread = new(host, ActivityKind.Thread, job);
            return new()
            {
                [first] = AcquireTicket.CreatePlain(host, job, thread),
                [second] = AcquireTicket.CreatePlain(host, job, thread),
            };
        }
    }

    private static void Unlock(
        HostContext host, Dictionary<Reservation, AcquireTicket> tickets, List<Reservation> held)
    {
        using (host.Enter())
        {
            foreach (Reservation reservation in held)
            {
                reservation.Unlock(tickets[reservation]);
            }
        }

        held.Clear();
    }
}
