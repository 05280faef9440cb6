using Wayleave.Devices.Rdma;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// The engine of a port stays away from an application that polls, longer and longer, and comes back when that one is
/// about to wait.
/// </summary>
public class StandBackTests
{
    private const long Least = 10, Most = 80, Many = StandBack.PollsWanted;

    [Fact]
    public void Away_twice_as_long_each_time_up_to_the_longest()
    {
        StandBack standBack = new(Least, Most);
        Assert.Equal([10, 20, 40, 80, 80], Enumerable.Range(0, 5).Select(_ => BeAway(standBack, Many)));
    }

    [Fact]
    public void Who_wakes_it_finds_it_driving_and_the_next_time_is_the_shortest()
    {
        StandBack standBack = new(Least, Most);
        BeAway(standBack, Many);
        Assert.False(standBack.MustDrive(isPolled: true));
        Assert.Equal(2 * Least, standBack.Begin(Many));
        standBack.End(isWoken: true);
        Assert.True(standBack.MustDrive(isPolled: true));
        Assert.False(standBack.MustDrive(isPolled: true));
        Assert.Equal(Least, BeAway(standBack, Many));
    }

    [Fact]
    public void Who_polls_now_and_then_is_looked_at_after_the_shortest_time()
    {
        StandBack standBack = new(Least, Most);
        BeAway(standBack, Many);
        Assert.Equal([10, 10, 20], new[] { 1, Many - 1, Many }.Select(polls => BeAway(standBack, polls)));
    }

    [Fact]
    public void Starts_over_when_nobody_polled()
    {
        StandBack standBack = new(Least, Most);
        BeAway(standBack, Many);
        BeAway(standBack, Many);
        Assert.True(standBack.MustDrive(isPolled: false));
        Assert.Equal(Least, BeAway(standBack, Many));
    }

    [Fact]
    public void Drives_once_when_the_application_is_about_to_wait_and_starts_over()
    {
        StandBack standBack = new(Least, Most);
        BeAway(standBack, Many);
        Assert.False(standBack.MustWake()); // the engine is not away: it looks before it goes
        Assert.True(standBack.MustDrive(isPolled: true));
        Assert.False(standBack.MustDrive(isPolled: true));
        Assert.Equal(Least, BeAway(standBack, Many));
    }

    [Fact]
    public void An_application_that_is_about_to_wait_never_finds_the_engine_away_for_long()
    {
        HashSet<string> seen = [];
        Exploration exploration = Explorer.Exhaustive(_ => Race(looksAgain: true, seen));
        Assert.True(exploration.Runs > 3, $"only {exploration.Runs} orders");
        Assert.Equal(["away, and woken", "comes back soon", "drives"], seen.Order());
    }

    [Fact]
    public void An_engine_that_does_not_look_again_is_caught() =>
        Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => Race(looksAgain: false, [])));

    private static long BeAway(StandBack standBack, long polls)
    {
        Assert.False(standBack.MustDrive(isPolled: true));
        long ticks = standBack.Begin(polls);
        standBack.End(isWoken: false);
        return ticks;
    }

    private static Scenario Race(bool looksAgain, HashSet<string> seen)
    {
        StandBack standBack = new(Least, Most, looksAgain);
        BeAway(standBack, Many); // the next time is a long one
        long away = 0;
        bool isWoken = false;

        void Engine()
        {
            if (!standBack.MustDrive(isPolled: true))
            {
                away = standBack.Begin(Many);
            }
        }

        return new Scenario(
            [Actor.OnThread("engine", Engine), Actor.OnThread("application", () => isWoken = standBack.MustWake())],
            () => { },
            AtEnd: () =>
            {
                seen.Add(away == 0 ? "drives" : away == Least ? "comes back soon" : "away, and woken");
                if (away > Least && !isWoken)
                {
                    throw new InvalidOperationException($"away for {away} although somebody waits");
                }
            });
    }
}
