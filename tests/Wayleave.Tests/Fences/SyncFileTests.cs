using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Fences;

public class SyncFileTests : FenceScenario
{
    [Fact]
    public void FENCE_43_A_fence_of_a_point_waits_until_the_timeline_gets_there()
    {
        using (Host.Enter())
        {
            SoftwareTimeline timeline = new(Host, "program");
            SyncFile file = new(Host, timeline.CreateFence(5));
            Assert.False(file.Poll());
            timeline.Increment(1);
            Assert.False(file.Poll());
            timeline.Increment(4);
            Assert.True(file.Poll());
            timeline.Increment(10);
            Assert.True(file.Poll());
        }
    }

    [Fact]
    public void FENCE_44_Points_of_one_timeline_merge_into_the_last()
    {
        using (Host.Enter())
        {
            SoftwareTimeline timeline = new(Host, "program");
            SyncFile file = new(Host, timeline.CreateFence(1));
            for (uint point = 2; point <= 3; point++)
            {
                file.TryMerge(new SyncFile(Host, timeline.CreateFence(point)), "merged", 0, out SyncFile? merged);
                file = merged!;
            }

            Assert.Equal(1, Info(file).Count);
            timeline.Increment(2);
            Assert.False(file.Poll());
            timeline.Increment(1);
            Assert.True(file.Poll());
        }
    }

    [Fact]
    public void FENCE_45_Of_three_merged_timelines_one_less_is_active_as_each_gets_on()
    {
        using (Host.Enter())
        {
            SoftwareTimeline[] timelines = [.. Enumerable.Range(0, 3).Select(i => new SoftwareTimeline(Host, $"{i}"))];
            SyncFile file = new(Host, timelines[0].CreateFence(1));
            foreach (SoftwareTimeline other in timelines[1..])
            {
                file.TryMerge(new SyncFile(Host, other.CreateFence(1)), "merged", 0, out SyncFile? merged);
                file = merged!;
            }

            for (int left = 3; left > 0; left--)
            {
                Assert.Equal((left, false), (Active(file), file.Poll()));
                timelines[3 - left].Increment(1);
            }

            Assert.Equal(0, Active(file));
        }

        // The array itself follows when the lock is released.
    }

    [Fact]
    public void FENCE_46_A_fence_merged_with_itself_signals_with_it()
    {
        using (Host.Enter())
        {
            Fence fence = New();
            SyncFile file = new(Host, fence);
            Assert.Equal(Errno.Success, file.TryMerge(file, "twice", 0, out SyncFile? merged));
            Assert.False(merged!.Poll());
            fence.Signal();
            Assert.True(merged.Poll());
        }
    }

    [Fact]
    public void FENCE_47_differs_without_descriptors_a_closed_timeline_throws_and_a_missing_or_foreign_file_is_ENOENT()
    {
        HostContext elsewhere = new(new VirtualClock());
        SyncFile foreign;
        using (elsewhere.Enter())
        {
            foreign = new SyncFile(elsewhere, elsewhere.GetStubFence());
        }

        using (Host.Enter())
        {
            SoftwareTimeline closed = new(Host, "program");
            closed.Close();
            Assert.Throws<ObjectDisposedException>(() => closed.CreateFence(1));
            SyncFile file = new(Host, New());
            Assert.Equal(Errno.ENOENT, file.TryMerge(null, "merged", 0, out _));
            Assert.Equal(Errno.ENOENT, file.TryMerge(foreign, "merged", 0, out _));
            Assert.Equal(Errno.EINVAL, file.TryMerge(file, "merged", flags: 1, out _));
        }
    }

    [Fact]
    public void FENCE_48_A_timeline_that_is_closed_ends_what_is_pending_with_ENOENT()
    {
        using (Host.Enter())
        {
            SoftwareTimeline timeline = new(Host, "program");
            timeline.Increment(1);
            Fence done = timeline.CreateFence(1), pending = timeline.CreateFence(2);
            timeline.Close();
            timeline.Close();
            Assert.Equal((1, -(int)Errno.ENOENT, 0), (done.GetStatus(), pending.GetStatus(), timeline.PendingCount));
            Assert.True(pending.HasEnded);
            FenceWait wait = FenceWait.Start(Host, null, pending, TimeSpan.Zero);
            Assert.Equal(FenceWaitState.Signaled, wait.State);
            Assert.Empty(Violations);
        }
    }

    [Fact]
    public void FENCE_50_Eight_consumers_see_the_counter_at_their_point()
    {
        const int Consumers = 8, Points = 16_384;
        SoftwareTimeline timeline = null!;
        int seen = 0;
        Do(() => timeline = new SoftwareTimeline(Host, "producer"));
        for (uint point = 1; point <= Points; point++)
        {
            uint expected = point;
            Do(() =>
            {
                for (int i = 0; i < Consumers; i++)
                {
                    timeline.CreateFence(expected).TryAddCallback(_ => seen += timeline.Value == expected ? 1 : 0);
                }
            });
            Do(() => timeline.Increment(1));
        }

        Assert.Equal(Consumers * Points, seen);
    }

    [Fact]
    public void FENCE_52_An_information_call_counts_or_fills_and_refuses_the_rest()
    {
        using (Host.Enter())
        {
            Fence failed = New("failed"), pending = New("pending"), done = New("done");
            SyncFile file = new(Host, new FenceArray(Host, [done, failed, pending]), "work");
            Clock.Advance(TimeSpan.FromSeconds(2));
            failed.Signal(Errno.EIO);
            done.Signal();
            Assert.Equal(Errno.Success, file.TryGetInfo([], 0, out SyncFileInfo info));
            Assert.Equal(new SyncFileInfo("work", 0, 3), info);
            Assert.Equal(Errno.EINVAL, file.TryGetInfo(new SyncFenceInfo[2], 0, out _));
            Assert.Equal(Errno.EINVAL, file.TryGetInfo([], flags: 1, out _));
            SyncFenceInfo[] fences = new SyncFenceInfo[3];
            Assert.Equal(Errno.Success, file.TryGetInfo(fences, 0, out info));
            Assert.Equal(-(int)Errno.EIO, info.Status);
            Assert.Equal(
                [(1, 2.0, "signaled-timeline"), (-5, 2.0, "signaled-timeline"), (0, 0.0, "pending")],
                fences.Select(f => (f.Status, f.Timestamp.TotalSeconds, f.TimelineName)));
        }
    }

    [Fact]
    public void A_file_without_a_name_is_called_after_its_fence_and_a_long_name_is_cut()
    {
        using (Host.Enter())
        {
            Fence fence = Of(7, 9);
            SyncFile file = new(Host, fence);
            Assert.Equal("wayleave-work7-9", file.Name);
            fence.Signal();
            Assert.Equal("detached-driver-signaled-timeline7-9", file.Name);
            Assert.Equal(new string('x', 31), new SyncFile(Host, fence, new string('x', 40)).Name);
        }
    }

    [Fact]
    public void A_deadline_with_padding_is_refused_and_one_without_reaches_the_fence()
    {
        using (Host.Enter())
        {
            Fence fence = New();
            SyncFile file = new(Host, fence);
            Assert.Equal(Errno.EINVAL, file.TrySetDeadline(TimeSpan.FromSeconds(1), padding: 1));
            Assert.Null(fence.Deadline);
            Assert.Equal(Errno.Success, file.TrySetDeadline(TimeSpan.FromSeconds(1)));
            Assert.Equal(TimeSpan.FromSeconds(1), fence.Deadline);
        }
    }

    private static SyncFileInfo Info(SyncFile file)
    {
        Assert.Equal(Errno.Success, file.TryGetInfo([], 0, out SyncFileInfo info));
        return info;
    }

    private static int Active(SyncFile file)
    {
        SyncFenceInfo[] fences = new SyncFenceInfo[Info(file).Count];
        Assert.Equal(Errno.Success, file.TryGetInfo(fences, 0, out _));
        return fences.Count(f => f.Status == 0);
    }
}
