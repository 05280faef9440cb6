using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Simulation;

public class VirtualClockTests
{
    private static readonly TimeSpan s_second = TimeSpan.FromSeconds(1);

    [Fact]
    public void Time_stands_until_it_is_moved()
    {
        VirtualClock clock = new();
        long before = clock.GetTimestamp();
        Assert.Equal(TimeSpan.Zero, clock.GetElapsedTime(before));
        clock.Advance(s_second);
        Assert.Equal(s_second, clock.GetElapsedTime(before));
        Assert.Equal(new DateTimeOffset(2000, 1, 1, 0, 0, 1, TimeSpan.Zero), clock.GetUtcNow());
    }

    [Fact]
    public void Time_does_not_go_back()
    {
        VirtualClock clock = new();
        clock.Advance(s_second);
        Assert.Throws<ArgumentOutOfRangeException>(() => clock.AdvanceTo(TimeSpan.Zero));
        Assert.Throws<ArgumentOutOfRangeException>(() => clock.Advance(-s_second));
    }

    [Fact]
    public void Timers_run_in_the_order_of_their_due_times_and_see_them()
    {
        VirtualClock clock = new();
        List<string> order = [];
        using ITimer late =
            clock.CreateTimer(_ => order.Add($"late at {clock.Now}"), null, 3 * s_second, TimeSpan.Zero);
        using ITimer every = clock.CreateTimer(_ => order.Add($"every at {clock.Now}"), null, s_second, 2 * s_second);
        using ITimer gone = clock.CreateTimer(_ => order.Add("gone"), null, s_second, s_second);
        gone.Dispose();
        Assert.Equal(s_second, clock.NextDeadline);
        clock.Advance(4 * s_second);
        Assert.Equal(["every at 00:00:01", "late at 00:00:03", "every at 00:00:03"], order);
        Assert.Equal(4 * s_second, clock.Now);
        Assert.False(gone.Change(s_second, s_second));
    }

    [Fact]
    public void A_timer_may_set_another_within_the_same_advance()
    {
        VirtualClock clock = new();
        List<TimeSpan> times = [];
        using ITimer outer = clock.CreateTimer(
            _ => clock.CreateTimer(_ => times.Add(clock.Now), null, s_second,
                TimeSpan.Zero), null, s_second, TimeSpan.Zero);
        clock.Advance(5 * s_second);
        Assert.Equal([2 * s_second], times);
    }

    [Fact]
    public async Task A_delay_of_the_library_ends_on_this_clock()
    {
        VirtualClock clock = new();
        Task delay = Task.Delay(s_second, clock, TestContext.Current.CancellationToken);
        clock.Advance(s_second - TimeSpan.FromTicks(1));
        Assert.False(delay.IsCompleted);
        clock.Advance(TimeSpan.FromTicks(1));
        await delay;
    }
}
