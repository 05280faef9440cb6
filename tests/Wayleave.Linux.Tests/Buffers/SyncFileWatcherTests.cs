using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Linux.Buffers;
using Xunit;

namespace Wayleave.Linux.Tests.Buffers;

/// <summary>
/// Who signals Core's fences for the kernel's. An eventfd stands for a sync_file: readable once it is raised, and
/// ENOTTY to every ioctl, which is how a fence that failed looks.
/// </summary>
public sealed class SyncFileWatcherTests
{
    private readonly HostContext _host = new(TimeProvider.System);

    [Fact]
    public void A_fence_signals_when_its_file_does_and_with_its_error()
    {
        using SyncFileWatcher watcher = new(_host);
        (Fence fence, EventFd job) = Follow(watcher);
        Assert.Equal(0, watcher.Wait(TimeSpan.Zero));
        Assert.False(fence.IsSignaled);

        job.Signal();
        Assert.Equal(1, watcher.Wait(Timeout.InfiniteTimeSpan));
        Assert.Equal((true, Errno.ENOTTY, false), (fence.IsSignaled, fence.Error, fence.IsForced));
        Assert.Equal(0, Pending(watcher));
        Assert.True(job.Descriptor.IsClosed);
    }

    [Fact]
    public void A_look_does_not_signal_what_failed_because_it_cannot_say_why()
    {
        using SyncFileWatcher watcher = new(_host);
        (Fence fence, EventFd job) = Follow(watcher);
        job.Signal();
        using (_host.Enter())
        {
            Assert.False(fence.CheckSignaled());
        }

        Assert.Equal(1, watcher.Wait(TimeSpan.Zero));
        Assert.Equal(Errno.ENOTTY, fence.Error);
    }

    [Fact]
    public void What_is_to_be_done_first_is_done_once_and_its_error_is_the_fences()
    {
        using SyncFileWatcher watcher = new(_host);
        int done = 0;
        (Fence fence, EventFd job) = Follow(watcher, () =>
        {
            done++;
            Assert.False(_host.IsHeld);
            return Errno.ENODEV;
        });
        job.Signal();
        Assert.Equal(1, watcher.Wait(TimeSpan.Zero));
        Assert.Equal(0, watcher.Wait(TimeSpan.Zero));
        Assert.Equal((1, Errno.ENODEV), (done, fence.Error));
    }

    [Fact]
    public void Who_sleeps_hears_of_a_fence_that_was_added_meanwhile()
    {
        using SyncFileWatcher watcher = new(_host);
        (Fence first, EventFd job) = Follow(watcher);
        Thread sleeper = new(() =>
        {
            while (!first.IsSignaled)
            {
                watcher.Wait(Timeout.InfiniteTimeSpan);
            }
        });
        sleeper.Start();
        (Fence second, EventFd other) = Follow(watcher);
        other.Signal();
        job.Signal();
        sleeper.Join();
        watcher.Wait(TimeSpan.Zero);
        Assert.True(second.IsSignaled);
    }

    [Fact]
    public void Two_threads_that_wait_signal_each_fence_once()
    {
        using SyncFileWatcher watcher = new(_host);
        (Fence Fence, EventFd Job)[] followed = [.. Enumerable.Range(0, 200).Select(_ => Follow(watcher, Nothing))];
        int signalled = 0;
        Thread[] waiters = [.. Enumerable.Range(0, 2).Select(_ => new Thread(() =>
        {
            while (Pending(watcher) > 0)
            {
                Interlocked.Add(ref signalled, watcher.Wait(TimeSpan.FromMilliseconds(20)));
            }
        }))];
        Array.ForEach(waiters, w => w.Start());
        foreach ((_, EventFd job) in followed)
        {
            job.Signal();
        }

        Array.ForEach(waiters, w => w.Join());
        Assert.Equal(followed.Length, signalled);
        Assert.All(followed, f => Assert.True(f.Job.Descriptor.IsClosed));
    }

    [Fact]
    public void A_deadline_is_a_hint_and_may_be_refused_by_the_kernel()
    {
        using SyncFileWatcher watcher = new(_host);
        (Fence fence, EventFd job) = Follow(watcher);
        using (_host.Enter())
        {
            fence.SetDeadline(_host.Now + TimeSpan.FromMilliseconds(5));
            fence.SetDeadline(TimeSpan.Zero);
        }

        job.Signal();
        Assert.Equal(1, watcher.Wait(TimeSpan.Zero));
    }

    [Fact]
    public void A_watcher_that_has_ended_follows_nothing_and_closes_what_it_was_given()
    {
        SyncFileWatcher watcher = new(_host);
        watcher.Dispose();
        EventFd job = new();
        using HostContext.Scope held = _host.Enter();
        Assert.Throws<ObjectDisposedException>(() => watcher.Follow(new KernelSyncFile(job.Descriptor), "late"));
        Assert.True(job.Descriptor.IsClosed);
    }

    [Fact]
    public void What_pends_at_the_end_is_dropped_and_reported()
    {
        SyncFileWatcher watcher = new(_host);
        (Fence fence, EventFd job) = Follow(watcher);
        watcher.Dispose();
        watcher.Dispose();
        Assert.Equal((true, true, Errno.EDEADLK), (fence.IsSignaled, fence.IsForced, fence.Error));
        Assert.True(job.Descriptor.IsClosed);
    }

    private static Errno Nothing() => Errno.Success;

    private (Fence Fence, EventFd Job) Follow(SyncFileWatcher watcher, Func<Errno>? then = null)
    {
        EventFd job = new();
        using HostContext.Scope held = _host.Enter();
        return (watcher.Follow(new KernelSyncFile(job.Descriptor), "job", then), job);
    }

    private int Pending(SyncFileWatcher watcher)
    {
        using HostContext.Scope held = _host.Enter();
        return watcher.PendingCount;
    }
}
