using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Tests.Fences;
using Xunit;

namespace Wayleave.Tests.Reservations;

public class ReservationQueryTests : FenceScenario
{
    private readonly Reservation _reservation;
    private readonly AcquireTicket _ticket;

    public ReservationQueryTests()
    {
        _reservation = new Reservation(Host, "lent");
        using (Host.Enter())
        {
            _ticket = new AcquireTicket(Host, "test");
        }
    }

    public static TheoryData<ReservationUsage> Usages => new(Enum.GetValues<ReservationUsage>());

    [Fact]
    public void RESV_01_A_lock_without_a_ticket_is_taken_and_released_without_a_violation()
    {
        using (Host.Enter())
        {
            AcquireTicket plain = AcquireTicket.CreatePlain(Host, "test");
            Assert.Equal(LockOutcomeKind.Acquired, _reservation.TryLock(plain).Kind);
            _reservation.Unlock(plain);
            plain.Finish();
            Assert.Null(_reservation.Owner);
            Assert.Empty(Violations);
        }
    }

    [Theory]
    [MemberData(nameof(Usages))]
    public void RESV_03_A_walk_with_the_lock_yields_a_fence_once_with_its_usage(ReservationUsage usage)
    {
        using (Host.Enter())
        {
            Fence fence = Add(New(), usage);
            _reservation.TryLock(_ticket);
            FenceCursor cursor = _reservation.IterateLocked(_ticket, usage);
            Assert.True(cursor.MoveNext());
            Assert.Equal((fence, usage, true), (cursor.Current, cursor.CurrentUsage, cursor.IsRestarted));
            Assert.False(cursor.MoveNext());
            Assert.False(cursor.MoveNext());
        }
    }

    [Theory]
    [MemberData(nameof(Usages))]
    public void RESV_04_A_walk_without_the_lock_begins_again_when_the_list_was_replaced(ReservationUsage usage)
    {
        FenceCursor cursor;
        Fence fence;
        using (Host.Enter())
        {
            fence = Add(New(), usage);
            cursor = _reservation.Iterate(usage);
            Assert.True(cursor.MoveNext());
            Assert.Equal((fence, usage, true), (cursor.Current, cursor.CurrentUsage, cursor.IsRestarted));
        }

        using (Host.Enter())
        {
            // More room than there is: a new list, with the same fence.
            _reservation.TryLock(_ticket);
            _reservation.ReserveFences(_ticket, 8);
            _reservation.Unlock(_ticket);
        }

        using (Host.Enter())
        {
            Assert.True(cursor.MoveNext());
            Assert.Equal((fence, true), (cursor.Current, cursor.IsRestarted));
            Assert.False(cursor.MoveNext());
        }
    }

    [Fact]
    public void A_walk_does_not_begin_again_for_what_is_added_in_the_room_there_is()
    {
        using (Host.Enter())
        {
            Fence[] fences = [.. New(2).Select(f => Add(f, ReservationUsage.Read))];
            FenceCursor cursor = _reservation.Iterate(ReservationUsage.Read);
            Assert.True(cursor.MoveNext());
            Add(New(), ReservationUsage.Read);
            Assert.True(cursor.MoveNext());
            Assert.Equal((fences[1], false), (cursor.Current, cursor.IsRestarted));
            Assert.False(cursor.MoveNext(), "what came later is not part of this walk");
        }
    }

    [Theory]
    [MemberData(nameof(Usages))]
    public void RESV_05_The_pending_fences_of_a_usage_are_exactly_the_one_that_was_added(ReservationUsage usage)
    {
        using (Host.Enter())
        {
            Fence fence = Add(New(), usage);
            Assert.Equal([fence], _reservation.GetPendingFences(usage));
            fence.Signal();
            Assert.Empty(_reservation.GetPendingFences(usage));
        }
    }

    [Fact]
    public void RESV_07_A_write_asks_for_readers_and_a_read_for_writers()
    {
        Assert.Equal(ReservationUsage.Read, ReservationUsages.ForAccess(isWrite: true));
        Assert.Equal(ReservationUsage.Write, ReservationUsages.ForAccess(isWrite: false));
    }

    [Fact]
    public void RESV_16_A_container_is_stored_and_a_violation()
    {
        using (Host.Enter())
        {
            Fence array = Add(new FenceArray(Host, New(2)), ReservationUsage.Read);
            Fence chain = Add(new FenceChain(Host, null, New(), 1), ReservationUsage.Read);
            Assert.Equal([array, chain], _reservation.GetPendingFences(ReservationUsage.Read));
            Assert.Equal([ViolationKind.FenceContainer, ViolationKind.FenceContainer], Violations);
        }
    }

    [Fact]
    public void RESV_17_Every_fence_of_a_context_is_replaced_and_others_stay()
    {
        using (Host.Enter())
        {
            Fence write = Add(Of(100, 2), ReservationUsage.Write), read = Add(Of(100, 1), ReservationUsage.Read);
            Fence other = Add(New(), ReservationUsage.Read), stub = New("stub");
            Assert.Equal([write, read, other], _reservation.GetFences(ReservationUsage.Bookkeep));
            _reservation.TryLock(_ticket);
            _reservation.ReplaceFences(_ticket, 100, stub, ReservationUsage.Bookkeep);
            Assert.Equal([stub, stub, other], _reservation.GetFences(ReservationUsage.Bookkeep));
            Assert.Equal([other], _reservation.GetFences(ReservationUsage.Read));
        }
    }

    [Fact]
    public void A_forced_fence_is_not_replaced_because_its_work_may_still_run()
    {
        using (Host.Enter())
        {
            Fence forced = Add(Of(100, 1), ReservationUsage.Write), stub = New("stub");
            forced.Force(Errno.ETIME);
            _reservation.TryLock(_ticket);
            Assert.Throws<InvalidOperationException>(
                () => _reservation.ReplaceFences(_ticket, 100, stub, ReservationUsage.Bookkeep));
            _reservation.ReserveFences(_ticket, 1);
            _reservation.ReplaceFences(_ticket, 100, stub, ReservationUsage.Bookkeep);
            Assert.Equal([forced, stub], _reservation.GetFences(ReservationUsage.Bookkeep));
        }
    }

    [Fact]
    public void RESV_18_A_copy_of_what_is_over_is_empty_and_the_old_content_is_gone()
    {
        using (Host.Enter())
        {
            Reservation source = new(Host, "source");
            Fence over = Add(New(), ReservationUsage.Write, source);
            over.Signal();
            Add(New(), ReservationUsage.Read);
            _reservation.TryLock(_ticket);
            _reservation.CopyFences(_ticket, source);
            Assert.Empty(_reservation.GetFences(ReservationUsage.Bookkeep));
        }
    }

    [Fact]
    public void RESV_18_A_copy_keeps_the_usages_and_forced_fences()
    {
        using (Host.Enter())
        {
            Reservation source = new(Host, "source");
            Fence write = Add(New(), ReservationUsage.Write, source);
            Fence forced = Add(New(), ReservationUsage.Read, source);
            forced.Force(Errno.ETIME);
            _reservation.TryLock(_ticket);
            _reservation.CopyFences(_ticket, source);
            Assert.Equal([write], _reservation.GetFences(ReservationUsage.Write));
            Assert.Equal([write, forced], _reservation.GetFences(ReservationUsage.Bookkeep));
        }
    }

    [Fact]
    public void RESV_19_A_singleton_is_nothing_the_one_or_an_array_of_all()
    {
        Fence[] fences = [];
        Fence all = null!;
        Do(() =>
        {
            Assert.Null(_reservation.GetSingleton(ReservationUsage.Bookkeep));
            fences = New(3);
            Add(fences[0], ReservationUsage.Write);
            Assert.Same(fences[0], _reservation.GetSingleton(ReservationUsage.Bookkeep));
            Add(fences[1], ReservationUsage.Read);
            Add(fences[2], ReservationUsage.Bookkeep);
            all = _reservation.GetSingleton(ReservationUsage.Bookkeep)!;
            Assert.Equal(1UL, all.Seqno);
            Assert.DoesNotContain(all.Context, fences.Select(f => f.Context));
            all.EnableSignaling();
            fences[0].Signal();
            fences[1].Signal();
        });
        Assert.False(all.IsSignaled);
        Do(() => fences[2].Signal());
        Assert.True(all.IsSignaled);
    }

    [Fact]
    public void RESV_20_A_walk_with_the_lock_yields_what_is_signalled_and_one_without_does_not()
    {
        using (Host.Enter())
        {
            Fence fence = Add(New(), ReservationUsage.Read);
            fence.Signal();
            _reservation.TryLock(_ticket);
            Assert.True(_reservation.IterateLocked(_ticket, ReservationUsage.Read).MoveNext());
            Assert.False(_reservation.Iterate(ReservationUsage.Read).MoveNext());
        }
    }

    [Fact]
    public void RESV_21_A_look_is_zero_or_one_and_an_empty_wait_gives_its_time_back()
    {
        TimeSpan ticks = TimeSpan.FromTicks(50);
        using (Host.Enter())
        {
            Assert.Equal(TimeSpan.FromTicks(1), Wait(TimeSpan.Zero).Remaining);
            Assert.Equal(ticks, Wait(ticks).Remaining);
            Fence fence = Add(New(), ReservationUsage.Read);
            Assert.Equal(
                (TimeSpan.Zero, FenceWaitState.TimedOut), (Wait(TimeSpan.Zero).Remaining, Wait(TimeSpan.Zero).State));
            fence.Signal();
            Assert.Equal(TimeSpan.FromTicks(1), Wait(TimeSpan.Zero).Remaining);
        }
    }

    [Fact]
    public void RESV_22_Two_fences_share_one_time_out()
    {
        using (Host.Enter())
        {
            Fence first = Add(New(), ReservationUsage.Write);
            Add(New(), ReservationUsage.Read);
            FenceWait wait = Wait(TimeSpan.FromTicks(100));
            Clock.Advance(TimeSpan.FromTicks(30));
            first.Signal();
            Assert.Equal(TimeSpan.FromTicks(100), wait.NextDeadline);
            Clock.Advance(TimeSpan.FromTicks(69));
            wait.HandleTimeout(Host.Now);
            Assert.False(wait.IsCompleted);
            Clock.Advance(TimeSpan.FromTicks(1));
            wait.HandleTimeout(Host.Now);
            Assert.Equal((FenceWaitState.TimedOut, TimeSpan.Zero), (wait.State, wait.Remaining));
        }
    }

    [Fact]
    public void RESV_23_differs_an_interrupted_wait_is_EINTR_as_a_program_sees_it()
    {
        using (Host.Enter())
        {
            Add(New(), ReservationUsage.Read);
            FenceWait wait = Wait(FenceWait.NoTimeout);
            wait.Interrupt();
            Assert.Equal((FenceWaitState.Interrupted, Errno.EINTR), (wait.State, wait.Errno));
        }
    }

    [Fact]
    public void A_deadline_reaches_every_pending_fence_of_its_usage()
    {
        using (Host.Enter())
        {
            Fence write = Add(New(), ReservationUsage.Write), bookkeep = Add(New(), ReservationUsage.Bookkeep);
            _reservation.SetDeadline(ReservationUsage.Read, TimeSpan.FromSeconds(1));
            Assert.Equal((TimeSpan.FromSeconds(1), null), (write.Deadline, bookkeep.Deadline));
        }
    }

    [Fact]
    public void A_description_shows_every_class_and_what_was_forced()
    {
        using (Host.Enter())
        {
            Add(Of(100, 1), ReservationUsage.Write);
            Add(Of(101, 2), ReservationUsage.Bookkeep).Force(Errno.ETIME);
            Assert.Equal(["WRITE work 100:1 pending", "BOOKKEEP work 101:2 forced"], _reservation.Describe());
        }
    }

    [Fact]
    public void Locking_and_adding_fences_again_and_again_allocates_nothing()
    {
        const int Rounds = 1000;
        Fence[] fences = [];
        Do(() =>
        {
            fences = [.. Enumerable.Range(1, Rounds).Select(i => Of(100, (ulong)i))];
            Add(New(), ReservationUsage.Read);
            Cycle(fences[0]);
        });
        using (Host.Enter())
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 1; i < Rounds; i++)
            {
                Cycle(fences[i]);
            }

            Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
        }
    }

    private void Cycle(Fence fence)
    {
        _reservation.TryLock(_ticket);
        _reservation.ReserveFences(_ticket, 1);
        _reservation.AddFence(_ticket, fence, ReservationUsage.Bookkeep);
        bool isFree = _reservation.TestSignaled(ReservationUsage.Write);
        _reservation.Unlock(_ticket);
        _ticket.Renew();
        if (!isFree)
        {
            Assert.Fail("no writer was added");
        }
    }

    private FenceWait Wait(TimeSpan timeout) =>
        FenceWait.Start(Host, null, _reservation, ReservationUsage.Bookkeep, timeout);

    private Fence Add(Fence fence, ReservationUsage usage, Reservation? to = null)
    {
        Reservation reservation = to ?? _reservation;
        reservation.TryLock(_ticket);
        reservation.ReserveFences(_ticket, 1);
        reservation.AddFence(_ticket, fence, usage);
        reservation.Unlock(_ticket);
        return fence;
    }
}
