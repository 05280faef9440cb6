using Wayleave.Core;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Simulation;

public class ThreadedActorTests
{
    private static readonly Action s_nothing = () => { };

    [Fact]
    public void Code_on_threads_is_explored_as_an_iterator_is()
    {
        HashSet<string> orders = [];
        Exploration exploration = Explorer.Exhaustive(_ =>
        {
            List<string> order = [];
            Actor Writer(string name) => Actor.OnThread(name, () =>
            {
                order.Add(name + 1);
                Interleave.Point("between");
                order.Add(name + 2);
            });
            return new Scenario(
                [Writer("a"), Writer("b")], s_nothing, AtEnd: () => orders.Add(string.Join(' ', order)));
        });
        Assert.Equal(6, exploration.Runs);
        Assert.Equal(6, orders.Count);
    }

    [Fact]
    public void A_race_on_threads_is_found_and_replays()
    {
        InterleavingException found =
            Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => LostUpdate()));
        InterleavingException again =
            Assert.Throws<InterleavingException>(() => Explorer.Replay(_ => LostUpdate(), found.Trail));
        Assert.Equal(found.Message, again.Message);
    }

    [Fact]
    public void The_threads_of_a_dropped_run_unwind_and_end()
    {
        // The first run fails while b is parked in the middle: its finally blocks run, and nobody is left.
        List<Thread> threads = [];
        bool unwound = false;
        Assert.Throws<InterleavingException>(() => Explorer.Replay(
            _ => new Scenario(
                [
                    Actor.OnThread("b", () =>
                    {
                        threads.Add(Thread.CurrentThread);
                        try
                        {
                            while (true)
                            {
                                Interleave.Point("parked for ever");
                            }
                        }
                        finally
                        {
                            unwound = true;
                            Interleave.Point("even here");
                        }
                    }),
                    Actor.OnThread("a", () => throw new InvalidOperationException("the failure")),
                ],
                s_nothing),
            "0.1"));
        Assert.True(unwound);
        Assert.All(threads, t => Assert.False(t.IsAlive));
    }

    [Fact]
    public void A_thread_that_was_never_chosen_is_never_started()
    {
        bool started = false;
        using (Actor.OnThread("a", () => started = true))
        {
        }

        Assert.False(started);
    }

    [Fact]
    public void A_thread_does_not_outlive_a_run_that_ends_well()
    {
        List<Thread> threads = [];
        Explorer.Exhaustive(
            _ => new Scenario([Actor.OnThread("a", () => threads.Add(Thread.CurrentThread))], s_nothing));
        Assert.All(threads, t => Assert.False(t.IsAlive));
    }

    [Fact]
    public void The_host_lock_is_waited_for_and_not_blocked_on()
    {
        // Each holds the host lock across a point: a scheduler that chose the other then would never come back.
        int inside = 0;
        Exploration exploration = Explorer.Exhaustive(_ =>
        {
            HostContext host = new(new VirtualClock());
            void Use()
            {
                using (host.Enter())
                {
                    Assert.Equal(1, ++inside);
                    Interleave.Point("holds the lock");
                    inside--;
                }
            }

            return new Scenario([Actor.OnThread("a", Use), Actor.OnThread("b", Use)], s_nothing);
        });
        Assert.True(exploration.Runs >= 2, $"{exploration}");
    }

    [Fact]
    public void Points_do_nothing_on_a_thread_that_no_actor_owns()
    {
        Interleave.Point("here");
        Interleave.Wait("here", () => false);
    }

    private static Scenario LostUpdate()
    {
        int value = 0;
        void Add()
        {
            int read = value;
            Interleave.Point("between read and write");
            value = read + 1;
        }

        return new Scenario(
            [Actor.OnThread("a", Add), Actor.OnThread("b", Add)],
            s_nothing,
            AtEnd: () =>
            {
                if (value != 2)
                {
                    throw new InvalidOperationException("an update was lost");
                }
            });
    }
}
