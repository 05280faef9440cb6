using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Tests.Fences;
using Xunit;

namespace Wayleave.Tests.Checking;

public class LockOrderTests : FenceScenario
{
    private string Message => Assert.Single(Host.Checker.Violations).Message;

    [Fact]
    public void The_order_of_the_kernel_is_known_from_the_start()
    {
        using (Host.Enter())
        {
            Activity thread = Thread();
            foreach (LockClass lockClass in LockClass.EstablishedOrder)
            {
                thread.Acquire(lockClass, "it");
            }

            Assert.Equal((6, 0L), (thread.HeldCount, Host.Checker.ViolationCount));
        }
    }

    [Fact]
    public void RESV_30_A_users_memory_touched_with_a_reservation_held_is_a_lock_order_violation()
    {
        using (Host.Enter())
        {
            Activity thread = Thread();
            AcquireTicket ticket = new(Host, "t", thread);
            Reservation lent = new(Host, "lent");
            thread.TouchUserMemory("copy of the arguments");
            Assert.Empty(Violations);
            lent.TryLock(ticket);
            thread.TouchUserMemory("copy of the result");
            Assert.Equal([ViolationKind.LockOrder], Violations);
            Assert.Equal(
                "takes address-space lock (copy of the result) inside reservation (reservation of lent); elsewhere it "
                + "is the other way round: reservation inside address-space lock (the order of dma-resv.c)",
                Message);
            lent.Unlock(ticket);
            thread.TouchUserMemory("copy of the rest");
            Assert.Equal((0, 1L), (thread.HeldCount, Host.Checker.ViolationCount));
        }
    }

    [Fact]
    public void FENCE_57_A_signalling_section_that_takes_a_reservation_is_reported_though_nothing_hangs()
    {
        using (Host.Enter())
        {
            Activity completion = Thread();
            Reservation free = new(Host, "free");
            bool cookie = completion.BeginSignaling("job 7");
            Assert.Equal(LockOutcomeKind.Acquired, free.TryLock(new AcquireTicket(Host, "t", completion)).Kind);
            completion.EndSignaling(cookie);
            Assert.Equal([ViolationKind.SignalingSection], Violations);
            Assert.StartsWith(
                "takes reservation (reservation of free) inside fence signalling (job 7)", Message,
                StringComparison.Ordinal);
        }
    }

    [Fact]
    public void FENCE_58_A_signalling_section_may_allocate_only_what_does_not_reclaim()
    {
        using (Host.Enter())
        {
            Activity completion = Thread();
            completion.Allocate(mayReclaim: true, "before");
            bool cookie = completion.BeginSignaling("job 7");
            completion.Allocate(mayReclaim: false, "atomic");
            Assert.Empty(Violations);
            completion.Allocate(mayReclaim: true, "a buffer");
            Assert.Equal([ViolationKind.SignalingSection], Violations);
            completion.EndSignaling(cookie);
        }
    }

    [Fact]
    public void Fence_slots_are_an_allocation()
    {
        using (Host.Enter())
        {
            Activity completion = Thread();
            Reservation lent = new(Host, "lent");
            AcquireTicket ticket = new(Host, "t", completion);
            lent.TryLock(ticket);
            bool cookie = completion.BeginSignaling("job 7");
            lent.ReserveFences(ticket, 1);
            completion.EndSignaling(cookie);
            Assert.Equal([ViolationKind.SignalingSection], Violations);
        }
    }

    [Fact]
    public void FENCE_59_A_wait_inside_a_signalling_section_is_reported_and_sections_nest()
    {
        using (Host.Enter())
        {
            Activity completion = Thread();
            bool outer = completion.BeginSignaling("job 7"), inner = completion.BeginSignaling("job 8");
            Assert.Equal((true, false, 1), (outer, inner, completion.HeldCount));
            completion.EndSignaling(inner);
            Assert.True(completion.IsSignaling);
            Fence done = New();
            done.Signal();
            Assert.Equal(
                FenceWaitState.Signaled, FenceWait.Start(Host, completion, done, FenceWait.NoTimeout).State);
            Assert.Equal([ViolationKind.SignalingSection], Violations);
            completion.EndSignaling(outer);
            Assert.False(completion.IsSignaling);
            FenceWait.Start(Host, completion, done, FenceWait.NoTimeout);
            Assert.Single(Violations);
        }
    }

    [Fact]
    public void An_inversion_is_reported_once_with_who_taught_the_order()
    {
        using (Host.Enter())
        {
            LockClass table = Host.Checker.DefineClass("handle table"), ring = Host.Checker.DefineClass("ring lock");
            Activity one = Thread("submit"), other = Thread("reset");
            one.Acquire(table, "gpu0 handles");
            one.Acquire(LockClass.Reservation, "lent");
            one.Touch(ring, "gpu0 ring");
            one.Release(LockClass.Reservation);
            one.Release(table);
            other.Acquire(ring, "gpu0 ring");
            other.Touch(table, "gpu0 handles");
            other.Touch(table, "gpu0 handles");
            Assert.Equal([ViolationKind.LockOrder], Violations);
            Assert.Equal(
                "takes handle table (gpu0 handles) inside ring lock (gpu0 ring); elsewhere it is the other way round: "
                + "ring lock inside handle table (submit)",
                Message);
        }
    }

    [Fact]
    public void An_order_follows_from_others()
    {
        using (Host.Enter())
        {
            LockClass a = Host.Checker.DefineClass("a"), b = Host.Checker.DefineClass("b");
            LockClass c = Host.Checker.DefineClass("c");
            Inside(a, b, "first");
            Inside(b, c, "second");
            Inside(c, a, "third");
            Assert.Equal(
                "takes a (a) inside c (c); elsewhere it is the other way round: b inside a (first), c inside b "
                + "(second)",
                Message);
        }
    }

    [Fact]
    public void A_class_inside_itself_is_reported_but_for_reservations_under_tickets()
    {
        using (Host.Enter())
        {
            Activity thread = Thread();
            thread.Acquire(LockClass.Reservation, "a");
            thread.Acquire(LockClass.Reservation, "b");
            Assert.Empty(Violations);
            thread.Acquire(LockClass.Notifier, "a");
            thread.Acquire(LockClass.Notifier, "b");
            Assert.Equal([ViolationKind.LockOrder], Violations);
        }
    }

    [Fact]
    public void What_is_not_held_is_not_released_and_a_host_tells_64_classes_apart()
    {
        using (Host.Enter())
        {
            Assert.Throws<InvalidOperationException>(() => Thread().Release(LockClass.Notifier));
            for (int i = LockClass.EstablishedOrder.Count; i < LockClass.CountMax; i++)
            {
                Host.Checker.DefineClass($"{i}");
            }

            Assert.Throws<InvalidOperationException>(() => Host.Checker.DefineClass("65th"));
        }
    }

    [Fact]
    public void Hosts_learn_nothing_from_each_other()
    {
        HostContext other = new(Clock);
        using (Host.Enter())
        {
            Inside(Host.Checker.DefineClass("a"), LockClass.Reservation, "first");
        }

        using (other.Enter())
        {
            LockClass a = other.Checker.DefineClass("a");
            Activity thread = new(other, ActivityKind.Thread, "t");
            thread.Acquire(LockClass.Reservation, "r");
            thread.Touch(a, "a");
            Assert.Empty(other.Checker.Violations);
        }
    }

    private Activity Thread(string name = "thread") => new(Host, ActivityKind.Thread, name);

    private void Inside(LockClass outer, LockClass inner, string who)
    {
        Activity thread = Thread(who);
        thread.Acquire(outer, outer.Name);
        thread.Touch(inner, inner.Name);
    }
}
