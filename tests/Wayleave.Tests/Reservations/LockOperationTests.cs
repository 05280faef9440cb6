using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Simulation;
using Wayleave.Tests.Fences;
using Xunit;

namespace Wayleave.Tests.Reservations;

public class LockOperationTests(ITestOutputHelper output) : FenceScenario
{
    [Fact]
    public void Free_reservations_are_locked_at_once_with_room_for_fences()
    {
        using (Host.Enter())
        {
            Reservation[] all = Many(Host, 3);
            AcquireTicket ticket = new(Host, "t");
            LockOperation operation = LockOperation.Start(
                Host, ticket, [all[0], all[1], all[0], all[2]], fenceSlots: 2);
            Assert.Equal((true, Errno.Success, 3), (operation.IsCompleted, operation.Errno, ticket.HeldCount));
            foreach (Fence fence in New(2))
            {
                all[2].AddFence(ticket, fence, ReservationUsage.Read);
            }

            Assert.False(operation.TryAddCompletion(() => { }));
            operation.UnlockAll();
            Assert.All(all, r => Assert.Null(r.Owner));
            Assert.Empty(Violations);
        }
    }

    [Fact]
    public void A_younger_operation_gives_way_and_gets_all_in_the_end()
    {
        bool told = false;
        LockOperation younger = null!;
        Reservation[] all = [];
        AcquireTicket older = null!;
        Do(() =>
        {
            all = Many(Host, 3);
            older = new AcquireTicket(Host, "older");
            all[2].TryLock(older);
            younger = LockOperation.Start(Host, new AcquireTicket(Host, "younger"), all);
            Assert.Equal((false, 1, 0), (younger.IsCompleted, younger.BackOffCount, younger.Ticket.HeldCount));
            Assert.True(younger.TryAddCompletion(() => told = true));
            Assert.Equal(LockOutcomeKind.Acquired, all[0].TryLock(older).Kind);
            all[0].Unlock(older);
        });
        Assert.False(told);
        Do(() => all[2].Unlock(older));
        Assert.Equal((true, true, 3), (told, younger.IsCompleted, younger.Ticket.HeldCount));
        Do(() =>
        {
            younger.UnlockAll();
            Assert.Empty(Violations);
        });
    }

    [Fact]
    public void An_operation_that_is_cancelled_holds_nothing_and_nobody_waits_for_it()
    {
        using (Host.Enter())
        {
            Reservation[] all = Many(Host, 2);
            AcquireTicket holder = new(Host, "holder"), next = new(Host, "next");
            all[1].TryLock(holder);
            LockOperation operation = LockOperation.Start(Host, new AcquireTicket(Host, "t"), [all[1], all[0]]);
            operation.Cancel();
            operation.Cancel();
            Assert.Equal((true, Errno.EINTR), (operation.IsCompleted, operation.Errno));
            LockWait wait = all[1].TryLock(next).Wait!;
            all[1].Unlock(holder);
            Assert.Equal(LockOutcomeKind.Acquired, wait.Result);
        }
    }

    [Fact]
    public void Three_operations_in_all_orders_finish_and_leave_nothing_locked()
    {
        Exploration exploration = Explorer.Exhaustive(_ => BuildThree(CoreDefences.All));
        output.WriteLine($"{exploration}");
        Assert.True(exploration.Runs > 100, $"{exploration}");
    }

    [Fact]
    public void Without_Wait_Die_and_without_the_graph_three_operations_hang_in_some_order()
    {
        CoreDefences broken = CoreDefences.All & ~(CoreDefences.WaitDie | CoreDefences.WaitGraph);
        InterleavingException e = Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => BuildThree(broken)));
        Assert.Contains("deadlock", e.Message, StringComparison.Ordinal);
        Assert.Throws<InterleavingException>(() => Explorer.Replay(_ => BuildThree(broken), e.Trail));
    }

    [Fact]
    public void Without_Wait_Die_alone_the_graph_finds_each_circle_and_the_operations_finish()
    {
        Exploration exploration = Explorer.Exhaustive(_ => BuildThree(CoreDefences.All & ~CoreDefences.WaitDie));
        output.WriteLine($"{exploration}");
    }

    [Fact]
    public void Thirty_operations_with_injected_deadlocks_finish()
    {
        Exploration exploration = Explorer.Seeded(
            choices =>
            {
                HostContext host = new(new VirtualClock(), checks: new CheckerOptions { InjectsLockDeadlocks = true });
                Reservation[] all = Many(host, 8);
                return Build(host, all, [.. Enumerable.Range(0, 30).Select(
                    _ => all.Where(_ => choices.Next(2) == 0).ToArray())]);
            },
            seed: 7, runs: 20);
        output.WriteLine($"{exploration}");
    }

    private static Scenario BuildThree(CoreDefences defences)
    {
        HostContext host = new(new VirtualClock()) { Defences = defences };
        Reservation[] r = Many(host, 3);
        return Build(host, r, [[r[0], r[1]], [r[1], r[2]], [r[2], r[0]]]);
    }

    private static Scenario Build(HostContext host, Reservation[] all, Reservation[][] wanted)
    {
        Actor[] actors = [.. wanted.Select((w, i) => new Actor($"{i}", Run(host, $"{i}", w)))];
        return new Scenario(actors, () => { }, AtEnd: () => Assert.All(all, r => Assert.Null(r.Owner)));
    }

    // One lock a step: an operation that takes what it wants in one go meets nobody.
    private static IEnumerable<Step> Run(HostContext host, string name, Reservation[] wanted)
    {
        AcquireTicket ticket;
        using (host.Enter())
        {
            ticket = new AcquireTicket(host, name);
        }

        HashSet<Reservation> held = [];
        Reservation? contended = null;
        while (held.Count < wanted.Length)
        {
            Reservation next = contended ?? wanted.First(r => !held.Contains(r));
            contended = null;
            yield return "lock";
            LockOutcome outcome;
            using (host.Enter())
            {
                outcome = next.TryLock(ticket);
            }

            if (outcome.Wait is { } wait)
            {
                yield return new("wait", () => wait.IsCompleted);
                outcome = new LockOutcome(wait.Result);
            }

            if (outcome.Kind == LockOutcomeKind.Deadlock)
            {
                Unlock(host, ticket, held);
                contended = next;
            }
            else
            {
                held.Add(next);
            }
        }

        yield return "operate";
        Unlock(host, ticket, held);
        LockOperation operation;
        using (host.Enter())
        {
            ticket.Renew();
            operation = LockOperation.Start(host, ticket, wanted);
        }

        yield return new("all at once", () => operation.IsCompleted);
        using (host.Enter())
        {
            Assert.Equal((Errno.Success, wanted.Length), (operation.Errno, ticket.HeldCount));
            operation.UnlockAll();
            Assert.DoesNotContain(host.Checker.Violations, v => v.Kind != ViolationKind.WaitCycle);
        }
    }

    private static void Unlock(HostContext host, AcquireTicket ticket, HashSet<Reservation> held)
    {
        using (host.Enter())
        {
            foreach (Reservation reservation in held)
            {
                reservation.Unlock(ticket);
            }
        }

        held.Clear();
    }

    private static Reservation[] Many(HostContext host, int count) =>
        [.. Enumerable.Range(0, count).Select(i => new Reservation(host, $"{i}"))];
}
