using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Reservations;

public class ReservationTests
{
    private readonly TraceLog _trace = new();
    private readonly HostContext _host;
    private readonly Reservation _reservation;
    private readonly Timeline _timeline;
    private readonly AcquireTicket _ticket;

    public ReservationTests()
    {
        _host = new HostContext(new VirtualClock(), _trace);
        _reservation = new Reservation(_host, "lent");
        using (_host.Enter())
        {
            _timeline = new Timeline(_host, "engine");
            _ticket = new AcquireTicket(_host, "test");
        }
    }

    public static TheoryData<ReservationUsage> Usages => new(Enum.GetValues<ReservationUsage>());

    [Theory]
    [MemberData(nameof(Usages))]
    public void RESV_02_A_fence_of_a_usage_is_pending_until_it_signals(ReservationUsage usage)
    {
        using (_host.Enter())
        {
            Fence fence = Add(usage);
            Assert.False(_reservation.TestSignaled(usage));
            Assert.Same(fence, _reservation.FirstUnsignaled(usage));
            fence.Signal();
            Assert.True(_reservation.TestSignaled(usage));
        }
    }

    [Theory]
    [MemberData(nameof(Usages))]
    public void RESV_03_A_fence_of_a_usage_is_found_once_and_by_no_stronger_query(ReservationUsage usage)
    {
        using (_host.Enter())
        {
            Fence fence = Add(usage);
            Assert.Equal([fence], _reservation.GetFences(usage));
            Assert.Equal([fence], _reservation.GetFences(ReservationUsage.Bookkeep));
            if (usage > ReservationUsage.Kernel)
            {
                Assert.Empty(_reservation.GetFences(usage - 1));
            }
        }
    }

    [Fact]
    public void RESV_06_A_query_returns_its_class_and_the_stronger_ones()
    {
        using (_host.Enter())
        {
            foreach (ReservationUsage usage in Enum.GetValues<ReservationUsage>())
            {
                Add(usage, new Timeline(_host, "own"));
            }

            Assert.All(
                Enum.GetValues<ReservationUsage>(), u => Assert.Equal((int)u + 1, _reservation.GetFences(u).Count));
        }
    }

    [Fact]
    public void RESV_08_Reserving_nothing_is_EINVAL_and_a_violation()
    {
        using (_host.Enter())
        {
            Lock();
            Assert.Equal(Errno.EINVAL, _reservation.ReserveFences(_ticket, 0));
        }

        Assert.Contains(_trace.Events, e => e.Name == "violation.reserve_fences");
    }

    [Fact]
    public void RESV_09_A_fence_without_a_slot_reserved_under_this_lock_throws()
    {
        using (_host.Enter())
        {
            Lock();
            Fence fence = _timeline.CreateFence();
            Assert.Throws<InvalidOperationException>(
                () => _reservation.AddFence(_ticket, fence, ReservationUsage.Read));
            _reservation.ReserveFences(_ticket, 1);
            _reservation.Unlock(_ticket);
            Lock();
            Assert.Throws<InvalidOperationException>(
                () => _reservation.AddFence(_ticket, fence, ReservationUsage.Read));
        }
    }

    [Fact]
    public void RESV_10_differs_no_more_slots_are_reserved_than_were_asked_for()
    {
        // The kernel rounds up to four, and code that relies on it breaks elsewhere: here the mistake shows at once.
        using (_host.Enter())
        {
            Lock();
            _reservation.ReserveFences(_ticket, 1);
            _reservation.AddFence(_ticket, new Timeline(_host, "a").CreateFence(), ReservationUsage.Read);
            Fence second = new Timeline(_host, "b").CreateFence();
            Assert.Throws<InvalidOperationException>(
                () => _reservation.AddFence(_ticket, second, ReservationUsage.Read));
        }
    }

    [Fact]
    public void RESV_11_A_later_fence_of_a_context_replaces_the_earlier()
    {
        using (_host.Enter())
        {
            Add(ReservationUsage.Read);
            Fence later = Add(ReservationUsage.Read);
            Assert.Equal([later], _reservation.GetFences(ReservationUsage.Bookkeep));
        }
    }

    [Fact]
    public void RESV_12_An_earlier_fence_of_a_context_does_not_replace_the_later()
    {
        using (_host.Enter())
        {
            Fence earlier = _timeline.CreateFence(), later = _timeline.CreateFence();
            Add(later, ReservationUsage.Read);
            Add(earlier, ReservationUsage.Read);
            Assert.Equal([later, earlier], _reservation.GetFences(ReservationUsage.Bookkeep));
        }
    }

    [Fact]
    public void RESV_13_A_fence_added_again_with_a_stronger_class_is_promoted()
    {
        using (_host.Enter())
        {
            Fence fence = Add(ReservationUsage.Read);
            Add(fence, ReservationUsage.Write);
            Assert.Equal([fence], _reservation.GetFences(ReservationUsage.Bookkeep));
            Assert.Same(fence, _reservation.FirstUnsignaled(ReservationUsage.Write));
        }
    }

    [Fact]
    public void RESV_14_A_fence_added_again_with_a_weaker_class_is_not_demoted()
    {
        using (_host.Enter())
        {
            Fence fence = Add(ReservationUsage.Write);
            Add(fence, ReservationUsage.Read);
            Assert.Equal(2, _reservation.GetFences(ReservationUsage.Bookkeep).Count);
            Assert.Same(fence, _reservation.FirstUnsignaled(ReservationUsage.Write));
        }
    }

    [Fact]
    public void RESV_15_A_signalled_entry_of_any_context_and_usage_is_used_again_first()
    {
        using (_host.Enter())
        {
            Fence done = Add(ReservationUsage.Kernel, new Timeline(_host, "done"));
            Fence pending = Add(ReservationUsage.Read, new Timeline(_host, "pending"));
            done.Signal();
            Lock();
            Fence next = _timeline.CreateFence();
            _reservation.AddFence(_ticket, next, ReservationUsage.Bookkeep); // no slot was reserved, and none is needed
            Assert.Equal([next, pending], _reservation.GetFences(ReservationUsage.Bookkeep));
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void RESV_15_An_entry_whose_driver_says_when_asked_that_it_is_done_is_used_again_too(bool isDone)
    {
        using (_host.Enter())
        {
            PolledDriver driver = new();
            Fence polled = new(_host, _host.AllocateFenceContexts(), 1, "polled", driver);
            Lock();
            _reservation.ReserveFences(_ticket, 1);
            _reservation.AddFence(_ticket, polled, ReservationUsage.Write);
            driver.IsDone = isDone;
            Fence next = _timeline.CreateFence();
            _reservation.ReserveFences(_ticket, 1);
            _reservation.AddFence(_ticket, next, ReservationUsage.Bookkeep);
            Assert.Equal(isDone ? [next] : [polled, next], _reservation.GetFences(ReservationUsage.Bookkeep));
        }
    }

    [Fact]
    public void RESV_20_All_fences_with_the_lock_held_include_signalled_ones_and_the_pending_query_does_not()
    {
        using (_host.Enter())
        {
            Fence fence = Add(ReservationUsage.Read);
            fence.Signal();
            Assert.Equal([fence], _reservation.GetFences(ReservationUsage.Read));
            Assert.Null(_reservation.FirstUnsignaled(ReservationUsage.Read));
        }
    }

    [Fact]
    public void A_forced_fence_stays_until_its_owner_says_that_the_work_has_ended()
    {
        using (_host.Enter())
        {
            Fence forced = Add(ReservationUsage.Bookkeep);
            forced.Force(Errno.ETIME);
            Fence later = Add(ReservationUsage.Bookkeep);
            Fence other = Add(ReservationUsage.Read, new Timeline(_host, "other"));
            Assert.Equal([forced, later, other], _reservation.GetFences(ReservationUsage.Bookkeep));
            Assert.Same(later, _reservation.FirstUnsignaled(ReservationUsage.Bookkeep));
            forced.Signal();
            Lock();
            _reservation.ReserveFences(_ticket, 1);
            Assert.Equal([later, other], _reservation.GetFences(ReservationUsage.Bookkeep));
        }
    }

    private Fence Add(ReservationUsage usage, Timeline? timeline = null)
    {
        Fence fence = (timeline ?? _timeline).CreateFence();
        Add(fence, usage);
        return fence;
    }

    private void Add(Fence fence, ReservationUsage usage)
    {
        Lock();
        Assert.Equal(Errno.Success, _reservation.ReserveFences(_ticket, 1));
        _reservation.AddFence(_ticket, fence, usage);
        _reservation.Unlock(_ticket);
    }

    private void Lock() => Assert.Equal(LockOutcomeKind.Acquired, _reservation.TryLock(_ticket).Kind);

    private sealed class PolledDriver : IFenceOperations
    {
        public bool IsDone { get; set; }

        public string DriverName => "polled";

        public string TimelineName => "ring";

        public bool IsSignaled(Fence fence) => IsDone;
    }
}
