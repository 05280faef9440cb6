using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Simulation;

/// <summary>
/// What an exploration reports: how it ended, why a run failed, and how short the failing run was made.
/// </summary>
public class ExplorationTests
{
    private static readonly Action s_nothing = () => { };

    [Fact]
    public void A_search_says_whether_it_made_every_order()
    {
        ExplorationReport all = Explorer.Explore(_ => Two(s_nothing));
        Assert.Equal((ExplorationEnd.EveryOrder, 6L, null), (all.End, all.Counts.Runs, all.Failure));
        ExplorationReport some = Explorer.Explore(_ => Two(s_nothing), new ExplorationOptions { RunsMax = 5 });
        Assert.Equal((ExplorationEnd.RunsMax, 5L), (some.End, some.Counts.Runs));
        ExplorationReport exactly = Explorer.Explore(_ => Two(s_nothing), new ExplorationOptions { RunsMax = 6 });
        Assert.Equal(ExplorationEnd.EveryOrder, exactly.End);
    }

    [Fact]
    public void A_canceled_search_reports_what_was_explored_until_then()
    {
        using CancellationTokenSource source = new();
        ExplorationReport report = Explorer.Explore(_ => Two(s_nothing), new ExplorationOptions
        {
            Cancellation = source.Token,
            Progress = counts =>
            {
                if (counts.Runs == 3)
                {
                    source.Cancel();
                }
            },
        });
        Assert.Equal((ExplorationEnd.Canceled, 3L), (report.End, report.Counts.Runs));
    }

    [Fact]
    public void A_run_without_end_is_canceled_within()
    {
        using CancellationTokenSource source = new();
        int steps = 0;
        IEnumerable<Step> Spin()
        {
            while (true)
            {
                yield return "again";
                if (++steps == 1000)
                {
                    source.Cancel();
                }
            }
        }

        ExplorationReport report = Explorer.Explore(
            _ => new Scenario([new Actor("spinner", Spin())], s_nothing),
            new ExplorationOptions { Cancellation = source.Token, StepsMax = int.MaxValue });
        Assert.Equal((ExplorationEnd.Canceled, 0L), (report.End, report.Counts.Runs));
        Assert.InRange(steps, 1000, 2000);
    }

    [Fact]
    public void An_actor_that_throws_is_named_with_its_step_and_the_type()
    {
        FailedRun failure = Fail(() => throw new ArgumentException("not mine"));
        Assert.Equal(FailureKind.Actor, failure.Kind);
        Assert.Equal("a threw in 'work': ArgumentException: not mine", failure.Problem);
        Assert.Equal(new RunStep("a", "work"), failure.Steps[^1]);
        Assert.IsType<ArgumentException>(failure.Cause);
    }

    [Fact]
    public void A_violation_that_a_step_finds_is_told_in_its_own_words() =>
        Assert.Equal("it is gone", Fail(() => throw new ViolationException("it is gone")).Problem);

    [Fact]
    public void A_condition_that_throws_names_the_step_it_belongs_to()
    {
        static IEnumerable<Step> Wait()
        {
            yield return new("wait", () => throw new ArgumentException("no"));
        }

        FailedRun failure = Failure(_ => new Scenario([new Actor("a", Wait())], s_nothing));
        Assert.Equal("a, asked whether 'wait' can run: ArgumentException: no", failure.Problem);
    }

    [Fact]
    public void A_builder_and_a_broken_check_are_reported_as_such()
    {
        FailedRun builder = Failure(_ => throw new ArgumentException("no"));
        Assert.Equal(FailureKind.Builder, builder.Kind);
        Assert.Equal("the scenario could not be made: ArgumentException: no", builder.Problem);
        FailedRun check = Failure(_ => new Scenario(Two(s_nothing).Actors, () => throw new ArgumentException("no")));
        Assert.Equal((FailureKind.Invariant, "ArgumentException: no"), (check.Kind, check.Problem));
        FailedRun end = Failure(_ => Two(s_nothing) with { AtEnd = () => throw new ViolationException("no") });
        Assert.Equal((FailureKind.End, "no"), (end.Kind, end.Problem));
    }

    [Fact]
    public void An_actor_that_throws_when_a_run_is_cut_is_reported()
    {
        static IEnumerable<Step> Guarded()
        {
            bool isDone = false;
            try
            {
                yield return "one";
                yield return "two";
                isDone = true;
            }
            finally
            {
                Throw(isDone ? null : "in finally");
            }
        }

        FailedRun cut = Failure(_ => new Scenario(
            [new Actor("a", Guarded()), new Actor("b", Steps(3, s_nothing))], s_nothing, Fingerprint: () => 0));
        Assert.Equal("a threw when the run was over: ArgumentException: in finally", cut.Problem);
    }

    [Fact]
    public void What_an_actor_throws_at_the_end_does_not_hide_what_went_wrong_first()
    {
        static IEnumerable<Step> Guarded()
        {
            try
            {
                yield return new("never", () => false);
            }
            finally
            {
                Throw("in finally");
            }
        }

        FailedRun failure = Failure(_ => new Scenario([new Actor("a", Guarded())], s_nothing));
        Assert.Equal((FailureKind.Deadlock, "deadlock: a waits at 'never'"), (failure.Kind, failure.Problem));
    }

    [Fact]
    public void A_failing_run_is_made_as_short_as_it_can_be()
    {
        // Needs one step of a after two of b; c and d only stand around.
        static Scenario Build()
        {
            int b = 0;
            return new Scenario(
                [
                    new Actor("d", Steps(3, s_nothing)), new Actor("c", Steps(3, s_nothing)),
                    new Actor("b", Steps(4, () => b++)),
                    new Actor("a", Steps(4, () => Require(b < 2))),
                ],
                s_nothing);
        }

        ExplorationOptions options = new() { Orders = OrderSource.Random, RunsMax = 100 };
        ExplorationReport report = Explorer.Explore(_ => Build(), options);
        Assert.Equal(["b", "b", "a"], report.Failure!.Steps.Select(s => s.Actor));
        Assert.True(report.Failure.IsReproducible);
        ExplorationReport plain = Explorer.Explore(_ => Build(), options with { ShrinkRunsMax = 0 });
        Assert.True(plain.Failure!.Steps.Count > 3, "the first failing run was short by itself");
    }

    [Fact]
    public void Answers_within_a_step_are_shrunk_too()
    {
        static Scenario Build(Choices choices)
        {
            int faults = 0;
            return new Scenario(
                [
                    new Actor("a", Steps(6, () =>
                    {
                        faults += choices.Chance(500) ? 1 : 0;
                        choices.Next(100);
                    })),
                ],
                () => Require(faults < 2));
        }

        FailedRun failure = Explorer.Explore(
            Build, new ExplorationOptions { Orders = OrderSource.Random, RunsMax = 1000, Seed = 3 }).Failure!;
        Assert.Equal(2, failure.Steps.Count);
        Assert.Equal("1.0.1", failure.Trail);
    }

    [Fact]
    public void A_scenario_that_depends_on_more_than_its_choices_is_said_not_to_fail_again()
    {
        int runs = 0;
        FailedRun failure = Failure(_ =>
        {
            bool isThird = ++runs == 3;
            return Two(s_nothing) with { Invariant = () => Require(!isThird) };
        });
        Assert.False(failure.IsReproducible);
        Assert.Equal(3, failure.Run);
        Assert.Contains("did not fail again", failure.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void The_audit_finds_what_a_fingerprint_leaves_out()
    {
        static Scenario Build(bool leavesOut)
        {
            int shown = 0, hidden = 0;
            return new Scenario(
                [
                    new Actor("a", Steps(2, () => hidden++)),
                    new Actor("b", Steps(2, () => hidden *= 2)),
                    new Actor("c", Steps(1, () => shown = hidden)),
                ],
                s_nothing,
                leavesOut ? () => (ulong)shown : () => (ulong)((shown * 100) + hidden));
        }

        ExplorationOptions audit = new() { AuditsFingerprint = true };
        FailedRun failure = Explorer.Explore(_ => Build(leavesOut: true), audit).Failure!;
        Assert.Equal(FailureKind.Fingerprint, failure.Kind);
        Assert.Contains("'step' of c led from one state to two", failure.Problem, StringComparison.Ordinal);
        Assert.Null(Explorer.Explore(_ => Build(leavesOut: false), audit).Failure);
    }

    [Fact]
    public void Priorities_find_a_deep_fault_in_a_long_run_that_random_orders_hardly_meet()
    {
        // a must come to its last step while b has not begun: one order in a million by random steps.
        static Scenario Build()
        {
            int a = 0, b = 0;
            return new Scenario(
                [new Actor("a", Steps(40, () => a++)), new Actor("b", Steps(40, () => b++))],
                () => Require(a < 40 || b > 0));
        }

        ExplorationOptions options = new() { RunsMax = 200, Orders = OrderSource.Priorities };
        Assert.Equal(ExplorationEnd.Failed, Explorer.Explore(_ => Build(), options).End);
        options = options with { Orders = OrderSource.Random };
        Assert.Equal(ExplorationEnd.RunsMax, Explorer.Explore(_ => Build(), options).End);
    }

    [Fact]
    public void Priorities_do_not_starve_others_behind_one_that_polls()
    {
        static Scenario Build()
        {
            bool isDone = false;
            IEnumerable<Step> Poll()
            {
                while (!isDone)
                {
                    yield return "look";
                }
            }

            return new Scenario(
                [new Actor("poller", Poll()), new Actor("worker", Steps(3, () => isDone = true))], s_nothing);
        }

        ExplorationOptions options = new() { RunsMax = 50, Orders = OrderSource.Priorities, StepsMax = 20_000 };
        Assert.Null(Explorer.Explore(_ => Build(), options).Failure);
    }

    [Fact]
    public void A_told_run_has_the_notes_of_its_scenario()
    {
        static Scenario Build(Choices choices)
        {
            int n = 0;
            return new Scenario(
                [new Actor("a", Steps(2, () => n++))],
                s_nothing,
                Narrate: () => choices.IsTold ? $"n is {n}" : "nobody asked");
        }

        Assert.Null(Explorer.TryReplay(Build, "0", out IReadOnlyList<RunStep> steps));
        Assert.Equal([new RunStep("a", "step", "n is 1"), new RunStep("a", "step", "n is 2")], steps);
    }

    [Fact]
    public void Options_out_of_range_are_all_named()
    {
        string message = Assert.Throws<ArgumentException>(
            () => new ExplorationOptions { RunsMax = 0, StepsMax = 0, Depth = 0 }.Validate()).Message;
        const string Expected = "RunsMax is 0, below 1; Depth is 0, below 1; StepsMax is 0, below 1";
        Assert.Contains(Expected, message, StringComparison.Ordinal);
    }

    private static Scenario Two(Action work) =>
        new([new Actor("a", Steps(2, work)), new Actor("b", Steps(2, work))], s_nothing);

    private static IEnumerable<Step> Steps(int count, Action work)
    {
        for (int i = 0; i < count; i++)
        {
            yield return "step";
            work();
        }
    }

    private static FailedRun Fail(Action work)
    {
        IEnumerable<Step> Work()
        {
            yield return "first";
            yield return "work";
            work();
        }

        return Failure(_ => new Scenario([new Actor("a", Work()), new Actor("b", Steps(2, s_nothing))], s_nothing));
    }

    private static FailedRun Failure(Func<Choices, Scenario> build) =>
        Assert.IsType<FailedRun>(Explorer.Explore(build).Failure);

    private static void Throw(string? message)
    {
        if (message is not null)
        {
            throw new ArgumentException(message);
        }
    }

    private static void Require(bool holds)
    {
        if (!holds)
        {
            throw new ViolationException("it does not hold");
        }
    }
}
