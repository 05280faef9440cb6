using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Xunit;

namespace Wayleave.Tests.Fences;

public class FenceWaitTests : FenceScenario
{
    private static readonly TimeSpan s_tick = TimeSpan.FromTicks(1);

    [Fact]
    public void FENCE_09_A_look_is_zero_before_the_signal_and_one_after()
    {
        using (Host.Enter())
        {
            Fence fence = New();
            FenceWait before = Wait(fence, TimeSpan.Zero);
            Assert.Equal((FenceWaitState.TimedOut, TimeSpan.Zero), (before.State, before.Remaining));
            fence.Signal();
            FenceWait after = Wait(fence, TimeSpan.Zero);
            Assert.Equal((FenceWaitState.Signaled, s_tick), (after.State, after.Remaining));
        }
    }

    [Fact]
    public void FENCE_10_A_wait_ends_with_nothing_left_at_its_time_or_with_the_rest_at_the_signal()
    {
        using (Host.Enter())
        {
            Fence fence = New();
            FenceWait shortOne = Wait(fence, s_tick), longOne = Wait(fence, TimeSpan.FromSeconds(1));
            Assert.False(shortOne.IsCompleted);
            Clock.Advance(s_tick);
            shortOne.HandleTimeout(Host.Now);
            longOne.HandleTimeout(Host.Now);
            Assert.Equal((FenceWaitState.TimedOut, Errno.ETIME), (shortOne.State, shortOne.Errno));
            Clock.Advance(TimeSpan.FromMilliseconds(400) - s_tick);
            fence.Signal();
            Assert.Equal(
                (FenceWaitState.Signaled, TimeSpan.FromMilliseconds(600)), (longOne.State, longOne.Remaining));
            Assert.Null(longOne.NextDeadline);
        }
    }

    [Fact]
    public void A_signalled_fence_gives_the_whole_time_back_and_a_wait_without_one_a_tick()
    {
        using (Host.Enter())
        {
            Fence fence = New();
            fence.Signal(Errno.EIO);
            Assert.Equal(TimeSpan.FromSeconds(5), Wait(fence, TimeSpan.FromSeconds(5)).Remaining);
            FenceWait endless = Wait(fence, FenceWait.NoTimeout);
            Assert.Equal((s_tick, Errno.Success, Errno.EIO), (endless.Remaining, endless.Errno, fence.Error));
        }
    }

    [Fact]
    public void A_negative_time_out_and_a_wait_for_any_of_nothing_are_refused()
    {
        using (Host.Enter())
        {
            Assert.Equal(Errno.EINVAL, Wait(New(), -s_tick).Errno);
            Assert.Equal(Errno.EINVAL, FenceWait.StartAny(Host, null, [], TimeSpan.FromSeconds(1)).Errno);
            Assert.Equal([ViolationKind.WaitArguments, ViolationKind.WaitArguments], Violations);
        }
    }

    [Fact]
    public void An_interrupted_wait_is_EINTR_and_one_that_has_ended_is_not_interrupted()
    {
        int calls = 0;
        Do(() =>
        {
            Fence fence = New();
            FenceWait wait = Wait(fence, FenceWait.NoTimeout);
            Assert.True(wait.TryAddCallback(() => calls++));
            wait.Interrupt();
            Assert.Equal((FenceWaitState.Interrupted, Errno.EINTR), (wait.State, wait.Errno));
            fence.Signal();
            Assert.Equal(FenceWaitState.Interrupted, wait.State);
            FenceWait done = Wait(fence, FenceWait.NoTimeout);
            done.Interrupt();
            Assert.Equal(FenceWaitState.Signaled, done.State);
            Assert.False(done.TryAddCallback(() => calls++));
        });
        Assert.Equal(1, calls);
    }

    [Fact]
    public void A_wait_for_any_ends_with_the_first_and_says_which()
    {
        using (Host.Enter())
        {
            Fence[] fences = New(3);
            Assert.Equal(
                FenceWaitState.TimedOut, FenceWait.StartAny(Host, null, fences, TimeSpan.Zero).State);
            FenceWait wait = FenceWait.StartAny(Host, null, fences, TimeSpan.FromSeconds(1));
            Assert.False(wait.IsCompleted);
            fences[2].Signal();
            Assert.Equal((FenceWaitState.Signaled, 2), (wait.State, wait.Index));
            fences[0].Signal();
            Assert.Equal(2, wait.Index);
            Assert.Equal(0, FenceWait.StartAny(Host, null, fences, TimeSpan.Zero).Index);
        }
    }

    private FenceWait Wait(Fence fence, TimeSpan timeout) => FenceWait.Start(Host, null, fence, timeout);
}
