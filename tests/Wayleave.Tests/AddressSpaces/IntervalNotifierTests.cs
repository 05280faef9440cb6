using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.AddressSpaces;

public sealed class IntervalNotifierTests
{
    private static readonly AddressRange s_all = SpaceFixture.Pages(0x10000, 16);
    private static readonly AddressRange s_low = SpaceFixture.Pages(0x10000, 4);
    private static readonly AddressRange s_high = SpaceFixture.Pages(0x18000, 4);

    [Fact]
    public void MM_01_Without_an_event_nothing_is_read_again()
    {
        using SpaceFixture f = new();
        IntervalNotifier notifier = Subscribe(f, s_all, new Recorder());

        ulong sequence = notifier.BeginRead(out bool mustWait);

        Assert.False(mustWait);
        Assert.False(notifier.CheckRetry(sequence));
        Assert.False(notifier.ReadRetry(sequence));
    }

    [Fact]
    public void MM_02_What_was_read_before_an_invalidation_is_read_again()
    {
        using SpaceFixture f = new();
        IntervalNotifier notifier = Subscribe(f, s_all, new Recorder());
        ulong sequence = notifier.BeginRead(out _);

        InvalidationRound round = Start(f, s_low);
        Assert.True(notifier.ReadRetry(sequence));
        round.End();

        Assert.True(notifier.ReadRetry(sequence));
        Assert.True(notifier.CheckRetry(sequence));
        Assert.Equal(0UL, f.Space.NotifierSequence % 2);
    }

    [Fact]
    public void MM_03_A_read_during_an_invalidation_of_its_range_waits_and_one_of_another_range_does_not()
    {
        using SpaceFixture f = new();
        IntervalNotifier low = Subscribe(f, s_low, new Recorder());
        IntervalNotifier high = Subscribe(f, s_high, new Recorder());
        InvalidationRound round = Start(f, s_low);

        ulong sequence = low.BeginRead(out bool lowWaits);
        high.BeginRead(out bool highWaits);

        Assert.True(lowWaits);
        Assert.False(highWaits);
        Assert.False(low.IsOver(sequence));
        round.End();
        Assert.True(low.IsOver(sequence));
        Assert.False(low.ReadRetry(sequence)); // nothing has happened since: what is read now is fresh
    }

    [Fact]
    public void MM_04_A_callback_that_does_not_set_the_sequence_is_a_violation_and_would_pass_stale_data_for_fresh()
    {
        using SpaceFixture f = new();
        IntervalNotifier notifier = Subscribe(f, s_all, new Recorder { SetsSequence = false });
        ulong sequence = notifier.BeginRead(out _);

        Start(f, s_low).End();

        f.ExpectViolation(ViolationKind.Notifier);
        Assert.False(notifier.ReadRetry(sequence));
    }

    [Fact]
    public void MM_05_A_refusal_where_nobody_may_wait_is_EAGAIN_and_has_ended_the_round()
    {
        using SpaceFixture f = new();
        Recorder polite = new();
        Recorder stubborn = new() { Answer = InvalidateAnswer.Refused };
        IntervalNotifier notifier = Subscribe(f, s_low, polite);
        Subscribe(f, SpaceFixture.Pages(s_low.Start + SpaceFixture.Page, 3), stubborn);
        Recorder last = new();
        Subscribe(f, SpaceFixture.Pages(s_low.Start + (2 * SpaceFixture.Page), 2), last);

        InvalidationRound round = Start(f, s_low, isBlockable: false);

        Assert.Equal((InvalidationState.Refused, Errno.EAGAIN), (round.State, round.Errno));
        Assert.Equal(0UL, f.Space.NotifierSequence % 2);
        notifier.BeginRead(out bool mustWait);
        Assert.False(mustWait);
        Assert.Empty(last.Events);
        f.ExpectNoViolation();

        round.End();
        f.ExpectViolation(ViolationKind.Notifier);
    }

    [Fact]
    public void MM_06_A_refusal_of_a_range_that_may_be_waited_for_is_a_violation_and_changes_nothing()
    {
        using SpaceFixture f = new();
        Subscribe(f, s_low, new Recorder { Answer = InvalidateAnswer.Refused });
        Recorder next = new();
        Subscribe(f, s_all, next);

        InvalidationRound round = Start(f, s_all);

        Assert.Equal(InvalidationState.Started, round.State);
        Assert.Single(next.Events);
        f.ExpectViolation(ViolationKind.Notifier);
        round.End();
    }

    [Fact]
    public void MM_07_A_subscription_made_during_an_invalidation_reads_when_that_has_ended()
    {
        using SpaceFixture f = new();
        Recorder old = new();
        Subscribe(f, s_low, old);
        InvalidationRound round = Start(f, s_low);

        Recorder young = new();
        IntervalNotifier notifier = Subscribe(f, s_low, young);

        ulong sequence = notifier.BeginRead(out bool mustWait);
        Assert.True(mustWait);
        Assert.Equal(1, f.Space.SubscriptionCount);
        round.End();
        Assert.True(notifier.IsOver(sequence));
        Assert.Empty(young.Events);
        Assert.Equal(2, f.Space.SubscriptionCount);
        Start(f, s_low).End();
        Assert.Single(young.Events);
    }

    [Fact]
    public void MM_07_During_an_invalidation_that_met_nobody_the_subscription_counts_at_once_and_reads_later()
    {
        using SpaceFixture f = new();
        InvalidationRound round = Start(f, s_low);
        Assert.Equal(0UL, f.Space.NotifierSequence % 2);

        IntervalNotifier notifier = Subscribe(f, s_low, new Recorder());

        Assert.Equal((1UL, 1), (f.Space.NotifierSequence % 2, f.Space.SubscriptionCount));
        ulong sequence = notifier.BeginRead(out bool mustWait);
        Assert.True(mustWait);
        round.End();
        Assert.True(notifier.IsOver(sequence));
    }

    [Fact]
    public void MM_08_A_range_of_no_length_or_one_that_wraps_is_EOVERFLOW()
    {
        using SpaceFixture f = new();

        Assert.Equal(Errno.EOVERFLOW, f.Space.Subscribe(new AddressRange(0x1000, 0), new Recorder(), out _));
        Assert.Equal(
            Errno.EOVERFLOW, f.Space.Subscribe(new AddressRange(ulong.MaxValue - 4095, 8192), new Recorder(), out _));
        Assert.Equal(Errno.Success, f.Space.Subscribe(AddressRange.All, new Recorder(), out _));
    }

    [Fact]
    public void A_subscription_to_a_process_that_has_ended_is_EINVAL()
    {
        using SpaceFixture f = new();
        f.Done(f.Space.Exit());

        Assert.Equal(Errno.EINVAL, f.Space.Subscribe(s_all, new Recorder(), out _));
    }

    [Fact]
    public void MM_09_A_removal_during_an_invalidation_ends_with_it_and_no_callback_comes_afterwards()
    {
        using SpaceFixture f = new();
        Recorder mirror = new();
        IntervalNotifier notifier = Subscribe(f, s_low, mirror);
        InvalidationRound round = Start(f, s_low);

        NotifierRemoval removal = notifier.Remove();

        Assert.False(removal.IsCompleted);
        round.End();
        Assert.True(removal.IsCompleted);
        Start(f, s_low).End();
        Assert.Single(mirror.Events);
    }

    [Fact]
    public void MM_09_A_removal_from_a_callback_is_a_violation_and_removes_nothing()
    {
        using SpaceFixture f = new();
        Recorder mirror = new();
        IntervalNotifier notifier = Subscribe(f, s_low, mirror);
        NotifierRemoval? removal = null;
        mirror.Called = () => removal = notifier.Remove();

        Start(f, s_low).End();

        Assert.Equal((true, Errno.EDEADLK), (removal!.IsCompleted, removal.Errno));
        f.ExpectViolation(ViolationKind.Notifier);
        mirror.Called = null;
        Start(f, s_low).End();
        Assert.Equal(2, mirror.Events.Count);
    }

    [Fact]
    public void A_removal_of_what_was_not_inserted_yet_needs_no_wait()
    {
        using SpaceFixture f = new();
        Subscribe(f, s_low, new Recorder());
        InvalidationRound round = Start(f, s_low);
        IntervalNotifier young = Subscribe(f, s_low, new Recorder());

        Assert.True(young.Remove().IsCompleted);
        round.End();
        Assert.Equal(1, f.Space.SubscriptionCount);
    }

    [Fact]
    public void MM_10_Every_first_pass_comes_before_any_second_pass()
    {
        using SpaceFixture f = new();
        List<string> order = [];
        foreach (string name in (string[])["a", "b", "c"])
        {
            Subscribe(f, s_all, new TwoPasses(name, order));
        }

        InvalidationRound round = Start(f, s_all);

        Assert.Equal(["a starts", "b starts", "c starts", "a ends", "b ends", "c ends"], order);
        Assert.Equal(InvalidationState.Started, round.State);
        round.End();
        f.ExpectNoViolation();
    }

    [Fact]
    public void A_second_pass_of_a_mirror_that_has_none_is_a_violation()
    {
        using SpaceFixture f = new();
        Subscribe(f, s_low, new Recorder { Answer = InvalidateAnswer.FinishLater });

        Start(f, s_low).End();

        f.ExpectViolation(ViolationKind.Notifier);
    }

    [Fact]
    public void Rounds_that_overlap_in_time_keep_the_sequence_odd_until_the_last_has_ended()
    {
        using SpaceFixture f = new();
        IntervalNotifier notifier = Subscribe(f, s_all, new Recorder());
        InvalidationRound one = Start(f, s_low);
        InvalidationRound two = Start(f, s_high);

        one.End();
        notifier.BeginRead(out bool mustWait);
        Assert.True(mustWait);
        two.End();
        notifier.BeginRead(out mustWait);
        Assert.False(mustWait);
    }

    [Fact]
    public void A_mirror_that_waits_for_a_drain_holds_up_the_next_one_and_breaks_no_rule()
    {
        using SpaceFixture f = new();
        MirrorDrain drain = new(f.Host);
        Subscribe(f, s_low, new Recorder { Answer = InvalidateAnswer.WaitFor(drain) });
        Recorder next = new();
        Subscribe(f, s_low, next);
        InvalidationRound round = Start(f, s_low);

        Assert.Equal(InvalidationState.Waiting, round.State);
        Assert.Empty(next.Events);
        round.Advance();
        Assert.Empty(next.Events);
        drain.Complete();
        Proceed(round);

        Assert.Equal(InvalidationState.Started, round.State);
        Assert.Single(next.Events);
        f.ExpectNoViolation();
    }

    [Fact]
    public void FENCE_62_A_mirror_that_is_no_graphics_drivers_and_waits_for_a_fence_is_reported()
    {
        using SpaceFixture f = new();
        Timeline ring = new(f.Host, "ring");
        Fence job = ring.CreateFence();
        Subscribe(f, s_low, new Recorder { Answer = InvalidateAnswer.WaitFor(job) });

        InvalidationRound round = Start(f, s_low);

        f.ExpectViolation(ViolationKind.FenceWaitPolicy);
        job.Signal();
        Proceed(round);
        Assert.Equal(InvalidationState.Started, round.State);
    }

    [Fact]
    public void FENCE_60_An_unmap_whose_mirror_waits_for_who_needs_the_lock_is_refused_and_unmaps_nothing()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 7);
        Activity completion = new(f.Host, ActivityKind.Engine, "A completion");
        Timeline ringA = new(f.Host, "A's ring", completion);
        Timeline ringB = new(f.Host, "B's ring");
        Fence jobA = ringA.CreateFence();
        Fence jobB = ringB.CreateFence();
        Assert.Equal(Errno.Success, jobB.TryRunAfter([jobA], out _));
        Recorder b = new("B") { Answer = InvalidateAnswer.WaitFor(jobB) };
        Assert.Equal(Errno.Success, f.Space.Subscribe(range, b, out _, mayWaitForFences: true));

        ChangeOperation unmap = f.Space.Unmap(range);
        unmap.Step(); // it holds the lock
        AccessOperation touch = f.Space.Read(range.Start + SpaceFixture.Page, new byte[1], completion);
        touch.Step();
        Assert.False(touch.IsReady); // A's completion needs the address-space lock
        f.Run(unmap);

        Assert.Equal(Errno.EDEADLK, unmap.Errno);
        Assert.Contains("notifier B waits for fence B's ring", unmap.Cycle!.ToString(), StringComparison.Ordinal);
        Assert.Contains("address-space lock of process", unmap.Cycle.ToString(), StringComparison.Ordinal);
        f.ExpectFilled(range, 7);
        f.Run(touch);
        Assert.Equal(Errno.EFAULT, touch.Errno);
    }

    [Fact]
    public void FENCE_60_With_a_mirror_that_can_fault_the_same_unmap_waits_for_no_fence()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 7);
        SimulatedMirror b = new(f.Space, range, "B");
        Assert.Equal(Errno.Success, b.TryRead(range.Start, new byte[1]));

        f.Done(f.Space.Unmap(range));

        Assert.Equal(0, b.MappedCount);
        Assert.Equal(Errno.EFAULT, b.TryRead(range.Start, new byte[1]));
        f.ExpectNoViolation();
    }

    private static IntervalNotifier Subscribe(in SpaceFixture f, AddressRange range, IMirror mirror)
    {
        Assert.Equal(Errno.Success, f.Space.Subscribe(range, mirror, out IntervalNotifier? notifier));
        return notifier!;
    }

    private static InvalidationRound Start(in SpaceFixture f, AddressRange range, bool isBlockable = true)
    {
        InvalidationRound round = f.Space.StartInvalidation(
            new Activity(f.Host, ActivityKind.Thread, "test"),
            new InvalidateRange(range, InvalidateEvent.Unmap, isBlockable));
        Proceed(round);
        return round;
    }

    private static void Proceed(InvalidationRound round)
    {
        while (round.CanAdvance)
        {
            round.Advance();
        }
    }

    private sealed class Recorder(string name = "mirror") : IMirror
    {
        public string Name => name;

        public List<InvalidateEvent> Events { get; } = [];

        public bool SetsSequence { get; init; } = true;

        public InvalidateAnswer Answer { get; init; } = InvalidateAnswer.Done;

        public Action? Called { get; set; }

        public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
        {
            Events.Add(range.Event);
            Called?.Invoke();
            if (SetsSequence)
            {
                notifier.SetSequence(sequence);
            }

            return Answer;
        }
    }

    private sealed class TwoPasses(string name, List<string> order) : ITwoPassMirror
    {
        public string Name => name;

        public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
        {
            notifier.SetSequence(sequence);
            order.Add($"{name} starts");
            return InvalidateAnswer.FinishLater;
        }

        public InvalidateAnswer FinishInvalidate(IntervalNotifier notifier, in InvalidateRange range)
        {
            order.Add($"{name} ends");
            return InvalidateAnswer.Done;
        }
    }
}
