using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Xunit;

namespace Wayleave.Tests.Fences;

public class FenceStateTests : FenceScenario
{
    [Fact]
    public void FENCE_01_A_fence_that_is_enabled_signalled_and_let_go_breaks_no_contract()
    {
        using (Host.Enter())
        {
            Timeline timeline = new(Host, "engine");
            Fence fence = timeline.CreateFence();
            fence.EnableSignaling();
            fence.Signal();
            timeline.Drop();
            Assert.Equal((0, 0L), (timeline.PendingCount, Host.Checker.ViolationCount));
            Assert.Throws<ObjectDisposedException>(() => timeline.CreateFence());
        }
    }

    [Fact]
    public void FENCE_02_A_signal_is_for_ever_and_lets_the_driver_go()
    {
        using (Host.Enter())
        {
            Driver driver = new();
            Fence fence = New(driver);
            Assert.False(fence.IsSignaled);
            Assert.False(fence.CheckAndSignal());
            Assert.True(fence.IsSignaled);
            Assert.True(fence.CheckAndSignal());
            int questions = driver.Questions;
            fence.SetDeadline(TimeSpan.FromSeconds(1));
            fence.EnableSignaling();
            Assert.True(fence.CheckSignaled());
            Assert.Equal((questions, 0, null), (driver.Questions, driver.Enables, fence.Deadline));
        }
    }

    [Fact]
    public void FENCE_07_The_status_is_0_before_and_1_after()
    {
        using (Host.Enter())
        {
            Fence fence = New();
            Assert.Equal(0, fence.GetStatus());
            fence.Signal();
            Assert.Equal(1, fence.GetStatus());
        }
    }

    [Fact]
    public void FENCE_08_An_error_shows_after_the_signal_and_not_before()
    {
        using (Host.Enter())
        {
            Fence fence = New();
            fence.SetError(Errno.EIO);
            Assert.Equal((0, Errno.Success), (fence.GetStatus(), fence.Error));
            fence.Signal();
            Assert.Equal((-(int)Errno.EIO, Errno.EIO), (fence.GetStatus(), fence.Error));
            Assert.Empty(Violations);
        }
    }

    [Fact]
    public void FENCE_11_A_stub_is_signalled_and_always_the_same()
    {
        using (Host.Enter())
        {
            Fence[] stubs = [.. Enumerable.Range(0, 64).Select(_ => Host.GetStubFence())];
            Assert.All(stubs, s => Assert.True(s.IsSignaled));
            Assert.Single(stubs.Distinct());
            Assert.Equal((0UL, true), (stubs[0].Context, stubs[0].HasEnded));
            Fence own = Fence.CreateSignaled(Host, TimeSpan.FromSeconds(7));
            Assert.Equal(TimeSpan.FromSeconds(7), own.Timestamp);
        }
    }

    [Theory]
    [InlineData(Errno.Success)]
    [InlineData((Errno)(-5))]
    [InlineData((Errno)4096)]
    public void FENCE_13_An_error_that_is_none_is_a_violation_and_nothing_else(Errno error)
    {
        using (Host.Enter())
        {
            Fence fence = New();
            fence.SetError(error);
            fence.Signal();
            Assert.Equal(1, fence.GetStatus());
            Assert.Equal([ViolationKind.FenceError], Violations);
        }
    }

    [Fact]
    public void FENCE_13_An_error_after_the_signal_is_a_violation_and_nothing_else()
    {
        using (Host.Enter())
        {
            Fence fence = New();
            fence.Signal();
            fence.SetError(Errno.EIO);
            Assert.Equal((1, Errno.Success), (fence.GetStatus(), fence.Error));
            Assert.Equal([ViolationKind.FenceError], Violations);
        }
    }

    [Fact]
    public void FENCE_14_A_driver_that_need_not_be_waited_for_signals_on_the_spot()
    {
        using (Host.Enter())
        {
            Fence fence = New(new Driver { IsAtWork = false });
            fence.SetError(Errno.ENODATA);
            Assert.Equal(Errno.ENOENT, fence.TryAddCallback(_ => { }));
            Assert.Equal((true, true, Errno.ENODATA), (fence.IsSignaled, fence.HasEnded, fence.Error));
        }
    }

    [Fact]
    public void FENCE_15_A_driver_is_told_once_that_somebody_waits()
    {
        using (Host.Enter())
        {
            Driver driver = new();
            Fence fence = New(driver);
            for (int i = 0; i < 5; i++)
            {
                fence.TryAddCallback(_ => { });
                fence.EnableSignaling();
                FenceWait.Start(Host, null, fence, TimeSpan.FromSeconds(1));
            }

            Assert.Equal(1, driver.Enables);
        }
    }

    [Fact]
    public void FENCE_16_A_look_signals_what_has_ended_and_the_flag_alone_changes_nothing()
    {
        int calls = 0;
        using (Host.Enter())
        {
            Driver driver = new();
            Fence fence = New(driver);
            fence.TryAddCallback(_ => calls++);
            Assert.False(fence.CheckSignaled());
            driver.HasEnded = true;
            Assert.False(fence.IsSignaled);
            Assert.True(fence.CheckSignaled());
            Assert.True(fence.IsSignaled);
        }

        Assert.Equal(1, calls);
    }

    [Fact]
    public void FENCE_17_A_fence_whose_owner_is_dropped_ends_with_EDEADLK_and_is_no_evidence()
    {
        Errno seen = Errno.Success;
        using (Host.Enter())
        {
            Timeline timeline = new(Host, "engine");
            Fence first = timeline.CreateFence(), second = timeline.CreateFence();
            second.TryAddCallback(f => seen = f.Error);
            timeline.Drop();
            Assert.Equal(
                (true, true, false, Errno.EDEADLK), (first.IsSignaled, first.IsForced, first.HasEnded, first.Error));
            Assert.True(second.IsForced);
            Assert.Equal([ViolationKind.FenceDropped, ViolationKind.FenceDropped], Violations);
        }

        Assert.Equal(Errno.EDEADLK, seen);
    }

    [Fact]
    public void FENCE_17_A_fence_without_a_timeline_is_dropped_by_itself()
    {
        using (Host.Enter())
        {
            Fence dropped = New(), done = New();
            done.Signal();
            dropped.Drop();
            done.Drop();
            Assert.Equal((Errno.EDEADLK, Errno.Success), (dropped.Error, done.Error));
            Assert.Equal([ViolationKind.FenceDropped], Violations);
        }
    }

    [Fact]
    public void FENCE_18_Short_numbers_wrap_and_long_ones_do_not()
    {
        using (Host.Enter())
        {
            Fence Short(ulong seqno) => new(Host, 9, seqno, "work", width: SeqnoWidth.Bits32);
            Assert.True(Short(0x10).IsLaterThan(Short(0xFFFFFFF0)));
            Assert.False(Short(0xFFFFFFF0).IsLaterThan(Short(0x10)));
            Assert.False(Of(9, 0x10).IsLaterThan(Of(9, 0xFFFFFFF0)));
            Assert.True(Of(9, 0xFFFFFFF0).IsLaterThan(Of(9, 0x10)));
        }
    }

    [Fact]
    public void FENCE_19_Fences_of_different_contexts_have_no_order()
    {
        using (Host.Enter())
        {
            Assert.False(Of(8, 5).IsLaterThan(Of(9, 3)));
            Assert.Equal([ViolationKind.FenceOrder], Violations);
            Fence fence = Of(8, 5);
            Assert.True(fence.IsLaterOrSame(fence));
            Assert.False(fence.IsLaterOrSame(Of(8, 6)));
        }
    }

    [Fact]
    public void The_later_of_two_is_null_once_it_is_signalled()
    {
        using (Host.Enter())
        {
            Fence earlier = Of(8, 5), later = Of(8, 6);
            Assert.Same(later, Fence.Later(earlier, later));
            Assert.Same(later, Fence.Later(later, earlier));
            later.Signal();
            Assert.Null(Fence.Later(earlier, later));
        }
    }

    [Fact]
    public void FENCE_20_After_the_signal_the_names_say_that_the_driver_is_gone()
    {
        using (Host.Enter())
        {
            Fence fence = New(new Driver());
            Assert.Equal(("gpu0", "ring 3"), (fence.DriverName, fence.TimelineName));
            fence.Signal();
            Assert.Equal(("detached-driver", "signaled-timeline"), (fence.DriverName, fence.TimelineName));
            Assert.Equal("work", fence.Name);
        }
    }

    [Fact]
    public void A_fence_that_took_the_place_of_one_that_was_forced_ends_after_that()
    {
        using (Host.Enter())
        {
            Timeline ring = new(Host, "ring");
            Fence first = ring.CreateFence(), second = ring.CreateFence(), third = ring.CreateFence();
            bool ended = false;
            Assert.Same(third, FenceUnwrap.Merge(Host, first, second, third));
            third.TryAddEndCallback(_ => ended = true);
            first.Force(Errno.ETIME);
            second.Signal();
            third.Signal();
            third.Signal();
            Assert.Equal((true, false), (second.HasEnded, second.IsForced));
            Assert.Equal((true, false, true), (third.IsSignaled, third.HasEnded, third.IsForced));
            first.Signal();
            Assert.True(third.HasEnded);
            Assert.False(ended, "callbacks run after the lock");
        }
    }

    [Fact]
    public void The_earliest_deadline_wins_and_only_it_reaches_the_driver()
    {
        using (Host.Enter())
        {
            Driver driver = new();
            Fence fence = New(driver);
            fence.SetDeadline(TimeSpan.FromSeconds(3));
            fence.SetDeadline(TimeSpan.FromSeconds(5));
            fence.SetDeadline(TimeSpan.FromSeconds(2));
            Assert.Equal(TimeSpan.FromSeconds(2), fence.Deadline);
            Assert.Equal([TimeSpan.FromSeconds(3), TimeSpan.FromSeconds(2)], driver.Deadlines);
        }
    }

    [Fact]
    public void A_timeline_says_by_when_somebody_wants_it_to_get_on()
    {
        using (Host.Enter())
        {
            Timeline timeline = new(Host, "engine");
            Fence first = timeline.CreateFence(), second = timeline.CreateFence(), third = timeline.CreateFence();
            Assert.Null(timeline.Deadline);
            second.SetDeadline(TimeSpan.FromSeconds(4));
            third.SetDeadline(TimeSpan.FromSeconds(6));
            Assert.Equal(TimeSpan.FromSeconds(4), timeline.Deadline);
            first.Signal();
            second.Signal();
            Assert.Equal((TimeSpan.FromSeconds(6), 1), (timeline.Deadline, timeline.PendingCount));
        }
    }

    private Fence New(IFenceOperations operations) =>
        new(Host, Host.AllocateFenceContexts(), 1, "work", operations);

    private sealed class Driver : IFenceOperations
    {
        public bool IsAtWork { get; init; } = true;

        public bool HasEnded { get; set; }

        public int Enables { get; private set; }

        public int Questions { get; private set; }

        public List<TimeSpan> Deadlines { get; } = [];

        public string DriverName => "gpu0";

        public string TimelineName => "ring 3";

        public bool EnableSignaling(Fence fence)
        {
            Enables++;
            return IsAtWork;
        }

        public bool IsSignaled(Fence fence)
        {
            Questions++;
            return HasEnded;
        }

        public void SetDeadline(Fence fence, TimeSpan deadline) => Deadlines.Add(deadline);
    }
}
