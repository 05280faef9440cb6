using Wayleave.Devices.Rdma;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// The engine of a port falls asleep while application threads drive the port and go away, in every order: it never
/// sleeps past what they have left.
/// </summary>
public class DriverSleepTests
{
    private const long Now = 1000, Most = 1_000_000;

    /// <summary>What the turns of the application leave: deadline, and whether something waits for room.</summary>
    public static TheoryData<string, (long Deadline, bool AwaitsRoom)[]> Turns => new()
    {
        { "a deadline", [(5000, false)] },
        { "work", [(0, false)] },
        { "data that waits for room", [(long.MaxValue, true)] },
        { "an earlier deadline each time", [(9000, false), (5000, false)] },
        { "room that was found again, and a deadline", [(long.MaxValue, true), (5000, false)] },
    };

    [Theory]
    [MemberData(nameof(Turns))]
    public void The_engine_never_sleeps_past_what_a_turn_has_left(string name, (long Deadline, bool AwaitsRoom)[] turns)
    {
        Assert.NotEmpty(name);
        HashSet<string> seen = [];
        Exploration exploration = Explorer.Exhaustive(_ => Race(new DriverSleep(), turns, seen));
        Assert.True(exploration.Runs > 3, $"only {exploration.Runs} orders");
        Assert.Contains("asleep, and woken", seen);
    }

    [Theory]
    [MemberData(nameof(Turns))]
    public void An_engine_that_does_not_look_again_is_caught(string name, (long Deadline, bool AwaitsRoom)[] turns)
    {
        Assert.NotEmpty(name);
        Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => Race(new DriverSleep(looksAgain: false), turns, [])));
    }

    private static Scenario Race(
        DriverSleep sleep, (long Deadline, bool AwaitsRoom)[] turns, HashSet<string> seen)
    {
        long asleepUntil = 0; // 0: it is not
        bool watchesRoom = false, isWoken = false;

        void Engine()
        {
            if (sleep.TryAnnounce(Now, Most, out long until, out bool awaitsRoom))
            {
                (asleepUntil, watchesRoom) = (until, awaitsRoom); // in poll(2)
            }
            else
            {
                sleep.End(); // and looks at the port once more before it tries again
            }
        }

        void Application()
        {
            foreach ((long deadline, bool awaitsRoom) in turns)
            {
                sleep.NoteTurn(deadline, awaitsRoom);
                Interlocked.MemoryBarrier(); // the token is given back
                isWoken |= sleep.MustWake();
            }
        }

        return new Scenario(
            [Actor.OnThread("engine", Engine), Actor.OnThread("application", Application)],
            () => { },
            AtEnd: () =>
            {
                (long deadline, bool awaitsRoom) = turns[^1];
                bool isLate = asleepUntil > deadline || (asleepUntil != 0 && awaitsRoom && !watchesRoom);
                seen.Add(asleepUntil == 0 ? "awake" : isWoken ? "asleep, and woken" : "asleep in time");
                if (isLate && !isWoken)
                {
                    throw new InvalidOperationException(
                        $"asleep until {asleepUntil}, something is due at {deadline}, room awaited: {awaitsRoom}");
                }
            });
    }
}
