using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Simulation;

public class ExplorerTests
{
    private static readonly Action s_nothing = () => { };

    [Theory]
    [InlineData(2, 2, 6)]
    [InlineData(3, 3, 20)]
    [InlineData(2, 5, 21)]
    public void Every_order_of_two_actors_is_made_once(int left, int right, int orders)
    {
        HashSet<string> seen = [];
        Exploration exploration = Explorer.Exhaustive(_ =>
        {
            List<char> order = [];
            return new Scenario(
                [new Actor("a", Write('a', left, order)), new Actor("b", Write('b', right, order))],
                s_nothing,
                AtEnd: () => Assert.True(seen.Add(string.Concat(order))));
        });
        Assert.Equal(orders, exploration.Runs);
        Assert.Equal(orders, seen.Count);
        Assert.Equal(orders * (left + right), exploration.Steps);
    }

    [Fact]
    public void A_fingerprint_cuts_equal_states_and_finds_the_same_fault()
    {
        Exploration full = Explorer.Exhaustive(_ => Counters(limit: 100, withFingerprint: false));
        Exploration pruned = Explorer.Exhaustive(_ => Counters(limit: 100, withFingerprint: true));
        Assert.True(pruned.Runs < full.Runs / 2, $"{pruned} against {full}");
        Assert.True(pruned.Pruned > 0);
        Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => Counters(limit: 8, withFingerprint: true)));
    }

    [Fact]
    public void A_lost_update_is_found_and_its_trail_replays_the_same_steps()
    {
        InterleavingException found =
            Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => LostUpdate()));
        Assert.Contains(
            $"replay with: Explorer.Replay(build, \"{found.Trail}\")", found.Message, StringComparison.Ordinal);
        InterleavingException again =
            Assert.Throws<InterleavingException>(() => Explorer.Replay(_ => LostUpdate(), found.Trail));
        Assert.Equal(found.Message, again.Message);
    }

    [Fact]
    public void Seeds_find_it_too_and_say_by_which_decisions()
    {
        InterleavingException found =
            Assert.Throws<InterleavingException>(() => Explorer.Seeded(_ => LostUpdate(), seed: 1, runs: 100));
        Assert.Throws<InterleavingException>(() => Explorer.Replay(_ => LostUpdate(), found.Trail));
    }

    [Fact]
    public void A_message_lists_the_steps_in_order()
    {
        InterleavingException found =
            Assert.Throws<InterleavingException>(() => Explorer.Replay(_ => LostUpdate(), "0.1"));
        Assert.Equal(
            """
            an update was lost
               1  a: read
               2  b: read
               3  b: write
               4  a: write
            replay with: Explorer.Replay(build, "0.1")

            """,
            found.Message);
    }

    [Fact]
    public void Actors_that_wait_for_each_other_are_a_deadlock_with_their_points()
    {
        InterleavingException found = Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => TwoLocks()));
        Assert.Contains("deadlock: a waits at 'lock y', b waits at 'lock x'", found.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_run_that_does_not_end_is_reported()
    {
        InterleavingException found = Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(
            _ => new Scenario([new Actor("spinner", Spin())], s_nothing), stepLimit: 50));
        Assert.Contains("no end after 50 steps", found.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_search_beyond_its_limit_is_given_up() =>
        Assert.Contains("more than 5 runs", Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => Counters(limit: 100, withFingerprint: false), runLimit: 5)).Message);

    [Fact]
    public void The_end_check_runs_only_when_all_have_finished()
    {
        InterleavingException found = Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => new Scenario(
            [new Actor("a", Write('a', 2, []))], s_nothing, AtEnd: () =>
                throw new InvalidOperationException("the outcome is wrong"))));
        Assert.Contains("   2  a: step 1", found.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_actor_is_disposed_when_its_run_is_cut()
    {
        int begun = 0, ended = 0;
        IEnumerable<Step> Guarded()
        {
            begun++;
            try
            {
                yield return "one";
                yield return "two";
            }
            finally
            {
                ended++;
            }
        }

        Explorer.Exhaustive(_ => new Scenario(
            [new Actor("a", Guarded()), new Actor("b", Guarded())], s_nothing, Fingerprint: () => 0));
        Assert.Equal(begun, ended);
    }

    private static IEnumerable<Step> Write(char letter, int times, List<char> order)
    {
        for (int i = 0; i < times; i++)
        {
            yield return $"step {i}";
            order.Add(letter);
        }
    }

    private static Scenario Counters(int limit, bool withFingerprint)
    {
        int sum = 0;
        IEnumerable<Step> Count()
        {
            for (int i = 0; i < 3; i++)
            {
                yield return "add";
                sum++;
            }
        }

        return new Scenario(
            [new Actor("a", Count()), new Actor("b", Count()), new Actor("c", Count())],
            () =>
            {
                if (sum > limit)
                {
                    throw new InvalidOperationException("too many");
                }
            },
            withFingerprint ? () => (ulong)sum : null);
    }

    private static Scenario LostUpdate()
    {
        int value = 0;
        IEnumerable<Step> Add()
        {
            yield return "read";
            int read = value;
            yield return "write";
            value = read + 1;
        }

        return new Scenario(
            [new Actor("a", Add()), new Actor("b", Add())],
            s_nothing,
            AtEnd: () =>
            {
                if (value != 2)
                {
                    throw new InvalidOperationException("an update was lost");
                }
            });
    }

    private static Scenario TwoLocks()
    {
        HashSet<string> held = [];
        IEnumerable<Step> Take(string first, string second)
        {
            yield return new Step("lock " + first, () => !held.Contains(first));
            held.Add(first);
            yield return new Step("lock " + second, () => !held.Contains(second));
            held.Add(second);
            yield return "unlock";
            held.Remove(first);
            held.Remove(second);
        }

        return new Scenario([new Actor("a", Take("x", "y")), new Actor("b", Take("y", "x"))], s_nothing);
    }

    private static IEnumerable<Step> Spin()
    {
        while (true)
        {
            yield return "again";
        }
    }
}
