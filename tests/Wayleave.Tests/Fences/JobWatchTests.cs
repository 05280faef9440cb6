using Wayleave.Core.Fences;
using Xunit;

namespace Wayleave.Tests.Fences;

/// <summary>One watch for all jobs of an engine, one after the other.</summary>
public class JobWatchTests : FenceScenario
{
    private static readonly TimeSpan s_timeout = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan s_grace = TimeSpan.FromSeconds(1);

    [Fact]
    public void A_watch_is_for_one_job_after_the_other_and_allocates_nothing()
    {
        using (Host.Enter())
        {
            (HangDetector detector, JobWatch watch, Timeline ring) = Make(EngineStop.Stopped);
            Assert.Equal((0, null), (detector.WatchedCount, detector.NextDeadline));
            Fence[] fences = [.. Enumerable.Range(0, 100).Select(_ => ring.CreateFence())];
            long allocated = 0;
            foreach (Fence fence in fences)
            {
                long before = GC.GetAllocatedBytesForCurrentThread();
                watch.Start(fence, Host.Now);
                fence.Signal();
                watch.Stop();
                allocated = GC.GetAllocatedBytesForCurrentThread() - before; // of the last: others may run first code
            }

            Assert.Equal((0, 0), (allocated, detector.WatchedCount));
            watch.Start(ring.CreateFence(), Host.Now, extra: s_grace);
            Assert.Equal((1, s_timeout + s_grace), (detector.WatchedCount, detector.NextDeadline));
        }
    }

    [Fact]
    public void A_job_that_has_left_its_engine_is_not_watched_and_has_all_of_its_time_when_it_is_back()
    {
        using (Host.Enter())
        {
            (HangDetector detector, JobWatch watch, Timeline ring) = Make(EngineStop.Stopped);
            Fence fence = ring.CreateFence();
            watch.Start(fence, Host.Now);
            watch.Stop();
            Clock.Advance(s_timeout);
            detector.HandleTimeout(Host.Now);
            Assert.Equal((false, null), (fence.IsSignaled, detector.NextDeadline));
            watch.Start(fence, Host.Now);
            Assert.Equal(2 * s_timeout, detector.NextDeadline);
        }
    }

    [Fact]
    public void What_was_told_about_one_job_is_told_again_about_the_next()
    {
        using (Host.Enter())
        {
            (HangDetector detector, JobWatch watch, Timeline ring) = Make(EngineStop.Stopping);
            Fence late = ring.CreateFence(), next = ring.CreateFence();
            watch.Start(late, Host.Now);
            Clock.Advance(s_timeout);
            detector.HandleTimeout(Host.Now);
            late.Signal(); // in time, after all
            watch.Stop();
            watch.Start(next, Host.Now);
            Clock.Advance(s_grace);
            detector.HandleTimeout(Host.Now);
            Assert.False(next.IsSignaled);
            Clock.Advance(s_timeout);
            detector.HandleTimeout(Host.Now);
            Assert.False(next.IsSignaled); // told, and it has its grace
            Clock.Advance(s_grace);
            detector.HandleTimeout(Host.Now);
            Assert.Equal((true, false), (next.IsForced, next.HasEnded));
        }
    }

    [Fact]
    public void A_forced_fence_stays_watched_until_its_engine_is_back()
    {
        using (Host.Enter())
        {
            (HangDetector detector, JobWatch watch, Timeline ring) = Make(EngineStop.Unknown);
            Fence fence = ring.CreateFence();
            watch.Start(fence, Host.Now);
            Clock.Advance(s_timeout);
            detector.HandleTimeout(Host.Now);
            Assert.Equal((true, false, 1), (fence.IsForced, fence.HasEnded, detector.WatchedCount));
            detector.HandleStopped(watch.Engines[0].Engine);
            watch.Stop();
            Assert.Equal((true, 0), (fence.HasEnded, detector.WatchedCount));
            Assert.Single(detector.Hangs);
        }
    }

    private (HangDetector Detector, JobWatch Watch, Timeline Ring) Make(EngineStop answer)
    {
        HangDetector detector = new(Host, s_timeout, s_grace);
        return (detector, detector.Watch(new Engine(answer)), new Timeline(Host, "ring"));
    }

    private sealed class Engine(EngineStop answer) : IStoppableEngine
    {
        public string Name => "gpu0 compute engine";

        public EngineStop Stop() => answer;
    }
}
