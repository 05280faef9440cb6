using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Fences;

public class FenceMergeTests : FenceScenario
{
    [Fact]
    public void FENCE_36_Every_leaf_of_an_array_a_chain_and_a_chain_of_arrays_is_found_once()
    {
        using (Host.Enter())
        {
            Fence f1 = New("1"), f2 = New("2");
            Assert.Equal([f1, f2], FenceUnwrap.Unwrap(new FenceArray(Host, [f1, f2])));
            FenceChain chain = new(Host, new FenceChain(Host, null, f1, 1), f2, 2);
            Assert.Equal([f2, f1], FenceUnwrap.Unwrap(chain));
            FenceArray array = new(Host, [f1, f2]);
            Assert.Equal([f1, f2], FenceUnwrap.Unwrap(new FenceChain(Host, null, array, 1)));
            Assert.Equal([f1], FenceUnwrap.Unwrap(f1));
        }
    }

    [Fact]
    public void FENCE_37_A_merge_keeps_both_leaves_and_a_duplicate_once()
    {
        using (Host.Enter())
        {
            Fence f1 = New("1"), f2 = New("2");
            Assert.Equal([f1, f2], Leaves(FenceUnwrap.Merge(Host, f1, f2)));
            Assert.Same(f1, FenceUnwrap.Merge(Host, f1, f1));
        }
    }

    [Fact]
    public void FENCE_38_Of_each_context_the_latest_is_kept_in_the_order_of_contexts()
    {
        using (Host.Enter())
        {
            Fence a1 = Of(101, 1), a2 = Of(101, 2), b1 = Of(100, 1);
            Assert.Equal([b1, a2], Leaves(FenceUnwrap.Merge(Host, a1, a2, b1)));
        }
    }

    [Fact]
    public void FENCE_39_Containers_are_flattened_and_what_is_in_both_comes_once()
    {
        using (Host.Enter())
        {
            Fence f1 = New("1"), f2 = New("2");
            FenceChain chain = new(Host, new FenceChain(Host, null, f1, 1), f2, 2);
            Assert.Equal([f1, f2], Leaves(FenceUnwrap.Merge(Host, new FenceArray(Host, [f1, f2]), chain)));
        }
    }

    [Fact]
    public void FENCE_40_A_merge_of_merges_and_a_stub_is_the_leaves()
    {
        using (Host.Enter())
        {
            Fence f1 = New("1"), f2 = New("2");
            Fence merged = FenceUnwrap.Merge(
                Host, FenceUnwrap.Merge(Host, f1, f2), new FenceArray(Host, [f2, f1]), Host.GetStubFence());
            Assert.Equal([f1, f2], Leaves(merged));
        }
    }

    [Fact]
    public void FENCE_41_Across_arrays_the_latest_of_each_context_is_kept()
    {
        using (Host.Enter())
        {
            Fence a1 = Of(100, 1), a2 = Of(100, 2), b1 = Of(101, 1), b2 = Of(101, 2);
            Fence merged = FenceUnwrap.Merge(Host, new FenceArray(Host, [a2, b1]), new FenceArray(Host, [a1, b2]));
            Assert.Equal([a2, b2], Leaves(merged));
        }
    }

    [Fact]
    public void FENCE_42_A_merge_of_what_is_over_is_over_at_the_later_time_and_forgets_errors()
    {
        using (Host.Enter())
        {
            Fence failed = New("failed"), done = New("done");
            Clock.Advance(TimeSpan.FromSeconds(3));
            failed.Signal(Errno.EIO);
            Clock.Advance(TimeSpan.FromSeconds(4));
            done.Signal();
            Clock.Advance(TimeSpan.FromSeconds(5));
            Assert.Equal(
                Errno.Success,
                new SyncFile(Host, failed).TryMerge(new SyncFile(Host, done), "both", 0, out SyncFile? both));
            Assert.Equal(
                (true, 1, TimeSpan.FromSeconds(7)), (both!.Poll(), both.Fence.GetStatus(), both.Fence.Timestamp));
        }
    }

    [Fact]
    public void A_merge_keeps_a_forced_fence_because_its_work_may_still_run()
    {
        using (Host.Enter())
        {
            Fence forced = Of(100, 1), later = Of(100, 2), other = New();
            forced.Force(Errno.ETIME);
            Fence merged = FenceUnwrap.Merge(Host, forced, later, other);
            Assert.Equal([other, later, forced], Leaves(merged));
            Assert.Same(forced, FenceUnwrap.Merge(Host, forced, Host.GetStubFence()));
        }
    }

    [Fact]
    public void FENCE_51_Random_merges_have_one_fence_per_timeline_and_wait_for_the_greatest()
    {
        const int Timelines = 32, Merges = 32_768;
        SplitMix64 random = new(51);
        SoftwareTimeline[] timelines = [];
        Fence merged = null!;
        uint[] greatest = new uint[Timelines];
        Do(() =>
        {
            timelines = [.. Enumerable.Range(0, Timelines).Select(i => new SoftwareTimeline(Host, $"{i}"))];
            merged = Host.GetStubFence();
            for (int i = 0; i < Merges; i++)
            {
                int at = random.Next(Timelines);
                uint value = (uint)random.Next(0x10000) + 1;
                greatest[at] = Math.Max(greatest[at], value);
                merged = FenceUnwrap.Merge(Host, merged, timelines[at].CreateFence(value));
            }

            Assert.Equal(greatest.Count(g => g > 0), FenceUnwrap.Unwrap(merged).Count());
        });
        for (int i = 0; i < Timelines; i++)
        {
            Do(() => Assert.False(merged.CheckSignaled()));
            Do(() => timelines[i].Increment(greatest[i] - 1));
            Do(() => Assert.False(merged.CheckSignaled()));
            Do(() => timelines[i].Increment(1));
        }

        Do(() => Assert.True(merged.CheckSignaled()));
    }

    private static IReadOnlyList<Fence> Leaves(Fence merged) => Assert.IsType<FenceArray>(merged).Fences;
}
