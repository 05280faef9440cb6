using Wayleave.Core;
using Wayleave.Core.Reservations;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Reservations;

public class WaitDieTests(ITestOutputHelper output)
{
    private readonly HostContext _host = new(new VirtualClock());

    [Fact]
    public void RESV_24_A_younger_holder_dies_and_the_older_gets_its_lock()
    {
        using (_host.Enter())
        {
            (AcquireTicket older, AcquireTicket younger) = (Ticket("older"), Ticket("younger"));
            (Reservation first, Reservation second) = (New("first"), New("second"));
            Assert.Equal(LockOutcomeKind.Acquired, first.TryLock(older).Kind);
            Assert.Equal(LockOutcomeKind.Acquired, second.TryLock(younger).Kind);
            Assert.Equal(LockOutcomeKind.Deadlock, first.TryLock(younger).Kind);
            LockWait wait = second.TryLock(older).Wait!;
            Assert.False(wait.IsCompleted);
            second.Unlock(younger);
            Assert.Equal(LockOutcomeKind.Acquired, wait.Result);
            Assert.Same(older, second.Owner);
        }
    }

    [Fact]
    public void RESV_25_Who_has_released_everything_waits_for_the_contended_lock_with_its_old_stamp()
    {
        using (_host.Enter())
        {
            (AcquireTicket older, AcquireTicket younger) = (Ticket("older"), Ticket("younger"));
            (Reservation first, Reservation second) = (New("first"), New("second"));
            first.TryLock(older);
            second.TryLock(younger);
            ulong stamp = younger.Stamp;
            Assert.Equal(LockOutcomeKind.Deadlock, first.TryLock(younger).Kind);
            second.Unlock(younger);
            LockWait wait = first.TryLock(younger).Wait!;
            second.TryLock(older);
            second.Unlock(older);
            Assert.False(wait.IsCompleted);
            first.Unlock(older);
            Assert.Equal((LockOutcomeKind.Acquired, stamp), (wait.Result, younger.Stamp));
        }
    }

    [Fact]
    public void RESV_26_A_lock_asked_for_twice_is_held_once()
    {
        using (_host.Enter())
        {
            AcquireTicket ticket = Ticket("a");
            Reservation reservation = New("r");
            reservation.TryLock(ticket);
            Assert.Equal(LockOutcomeKind.AlreadyHeld, reservation.TryLock(ticket).Kind);
            Assert.Equal(1, ticket.HeldCount);
            reservation.Unlock(ticket);
            Assert.Null(reservation.Owner);
            Assert.Throws<InvalidOperationException>(() => reservation.Unlock(ticket));
        }
    }

    [Fact]
    public void RESV_27_Who_holds_nothing_never_dies()
    {
        using (_host.Enter())
        {
            Reservation reservation = New("r");
            AcquireTicket oldest = Ticket("oldest");
            reservation.TryLock(oldest);
            LockWait[] waits = [.. Enumerable.Range(0, 8).Select(i => reservation.TryLock(Ticket($"{i}")).Wait!)];
            reservation.Unlock(oldest);
            Assert.Equal(
                [LockOutcomeKind.Acquired, .. Enumerable.Repeat(LockOutcomeKind.Wait, 7)], waits.Select(w => w.Result));
        }
    }

    [Fact]
    public void RESV_28_A_younger_waiter_that_holds_a_lock_dies_when_an_older_queues()
    {
        using (_host.Enter())
        {
            AcquireTicket older = Ticket("older"), younger = Ticket("younger"), youngest = Ticket("youngest");
            (Reservation contended, Reservation own) = (New("contended"), New("own"));
            contended.TryLock(youngest);
            own.TryLock(younger);
            LockWait waiting = contended.TryLock(younger).Wait!;
            bool told = false;
            Assert.True(waiting.TryAddCallback(() => told = true));
            LockWait elder = contended.TryLock(older).Wait!;
            Assert.Equal(LockOutcomeKind.Deadlock, waiting.Result);
            Assert.False(told, "nobody is called under the host lock");
            contended.Unlock(youngest);
            Assert.Equal(LockOutcomeKind.Acquired, elder.Result);
        }
    }

    [Fact]
    public void An_older_ticket_that_queues_behind_a_younger_one_waits_first_in_line()
    {
        using (_host.Enter())
        {
            Reservation reservation = New("r");
            AcquireTicket older = Ticket("older"), younger = Ticket("younger"), holder = Ticket("holder");
            reservation.TryLock(holder);
            LockWait late = reservation.TryLock(younger).Wait!;
            LockWait elder = reservation.TryLock(older).Wait!;
            reservation.Unlock(holder);
            Assert.Equal((LockOutcomeKind.Acquired, LockOutcomeKind.Wait), (elder.Result, late.Result));
        }
    }

    [Fact]
    public void A_waiter_can_leave_the_queue_until_it_is_served()
    {
        using (_host.Enter())
        {
            Reservation reservation = New("r");
            (AcquireTicket a, AcquireTicket b, AcquireTicket c) = (Ticket("a"), Ticket("b"), Ticket("c"));
            reservation.TryLock(a);
            LockWait second = reservation.TryLock(b).Wait!, third = reservation.TryLock(c).Wait!;
            Assert.True(reservation.TryCancel(second));
            reservation.Unlock(a);
            Assert.False(reservation.TryCancel(third));
            Assert.Same(c, reservation.Owner);
        }
    }

    [Fact]
    public void RESV_29_A_hundred_tickets_of_eight_locks_of_sixteen_all_finish_and_leave_no_lock_held()
    {
        Exploration exploration = Explorer.Seeded(BuildHundred, seed: 29, runs: 5);
        output.WriteLine($"{exploration}");
    }

    private static Scenario BuildHundred(Choices choices)
    {
        HostContext host = new(new VirtualClock());
        Reservation[] locks = [.. Enumerable.Range(0, 16).Select(i => new Reservation(host, $"{i}"))];
        List<Actor> actors = [];
        using (host.Enter())
        {
            for (int i = 0; i < 100; i++)
            {
                Reservation[] wanted = [.. locks.Select(l => (Lock: l, Place: choices.Next(1000)))
                    .OrderBy(p => p.Place).Take(8).Select(p => p.Lock)];
                actors.Add(new Actor($"{i}", LockAll(host, new AcquireTicket(host, $"{i}"), wanted)));
            }
        }

        return new Scenario(actors, () => { }, AtEnd: () => Assert.All(locks, l => Assert.Null(l.Owner)));
    }

    // The recipe of ww_mutex: on a deadlock release all, wait for the contended lock, take the rest again.
    private static IEnumerable<Step> LockAll(HostContext host, AcquireTicket ticket, Reservation[] wanted)
    {
        List<Reservation> held = [];
        Reservation? contended = null;
        while (held.Count < wanted.Length)
        {
            Reservation next = contended ?? wanted.First(r => !held.Contains(r));
            contended = null;
            yield return "lock";
            LockOutcome outcome = Try(host, next, ticket);
            if (outcome.Wait is { } wait)
            {
                yield return new("wait", () => wait.IsCompleted);
                outcome = new LockOutcome(wait.Result);
            }

            if (outcome.Kind == LockOutcomeKind.Acquired)
            {
                held.Add(next);
                continue;
            }

            ReleaseAll(host, ticket, held);
            contended = next;
        }

        yield return "unlock";
        ReleaseAll(host, ticket, held);
    }

    private static LockOutcome Try(HostContext host, Reservation reservation, AcquireTicket ticket)
    {
        using (host.Enter())
        {
            return reservation.TryLock(ticket);
        }
    }

    private static void ReleaseAll(HostContext host, AcquireTicket ticket, List<Reservation> held)
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

    private AcquireTicket Ticket(string owner) => new(_host, owner);

    private Reservation New(string name) => new(_host, name);
}
