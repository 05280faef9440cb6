using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Xunit;

namespace Wayleave.Tests.Fences;

public class FenceArrayTests : FenceScenario
{
    [Theory]
    [InlineData(0, 1, 2)]
    [InlineData(2, 0, 1)]
    [InlineData(1, 2, 0)]
    public void FENCE_22_An_array_signals_after_the_last_of_its_fences_in_any_order(int a, int b, int c)
    {
        Fence[] parts = [];
        FenceArray array = null!;
        int calls = 0;
        Do(() =>
        {
            parts = New(3);
            array = new FenceArray(Host, parts);
            array.TryAddCallback(_ => calls++);
        });
        Do(() => parts[a].Signal());
        Do(() => parts[b].Signal());
        Assert.False(array.IsSignaled);
        Do(() =>
        {
            parts[c].Signal();
            Assert.False(array.IsSignaled, "the last part and the array are two moments");
        });
        Assert.Equal((true, true, 1), (array.IsSignaled, array.HasEnded, calls));
        Assert.Equal(1, Status(array));
    }

    [Fact]
    public void FENCE_23_The_first_error_that_was_seen_is_the_arrays()
    {
        Fence[] parts = [];
        FenceArray array = null!;
        Do(() =>
        {
            parts = New(3);
            array = new FenceArray(Host, parts);
            array.EnableSignaling();
            parts[0].Signal();
            parts[1].Signal(Errno.EIO);
            parts[2].Signal(Errno.ETIME);
        });
        Assert.Equal(-(int)Errno.EIO, Status(array));
    }

    [Fact]
    public void FENCE_24_An_array_that_nobody_waited_for_saw_no_error()
    {
        using (Host.Enter())
        {
            Fence[] parts = New(2);
            FenceArray array = new(Host, parts);
            parts[0].Signal(Errno.EIO);
            Assert.Equal(0, array.GetStatus());
            parts[1].Signal(Errno.EIO);
            Assert.Equal(1, array.GetStatus());
        }
    }

    [Fact]
    public void FENCE_25_A_container_in_an_array_is_a_violation()
    {
        using (Host.Enter())
        {
            _ = new FenceArray(Host, [New(), new FenceChain(Host, null, New(), 1)]);
            Assert.Equal([ViolationKind.FenceContainer], Violations);
            _ = new FenceArray(Host, [new FenceArray(Host, [New()])]);
            Assert.Equal(2, Violations.Count());
        }
    }

    [Fact]
    public void An_array_for_any_signals_after_the_first_and_ends_after_the_last()
    {
        Fence[] parts = [];
        FenceArray array = null!;
        bool ended = false;
        Do(() =>
        {
            parts = New(3);
            array = new FenceArray(Host, parts, FenceArrayKind.Any);
            array.TryAddEndCallback(_ => ended = true);
            parts[1].Signal();
        });
        Assert.Equal((true, false, false), (array.IsSignaled, array.IsForced, array.HasEnded));
        Do(() => parts[0].Signal());
        Assert.False(array.HasEnded);
        Do(() => parts[2].Signal());
        Assert.Equal((true, true), (array.HasEnded, ended));
    }

    [Fact]
    public void An_array_of_a_forced_fence_is_forced_until_that_ones_owner_comes_back()
    {
        Fence[] parts = [];
        FenceArray array = null!;
        bool ended = false;
        Do(() =>
        {
            parts = New(2);
            array = new FenceArray(Host, parts);
            array.TryAddEndCallback(_ => ended = true);
            parts[0].Signal();
            parts[1].Force(Errno.ETIME);
        });
        Assert.Equal(
            (true, true, false, Errno.ETIME), (array.IsSignaled, array.IsForced, array.HasEnded, array.Error));
        Do(() => parts[1].Signal());
        Assert.Equal((true, true), (array.HasEnded, ended));
    }

    [Fact]
    public void Nobody_else_signals_a_container_and_none_is_empty()
    {
        using (Host.Enter())
        {
            FenceArray array = new(Host, [New()]);
            Assert.Throws<InvalidOperationException>(() => array.Signal());
            Assert.Throws<InvalidOperationException>(() => array.Force(Errno.ETIME));
            Assert.Throws<ArgumentException>(() => new FenceArray(Host, []));
        }
    }

    [Fact]
    public void A_deadline_reaches_every_part()
    {
        using (Host.Enter())
        {
            Assert.Equal([TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(1)], Deadlines(Host));
        }
    }

    [Fact]
    public void A_deadline_that_stays_with_its_container_is_caught()
    {
        HostContext broken = new(Clock) { Defences = CoreDefences.All & ~CoreDefences.DeadlineForwarding };
        using (broken.Enter())
        {
            Assert.Equal([null, null], Deadlines(broken));
        }
    }

    // One part directly, one behind a chain; what each was told.
    private static TimeSpan?[] Deadlines(HostContext host)
    {
        Timeline one = new(host, "one"), other = new(host, "other");
        Fence[] parts = [one.CreateFence(), other.CreateFence()];
        new FenceArray(host, [parts[0]]).SetDeadline(TimeSpan.FromSeconds(1));
        new FenceChain(host, new FenceChain(host, null, parts[1], 1), one.CreateFence(), 2)
            .SetDeadline(TimeSpan.FromSeconds(1));
        return [parts[0].Deadline, parts[1].Deadline];
    }

    private int Status(Fence fence)
    {
        using (Host.Enter())
        {
            return fence.GetStatus();
        }
    }
}
