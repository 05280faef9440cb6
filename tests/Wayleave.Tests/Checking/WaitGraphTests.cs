using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;
using Wayleave.Tests.Fences;
using Wayleave.Tests.Gpu;
using Xunit;

namespace Wayleave.Tests.Checking;

public class WaitGraphTests(ITestOutputHelper output) : FenceScenario
{
    [Fact]
    public void An_engine_that_waits_for_the_revoke_that_waits_for_its_fence_is_refused()
    {
        using (Host.Enter())
        {
            Activity engine = new(Host, ActivityKind.Engine, "gpu0");
            Fence job = new Timeline(Host, "gpu0 ring", engine).CreateFence();
            ExportInfo info = new(new TestExporter(), "lent", 0x1000);
            SharedBuffer.TryExport(Host, info, out SharedBuffer? buffer);
            AcquireTicket ticket = new(Host, "submit");
            buffer!.Reservation.TryLock(ticket);
            buffer.Reservation.ReserveFences(ticket, 1);
            buffer.Reservation.AddFence(ticket, job, ReservationUsage.Bookkeep);
            RevokeOperation revoke = RevokeOperation.Start(buffer, new RevokePolicy());
            Waiter submitter = ticket;
            Assert.Equal(Errno.EDEADLK, submitter.TryBeginWait(revoke, out WaitCycle? held));
            Assert.EndsWith($"is held by {ticket}", held!.ToString(), StringComparison.Ordinal);
            buffer.Reservation.Unlock(ticket);
            Assert.Equal(Errno.EDEADLK, engine.TryBeginWait(revoke, out WaitCycle? cycle));
            Assert.Equal(
                $"engine gpu0 waits for revoke of lent, which waits for {job.Label}, which is signalled by engine gpu0",
                cycle!.ToString());
            job.Signal();
            Assert.Equal(Errno.Success, engine.TryBeginWait(revoke, out _));
        }
    }

    [Fact]
    public void Who_holds_the_lock_that_an_access_of_the_processor_waits_behind_may_not_wait_for_it()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        using (f.Host.Enter())
        {
            AcquireTicket holder = new(f.Host, "holder");
            buffer.Shared.Reservation.TryLock(holder);
            Assert.Equal(
                Errno.Success, buffer.Shared.TryBeginCpuAccess(DmaDirection.FromDevice, out CpuAccess? access));
            Fence moved = access!.FirstUnsignaled()!;
            FenceWait wait = FenceWait.Start(f.Host, holder, moved, FenceWait.NoTimeout);
            Assert.Equal(FenceWaitState.Deadlock, wait.State);
            buffer.Shared.Reservation.Unlock(holder);
            Assert.False(moved.IsSignaled);
        }

        f.Run();
        Assert.Equal(GpuDomain.System, buffer.Placement.Domain);
    }

    [Fact]
    public void Two_plain_locks_in_opposite_orders_are_refused_with_the_circle_in_words()
    {
        using (Host.Enter())
        {
            Reservation a = new(Host, "a"), b = new(Host, "b");
            AcquireTicket one = AcquireTicket.CreatePlain(Host, "one");
            AcquireTicket other = AcquireTicket.CreatePlain(Host, "other");
            a.TryLock(one);
            b.TryLock(other);
            Assert.Equal(LockOutcomeKind.Wait, b.TryLock(one).Kind);
            LockOutcome outcome = a.TryLock(other);
            Assert.Equal(LockOutcomeKind.Deadlock, outcome.Kind);
            Assert.Equal(
                "other (no ticket) waits for reservation of a, which is held by one (no ticket), which waits for "
                + "reservation of b, which is held by other (no ticket)",
                outcome.Cycle!.ToString());
            Assert.Equal([ViolationKind.WaitCycle], Violations);
            b.Unlock(other);
            Assert.Same(one, b.Owner);
        }
    }

    [Fact]
    public void A_wait_for_a_fence_whose_engine_waits_for_the_lock_that_the_waiter_holds_is_refused()
    {
        using (Host.Enter())
        {
            Activity engine = new(Host, ActivityKind.Engine, "gpu0 copy engine");
            Reservation lent = new(Host, "lent");
            AcquireTicket mover = new(Host, "move of lent"), completion = new(Host, "completion", engine);
            Fence fence = new Timeline(Host, "gpu0 ring", engine).CreateFence();
            lent.TryLock(mover);
            Assert.Equal(LockOutcomeKind.Wait, lent.TryLock(completion).Kind);
            FenceWait wait = FenceWait.Start(Host, mover, fence, FenceWait.NoTimeout);
            Assert.Equal((FenceWaitState.Deadlock, Errno.EDEADLK), (wait.State, wait.Errno));
            Assert.Equal(
                [
                    "move of lent (ticket 1) waits for fence gpu0 ring 1:1",
                    "fence gpu0 ring 1:1 is signalled by engine gpu0 copy engine",
                    "engine gpu0 copy engine waits for reservation of lent",
                    "reservation of lent is held by move of lent (ticket 1)",
                ],
                wait.Cycle!.Edges.Select(e => $"{e.From} {e.Verb} {e.To}"));
        }
    }

    [Fact]
    public void The_same_circle_is_found_when_the_lock_is_asked_for_last()
    {
        using (Host.Enter())
        {
            Activity engine = new(Host, ActivityKind.Engine, "gpu0 copy engine");
            Reservation lent = new(Host, "lent");
            AcquireTicket mover = new(Host, "move of lent"), completion = new(Host, "completion", engine);
            Fence fence = new Timeline(Host, "gpu0 ring", engine).CreateFence();
            lent.TryLock(mover);
            Assert.False(FenceWait.Start(Host, mover, fence, FenceWait.NoTimeout).IsCompleted);
            LockOutcome outcome = lent.TryLock(completion);
            Assert.Equal((LockOutcomeKind.Deadlock, 4), (outcome.Kind, outcome.Cycle!.Edges.Count));
        }
    }

    [Fact]
    public void Jobs_that_run_after_each_other_are_refused()
    {
        using (Host.Enter())
        {
            Fence one = New("one"), other = New("other"), last = New("last");
            Assert.Equal(Errno.Success, other.TryRunAfter([one], out _));
            Assert.Equal(Errno.Success, last.TryRunAfter([one, other], out _));
            Assert.Equal(Errno.EDEADLK, one.TryRunAfter([last], out WaitCycle? cycle));
            Assert.Equal(2, cycle!.Edges.Count);
            Assert.Equal(Errno.EDEADLK, one.TryRunAfter([one], out cycle));
            Assert.Equal("fence one 1:1 runs after fence one 1:1", cycle!.ToString());
            other.Signal();
            last.Signal();
            Assert.Equal(Errno.Success, one.TryRunAfter([last], out _));
        }
    }

    [Fact]
    public void The_order_of_a_timeline_is_an_edge()
    {
        using (Host.Enter())
        {
            Timeline ring = new(Host, "ring");
            Fence first = ring.CreateFence(), second = ring.CreateFence();
            Assert.Equal(Errno.EDEADLK, first.TryRunAfter([second], out WaitCycle? cycle));
            Assert.Equal(
                "fence ring 1:1 runs after fence ring 1:2, which signals after fence ring 1:1", cycle!.ToString());
        }
    }

    [Fact]
    public void Containers_are_seen_through_but_for_an_any_array_where_another_part_may_do()
    {
        using (Host.Enter())
        {
            Activity engine = new(Host, ActivityKind.Engine, "engine");
            Fence fence = new Timeline(Host, "ring", engine).CreateFence(), other = New("other");
            FenceChain chain = new(Host, new FenceChain(Host, null, fence, 1), other, 2);
            Fence all = new FenceArray(Host, [other, fence]);
            Fence any = new FenceArray(Host, [other, fence], FenceArrayKind.Any);
            Assert.Equal(Errno.EDEADLK, FenceWait.Start(Host, engine, all, FenceWait.NoTimeout).Errno);
            Assert.Equal(Errno.EDEADLK, FenceWait.Start(Host, engine, chain, FenceWait.NoTimeout).Errno);
            Assert.False(FenceWait.Start(Host, engine, any, FenceWait.NoTimeout).IsCompleted);
            Assert.False(FenceWait.StartAny(Host, engine, [fence, other], FenceWait.NoTimeout).IsCompleted);
        }
    }

    [Fact]
    public void A_wait_that_has_ended_leaves_no_edge()
    {
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "t"), holder = new(Host, "holder");
            Reservation lent = new(Host, "lent");
            Fence[] fences = New(3);
            FenceWait signaled = Wait(ticket, fences[0]), timedOut = FenceWait.Start(
                Host, ticket, fences[1], TimeSpan.FromSeconds(1)), interrupted = Wait(ticket, fences[2]);
            Assert.True(ticket.IsWaiting);
            fences[0].Signal();
            Clock.Advance(TimeSpan.FromSeconds(1));
            timedOut.HandleTimeout(Host.Now);
            interrupted.Interrupt();
            Assert.False(ticket.IsWaiting);
            lent.TryLock(holder);
            LockWait wait = lent.TryLock(ticket).Wait!;
            Assert.True(ticket.IsWaiting);
            lent.TryCancel(wait);
            Assert.False(ticket.IsWaiting);
            lent.TryLock(ticket);
            lent.Unlock(holder);
            Assert.Equal((false, ticket), (ticket.IsWaiting, lent.Owner));
            Assert.True(signaled.IsCompleted);
        }
    }

    [Fact]
    public void FENCE_60_A_notifier_that_waits_for_who_needs_the_page_is_reported_with_its_six_nodes()
    {
        using (Host.Enter())
        {
            (FenceWait wait, Activity completion, HeldObject page) = TakePageAway(restartableFaults: false);
            Assert.False(wait.IsCompleted);
            Assert.Equal(Errno.EDEADLK, completion.TryBeginWait(page, out WaitCycle? cycle));
            output.WriteLine($"{cycle}");
            Assert.Equal(
                [
                    "engine A's completion", "page V", "reclaim kswapd", "notifier B", "fence B's ring 2:1",
                    "fence A's ring 1:1",
                ],
                cycle!.Edges.Select(e => e.From));
            Assert.Equal(
                ["waits for", "is held by", "waits for", "waits for", "runs after", "is signalled by"],
                cycle.Edges.Select(e => e.Verb));
        }
    }

    [Fact]
    public void FENCE_60_With_restartable_faults_the_notifier_waits_for_no_fence_and_all_get_on()
    {
        using (Host.Enter())
        {
            (_, Activity completion, HeldObject page) = TakePageAway(restartableFaults: true);
            Assert.Equal(Errno.Success, completion.TryBeginWait(page, out WaitCycle? cycle));
            Assert.Null(cycle);
            Assert.Empty(Violations);
        }
    }

    [Fact]
    public void FENCE_62_A_notifier_or_reclaim_that_is_no_graphics_drivers_may_not_wait_for_a_fence()
    {
        using (Host.Enter())
        {
            Fence fence = New();
            Wait(new Activity(Host, ActivityKind.Notifier, "nic0"), fence);
            Wait(new Activity(Host, ActivityKind.Reclaim, "nvme0"), fence);
            Assert.Equal([ViolationKind.FenceWaitPolicy, ViolationKind.FenceWaitPolicy], Violations);
            Wait(new Activity(Host, ActivityKind.Notifier, "gpu0", mayWaitForFences: true), fence);
            Wait(new Activity(Host, ActivityKind.Thread, "program"), fence);
            Assert.Equal(2, Violations.Count());
        }
    }

    [Fact]
    public void With_the_graph_two_opposite_orders_end_in_every_order_of_their_steps() =>
        output.WriteLine($"{Explorer.Exhaustive(_ => OppositeOrders(CoreDefences.All))}");

    [Fact]
    public void Without_the_graph_two_opposite_orders_hang_in_some_order()
    {
        InterleavingException e = Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => OppositeOrders(CoreDefences.All & ~CoreDefences.WaitGraph)));
        Assert.Contains("deadlock", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_checker_that_is_off_finds_nothing_and_keeps_what_shows_by_itself()
    {
        HostContext host = new(Clock, checks: CheckerOptions.Off with { ViolationsKeptMax = 1 });
        using (host.Enter())
        {
            Fence fence = new(host, 1, 1, "work");
            Assert.Equal(Errno.Success, fence.TryRunAfter([fence], out _));
            Activity activity = new(host, ActivityKind.Thread, "t");
            activity.Acquire(LockClass.Reservation, "r");
            activity.TouchUserMemory("copy");
            fence.SetError(Errno.Success);
            fence.SetError(Errno.Success);
            Assert.Equal((2L, 1, 0L), (
                host.Checker.ViolationCount, host.Checker.Violations.Count, host.Checker.WaitsChecked));
        }
    }

    [Fact]
    public void A_wait_that_is_looked_at_allocates_nothing_until_something_is_found()
    {
        using (Host.Enter())
        {
            Activity thread = new(Host, ActivityKind.Thread, "thread");
            Fence[] jobs = New(8);
            for (int i = 1; i < jobs.Length; i++)
            {
                jobs[i].TryRunAfter([jobs[i - 1]], out _);
            }

            thread.TryBeginWait(jobs[^1], out _);
            thread.EndWait(jobs[^1]);
            long visited = Host.Checker.NodesVisited, before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < 100; i++)
            {
                thread.TryBeginWait(jobs[^1], out _);
                thread.EndWait(jobs[^1]);
            }

            Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
            Assert.Equal(100L * jobs.Length, Host.Checker.NodesVisited - visited);
        }
    }

    [Fact]
    public void A_long_chain_of_waits_is_walked_without_recursion()
    {
        const int Length = 100_000;
        using (Host.Enter())
        {
            // From the far end, so that each check sees one node.
            Fence[] fences = New(Length);
            for (int i = Length - 1; i > 0; i--)
            {
                fences[i].TryRunAfter([fences[i - 1]], out _);
            }

            Assert.Equal(Errno.EDEADLK, fences[0].TryRunAfter([fences[^1]], out WaitCycle? cycle));
            Assert.Equal(Length, cycle!.Edges.Count);
        }
    }

    private FenceWait Wait(Waiter waiter, Fence fence) => FenceWait.Start(Host, waiter, fence, FenceWait.NoTimeout);

    // 1 a job on A; 2 a job on B that runs after it and reads page V; 3 reclaim takes V away; 4 B's notifier must know
    // that B has stopped: it waits for the job's fence, or takes the page out of the table and lets B fault.
    private (FenceWait Wait, Activity Completion, HeldObject Page) TakePageAway(bool restartableFaults)
    {
        Activity completion = new(Host, ActivityKind.Engine, "A's completion");
        Fence fa = new Timeline(Host, "A's ring", completion).CreateFence();
        Fence fb = new Timeline(Host, "B's ring").CreateFence();
        Assert.Equal(Errno.Success, fb.TryRunAfter([fa], out _));
        Activity reclaim = new(Host, ActivityKind.Reclaim, "kswapd");
        Activity notifier = new(Host, ActivityKind.Notifier, "B", mayWaitForFences: true);
        HeldObject page = new("page V") { Holder = reclaim };
        Assert.Equal(Errno.Success, reclaim.TryBeginWait(notifier, out _));
        if (restartableFaults)
        {
            reclaim.EndWait(notifier);
            page.Holder = null;
            return (null!, completion, page);
        }

        return (Wait(notifier, fb), completion, page);
    }

    private static Scenario OppositeOrders(CoreDefences defences)
    {
        HostContext host = new(new VirtualClock()) { Defences = defences };
        Reservation a = new(host, "a"), b = new(host, "b");
        return new Scenario(
            [new Actor("one", LockBoth(host, a, b)), new Actor("other", LockBoth(host, b, a))], () => { });
    }

    // Without a ticket; who is refused lets go and starts again.
    private static IEnumerable<Step> LockBoth(HostContext host, Reservation first, Reservation second)
    {
        AcquireTicket plain;
        using (host.Enter())
        {
            plain = AcquireTicket.CreatePlain(host, "plain");
        }

        for (bool done = false; !done;)
        {
            foreach (Reservation next in new[] { first, second })
            {
                yield return "lock";
                LockOutcome outcome;
                using (host.Enter())
                {
                    outcome = next.TryLock(plain);
                }

                if (outcome.Wait is { } wait)
                {
                    yield return new("wait", () => wait.IsCompleted);
                }

                done = outcome.Kind != LockOutcomeKind.Deadlock;
            }

            yield return "unlock";
            using (host.Enter())
            {
                first.Unlock(plain);
                if (done)
                {
                    second.Unlock(plain);
                }
            }
        }
    }
}
