using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Xunit;

namespace Wayleave.Tests.Fences;

public class SyncObjectTests : FenceScenario
{
    [Fact]
    public void An_empty_object_finds_nothing_and_a_plain_fence_only_itself()
    {
        using (Host.Enter())
        {
            SyncObject sync = new(Host, "sync");
            Assert.Equal(Errno.EINVAL, sync.TryFindFence(0, out _));
            Fence fence = New();
            sync.Replace(fence);
            Assert.Equal(Errno.Success, sync.TryFindFence(0, out Fence? found));
            Assert.Same(fence, found);
            Assert.Equal(Errno.EINVAL, sync.TryFindFence(1, out _));
            Assert.Equal(0UL, sync.ReachedPoint);
        }
    }

    [Fact]
    public void Points_are_reached_in_order_and_what_is_over_is_found_signalled()
    {
        using (Host.Enter())
        {
            SyncObject sync = new(Host, "sync");
            Fence[] parts = New(3);
            for (int i = 0; i < parts.Length; i++)
            {
                sync.AddPoint(parts[i], 10 * ((ulong)i + 1));
            }

            Assert.Equal(0UL, sync.ReachedPoint);
            parts[1].Signal();
            Assert.Equal(0UL, sync.ReachedPoint);
            parts[0].Signal();
            Assert.Equal(20UL, sync.ReachedPoint);
            Assert.Equal(Errno.Success, sync.TryFindFence(15, out Fence? over));
            Assert.True(over!.CheckSignaled());
            Assert.Equal(Errno.Success, sync.TryFindFence(25, out Fence? last));
            Assert.False(last!.CheckSignaled());
            Assert.Equal(Errno.EINVAL, sync.TryFindFence(31, out _));
            parts[2].Signal();
            Assert.Equal(30UL, sync.ReachedPoint);
        }
    }

    [Fact]
    public void Who_waits_for_a_point_that_nobody_submitted_is_told_when_somebody_does()
    {
        SyncObject sync = null!;
        List<Fence> told = [];
        Do(() =>
        {
            sync = new SyncObject(Host, "sync");
            Assert.True(sync.TryAddSubmitCallback(2, told.Add));
        });
        Do(() => sync.AddPoint(New(), 1));
        Assert.Empty(told);
        Do(() => sync.AddPoint(New(), 2));
        Assert.Same(sync.Fence, Assert.Single(told));
        Do(() => Assert.False(sync.TryAddSubmitCallback(2, told.Add)));
    }

    [Fact]
    public void A_point_that_does_not_grow_is_a_violation_and_begins_anew()
    {
        using (Host.Enter())
        {
            SyncObject sync = new(Host, "sync");
            sync.AddPoint(New(), 5);
            ulong context = sync.Fence!.Context;
            sync.AddPoint(New(), 5);
            Assert.Equal([ViolationKind.FenceOrder], Violations);
            Assert.NotEqual(context, sync.Fence!.Context);
        }
    }

    [Fact]
    public void A_long_timeline_is_as_long_as_what_is_pending()
    {
        using (Host.Enter())
        {
            SyncObject sync = new(Host, "sync");
            for (ulong point = 1; point <= 1000; point++)
            {
                Fence part = New();
                sync.AddPoint(part, point);
                part.Signal();
            }

            Assert.Single(FenceUnwrap.Unwrap(sync.Fence!));
        }
    }
}
