using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Reservations;
using Wayleave.Tests.Fences;
using Xunit;

namespace Wayleave.Tests.Reservations;

public class TicketTests : FenceScenario
{
    [Fact]
    public void A_ticket_that_goes_on_after_EDEADLK_with_locks_held_is_a_violation()
    {
        using (Host.Enter())
        {
            AcquireTicket older = new(Host, "older"), younger = new(Host, "younger");
            Reservation a = new(Host, "a"), b = new(Host, "b"), c = new(Host, "c");
            a.TryLock(older);
            b.TryLock(younger);
            Assert.Equal(LockOutcomeKind.Deadlock, a.TryLock(younger).Kind);
            Assert.Same(a, younger.Contended);
            c.TryLock(younger);
            Assert.Equal([ViolationKind.Ticket], Violations);
        }
    }

    [Fact]
    public void A_slow_lock_waits_however_young_and_holding_something_is_a_violation()
    {
        using (Host.Enter())
        {
            AcquireTicket older = new(Host, "older"), younger = new(Host, "younger");
            Reservation a = new(Host, "a"), b = new(Host, "b");
            a.TryLock(older);
            b.TryLock(younger);
            Assert.Equal(LockOutcomeKind.Deadlock, a.TryLock(younger).Kind);
            b.Unlock(younger);
            LockWait wait = a.TryLockSlow(younger).Wait!;
            Assert.Null(younger.Contended);
            a.Unlock(older);
            Assert.Equal(LockOutcomeKind.Acquired, wait.Result);
            Assert.Empty(Violations);
            b.TryLockSlow(younger);
            Assert.Equal([ViolationKind.Ticket], Violations);
        }
    }

    [Fact]
    public void A_lock_after_done_and_an_end_with_locks_held_are_violations()
    {
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "t");
            Reservation a = new(Host, "a"), b = new(Host, "b");
            a.TryLock(ticket);
            ticket.Done();
            b.TryLock(ticket);
            ticket.Finish();
            Assert.Equal([ViolationKind.Ticket, ViolationKind.Ticket], Violations);
            Assert.Throws<InvalidOperationException>(ticket.Renew);
        }
    }

    [Fact]
    public void A_ticket_that_is_renewed_is_the_youngest_again()
    {
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "t"), other = new(Host, "other");
            Assert.True(ticket.Stamp < other.Stamp);
            ticket.Done();
            ticket.Renew();
            Assert.True(ticket.Stamp > other.Stamp);
            new Reservation(Host, "a").TryLock(ticket);
            Assert.Empty(Violations);
        }
    }

    [Fact]
    public void Plain_locks_are_served_in_the_order_of_the_calls_and_nobody_dies()
    {
        using (Host.Enter())
        {
            Reservation a = new(Host, "a"), own = new(Host, "own");
            AcquireTicket late = new(Host, "late");
            AcquireTicket[] plain = [.. Enumerable.Range(0, 3).Select(i => AcquireTicket.CreatePlain(Host, $"{i}"))];
            a.TryLock(plain[0]);
            LockWait second = a.TryLock(plain[1]).Wait!;
            own.TryLock(late);
            LockWait ticketed = a.TryLock(late).Wait!; // holds a lock and waits behind one that has no age
            LockWait third = a.TryLock(plain[2]).Wait!;
            a.Unlock(plain[0]);
            Assert.Equal((true, false, false), (second.IsCompleted, ticketed.IsCompleted, third.IsCompleted));
            a.Unlock(plain[1]);
            Assert.Equal(LockOutcomeKind.Acquired, ticketed.Result);
            a.Unlock(late);
            Assert.Equal(LockOutcomeKind.Acquired, third.Result);
        }
    }

    [Fact]
    public void A_lock_that_must_not_wait_is_had_at_once_or_not_at_all()
    {
        using (Host.Enter())
        {
            Reservation a = new(Host, "a");
            AcquireTicket one = new(Host, "one"), other = new(Host, "other");
            Assert.True(a.TryLockNow(one));
            Assert.False(a.TryLockNow(other));
            Assert.False(a.TryLockNow(one));
            a.Unlock(one);
            Assert.Equal((null, 0), (a.Owner, other.HeldCount));
        }
    }

    [Fact]
    public void Deadlocks_are_injected_at_growing_intervals_and_never_into_the_first_lock()
    {
        HostContext host = new(Clock, checks: new CheckerOptions { InjectsLockDeadlocks = true });
        using (host.Enter())
        {
            Reservation[] locks = [.. Enumerable.Range(0, 8).Select(i => new Reservation(host, $"{i}"))];
            AcquireTicket ticket = new(host, "t");
            List<int> between = [0];
            for (int i = 0; i < 2000; i++)
            {
                Assert.Equal(LockOutcomeKind.Acquired, locks[0].TryLock(ticket).Kind);
                if (locks[1].TryLock(ticket).Kind == LockOutcomeKind.Deadlock)
                {
                    Assert.Null(locks[1].Owner);
                    between.Add(0);
                }
                else
                {
                    between[^1]++;
                    locks[1].Unlock(ticket);
                }

                locks[0].Unlock(ticket);
            }

            Assert.True(between.Count > 4, string.Join(' ', between));
            Assert.Equal(between[1..^1].Order(), between[1..^1]);
            Assert.Equal(0L, host.Checker.ViolationCount);
        }
    }
}
