using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Fences;

public class FenceTests
{
    private readonly VirtualClock _clock = new();
    private readonly HostContext _host;
    private readonly Timeline _timeline;

    public FenceTests()
    {
        _host = new HostContext(_clock);
        using (_host.Enter())
        {
            _timeline = new Timeline(_host, "engine");
        }
    }

    [Fact]
    public void A_new_fence_is_pending_and_a_signal_is_for_ever()
    {
        using (_host.Enter())
        {
            Fence fence = _timeline.CreateFence();
            Assert.Equal(
                (false, false, null, Errno.Success), (fence.IsSignaled, fence.HasEnded, fence.Timestamp, fence.Error));
            _clock.Advance(TimeSpan.FromSeconds(3));
            fence.Signal(Errno.EIO);
            Assert.Equal(
                (true, true, TimeSpan.FromSeconds(3), Errno.EIO),
                (fence.IsSignaled, fence.HasEnded, fence.Timestamp, fence.Error));
            Assert.False(fence.IsForced);
        }
    }

    [Fact]
    public void An_owner_may_say_when_the_work_ended()
    {
        using (_host.Enter())
        {
            Fence fence = _timeline.CreateFence();
            _clock.Advance(TimeSpan.FromSeconds(3));
            fence.SignalAt(Errno.EIO, TimeSpan.FromSeconds(2));
            fence.SignalAt(Errno.Success, TimeSpan.FromSeconds(1)); // the first signal counts
            Assert.Equal((TimeSpan.FromSeconds(2), Errno.EIO), (fence.Timestamp, fence.Error));
        }
    }

    [Fact]
    public void FENCE_03_differs_a_callback_runs_after_the_lock_was_released()
    {
        // The kernel runs it before dma_fence_signal returns, under the fence's lock. Here no user's code runs under
        // one.
        int calls = 0;
        using (_host.Enter())
        {
            Fence fence = _timeline.CreateFence();
            Assert.Equal(Errno.Success, fence.TryAddCallback(f => calls += f.IsSignaled && !_host.IsHeld ? 1 : 100));
            fence.Signal();
            Assert.Equal(0, calls);
        }

        Assert.Equal(1, calls);
    }

    [Fact]
    public void FENCE_04_A_callback_that_comes_late_is_ENOENT_and_never_runs()
    {
        int calls = 0;
        using (_host.Enter())
        {
            Fence fence = _timeline.CreateFence();
            fence.Signal();
            Assert.Equal(Errno.ENOENT, fence.TryAddCallback(_ => calls++));
            fence.Signal();
        }

        Assert.Equal(0, calls);
    }

    [Fact]
    public void FENCE_05_A_callback_taken_out_does_not_run()
    {
        int calls = 0;
        void Callback(Fence fence) => calls++;
        using (_host.Enter())
        {
            Fence fence = _timeline.CreateFence();
            fence.TryAddCallback(Callback);
            Assert.True(fence.TryRemoveCallback(Callback));
            Assert.False(fence.TryRemoveCallback(Callback));
            fence.Signal();
        }

        Assert.Equal(0, calls);
    }

    [Fact]
    public void FENCE_06_A_callback_cannot_be_taken_out_after_the_signal_and_runs_once()
    {
        int calls = 0;
        void Callback(Fence fence) => calls++;
        using (_host.Enter())
        {
            Fence fence = _timeline.CreateFence();
            fence.TryAddCallback(Callback);
            fence.Signal();
            Assert.False(fence.TryRemoveCallback(Callback));
        }

        Assert.Equal(1, calls);
    }

    [Fact]
    public async Task FENCE_12_A_callback_that_races_a_signal_runs_or_is_told_ENOENT()
    {
        const int Rounds = 5_000;
        CancellationToken stop = TestContext.Current.CancellationToken;
        using Barrier step = new(2);
        Fence fence = null!;
        Task signaler = Task.Factory.StartNew(
            () =>
            {
                for (int round = 0; round < Rounds; round++)
                {
                    step.SignalAndWait(stop);
                    using (_host.Enter())
                    {
                        fence.Signal();
                    }

                    step.SignalAndWait(stop);
                }
            },
            stop, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        int told = 0, ran = 0;
        for (int round = 0; round < Rounds; round++)
        {
            using (_host.Enter())
            {
                fence = _timeline.CreateFence();
            }

            step.SignalAndWait(stop);
            using (_host.Enter())
            {
                told += fence.TryAddCallback(_ => Interlocked.Increment(ref ran)) == Errno.ENOENT ? 1 : 0;
            }

            step.SignalAndWait(stop);
        }

        await signaler;
        Assert.Equal(Rounds, told + ran);
    }

    [Fact]
    public void FENCE_21_The_second_signal_changes_nothing()
    {
        int calls = 0;
        using (_host.Enter())
        {
            Fence fence = _timeline.CreateFence();
            fence.TryAddCallback(_ => calls++);
            fence.Signal(Errno.EIO);
            _clock.Advance(TimeSpan.FromSeconds(1));
            fence.Signal(Errno.ETIME);
            fence.Force(Errno.ECANCELED);
            Assert.Equal((TimeSpan.Zero, Errno.EIO, false), (fence.Timestamp, fence.Error, fence.IsForced));
        }

        Assert.Equal(1, calls);
    }

    [Fact]
    public void A_forced_fence_lets_waiters_go_on_and_has_not_ended_until_its_owner_says_so()
    {
        int calls = 0, ends = 0;
        using (_host.Enter())
        {
            Fence fence = _timeline.CreateFence();
            fence.TryAddCallback(_ => calls++);
            Assert.Equal(Errno.Success, fence.TryAddEndCallback(_ => ends++));
            fence.Force(Errno.ETIME);
            Assert.Equal(
                (true, true, false, Errno.ETIME), (fence.IsSignaled, fence.IsForced, fence.HasEnded, fence.Error));
            _clock.Advance(TimeSpan.FromSeconds(1));
            fence.Signal();
            Assert.Equal(
                (true, true, Errno.ETIME, TimeSpan.Zero),
                (fence.IsForced, fence.HasEnded, fence.Error, fence.Timestamp));
            Assert.Equal(Errno.ENOENT, fence.TryAddEndCallback(_ => ends++));
        }

        Assert.Equal((1, 1), (calls, ends));
    }

    [Fact]
    public void Fences_of_a_timeline_count_up_and_signal_in_order_or_throw()
    {
        using (_host.Enter())
        {
            Fence first = _timeline.CreateFence(), second = _timeline.CreateFence();
            Assert.Equal((1UL, 2UL), (first.Seqno, second.Seqno));
            Assert.Equal(first.Context, second.Context);
            Assert.NotEqual(first.Context, new Timeline(_host, "other").Context);
            Assert.Throws<InvalidOperationException>(() => second.Signal());
            Assert.Throws<InvalidOperationException>(() => second.Force(Errno.ETIME));
            Assert.False(second.IsSignaled);
            first.Force(Errno.ETIME);
            second.Signal();
            Assert.True(second.HasEnded);
        }
    }

    [Fact]
    public void The_host_lock_is_not_recursive_and_deferred_work_runs_in_order_outside_it()
    {
        List<int> order = [];
        using (_host.Enter())
        {
            Assert.Throws<InvalidOperationException>(() => _host.Enter().Dispose());
            _host.Defer(() => order.Add(1));
            _host.Defer(() =>
            {
                using (_host.Enter())
                {
                    _host.Defer(() => order.Add(2));
                }

                order.Add(3);
            });
            Assert.Empty(order);
        }

        Assert.Equal([1, 2, 3], order);
        Assert.Throws<InvalidOperationException>(() => _host.Defer(() => { }));
    }
}
