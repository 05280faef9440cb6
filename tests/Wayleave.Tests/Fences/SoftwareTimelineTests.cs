using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Xunit;

namespace Wayleave.Tests.Fences;

public class SoftwareTimelineTests : FenceScenario
{
    [Fact]
    public void A_point_that_was_passed_is_signalled_at_birth_and_points_signal_in_order()
    {
        List<ulong> order = [];
        Do(() =>
        {
            SoftwareTimeline timeline = new(Host, "program");
            timeline.Increment(2);
            Assert.True(timeline.CreateFence(2).IsSignaled);
            foreach (uint point in new uint[] { 9, 4, 6 })
            {
                timeline.CreateFence(point).TryAddCallback(f => order.Add(f.Seqno));
            }

            timeline.Increment(20);
            Assert.Equal((22u, 0), (timeline.Value, timeline.PendingCount));
        });
        Assert.Equal([4UL, 6UL, 9UL], order);
    }

    [Fact]
    public void FENCE_53_A_pending_point_that_is_asked_for_again_is_the_same_fence()
    {
        using (Host.Enter())
        {
            SoftwareTimeline timeline = new(Host, "program");
            Fence seven = timeline.CreateFence(7);
            timeline.CreateFence(8);
            Assert.Same(seven, timeline.CreateFence(7));
            Assert.Equal(2, timeline.PendingCount);
            timeline.Increment(7);
            Assert.NotSame(seven, timeline.CreateFence(7));
        }
    }

    [Fact]
    public void FENCE_54_A_step_beyond_half_the_numbers_signals_what_two_steps_signal()
    {
        uint[] points = [1, 0x7FFFFFFF, 0x40000000];
        using (Host.Enter())
        {
            SoftwareTimeline one = new(Host, "one"), two = new(Host, "two");
            Fence[] inOne = [.. points.Select(one.CreateFence)], inTwo = [.. points.Select(two.CreateFence)];
            one.Increment(0x80000001);
            two.Increment(0x40000001);
            two.Increment(0x40000000);
            Assert.All(inOne.Concat(inTwo), f => Assert.True(f.IsSignaled));
            Assert.Equal((0x80000001, 0x80000001), (one.Value, two.Value));

            // The numbers wrap: a point behind zero lies ahead.
            one.Increment(0x7FFFFFFE);
            Fence wrapped = one.CreateFence(5);
            one.Increment(5);
            Assert.False(wrapped.IsSignaled);
            one.Increment(1);
            Assert.Equal((5u, true), (one.Value, wrapped.IsSignaled));
        }
    }

    [Fact]
    public void A_timeline_tells_the_deadline_of_its_own_fences_only()
    {
        using (Host.Enter())
        {
            SoftwareTimeline timeline = new(Host, "program");
            Fence fence = timeline.CreateFence(1);
            Assert.Equal(Errno.ENOENT, timeline.TryGetDeadline(fence, out _));
            fence.SetDeadline(TimeSpan.FromSeconds(3));
            fence.SetDeadline(TimeSpan.FromSeconds(2));
            Assert.Equal(Errno.Success, timeline.TryGetDeadline(fence, out TimeSpan deadline));
            Assert.Equal(TimeSpan.FromSeconds(2), deadline);
            Assert.Equal(Errno.EINVAL, new SoftwareTimeline(Host, "other").TryGetDeadline(fence, out _));
            Assert.Equal(Errno.EINVAL, timeline.TryGetDeadline(New(), out _));
        }
    }

    [Theory]
    [InlineData(ReservationUsage.Kernel, 1)]
    [InlineData(ReservationUsage.Write, 1)]
    [InlineData(ReservationUsage.Read, 1)]
    [InlineData(ReservationUsage.Bookkeep, 0)]
    public void FENCE_61_A_programs_fence_where_others_wait_unasked_is_a_violation(ReservationUsage usage, int found)
    {
        using (Host.Enter())
        {
            AddUserFence(Host, usage);
            Assert.Equal(found, Violations.Count(v => v == ViolationKind.IndefiniteFence));
            Assert.False(Host.Checker.IsTainted);
        }
    }

    [Fact]
    public void FENCE_61_In_test_mode_a_programs_fence_taints_the_host()
    {
        HostContext host = new(Clock, checks: new CheckerOptions { PermitsUserFences = true });
        using (host.Enter())
        {
            Assert.False(host.Checker.IsTainted);
            AddUserFence(host, ReservationUsage.Write);
            Assert.Equal((0L, true), (host.Checker.ViolationCount, host.Checker.IsTainted));
        }
    }

    [Fact]
    public void A_container_of_a_programs_fence_is_no_better()
    {
        using (Host.Enter())
        {
            Fence point = new SoftwareTimeline(Host, "program").CreateFence(1);
            Assert.True(new FenceArray(Host, [New(), point]).IsUserControlled);
            FenceChain chain = new(Host, new FenceChain(Host, null, point, 1), New(), 2);
            Assert.True(chain.IsUserControlled);
            Assert.False(new FenceChain(Host, null, New(), 1).IsUserControlled);
        }
    }

    private static void AddUserFence(HostContext host, ReservationUsage usage)
    {
        Reservation reservation = new(host, "lent");
        AcquireTicket ticket = new(host, "test");
        reservation.TryLock(ticket);
        reservation.ReserveFences(ticket, 1);
        reservation.AddFence(ticket, new SoftwareTimeline(host, "program").CreateFence(1), usage);
        reservation.Unlock(ticket);
    }
}
