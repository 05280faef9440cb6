using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Simulation;

public class SimulatedLinkTests
{
    private const string A = "a";
    private const string B = "b";

    private static readonly TimeSpan s_millisecond = TimeSpan.FromMilliseconds(1);

    [Fact]
    public void By_default_everything_arrives_at_once_in_order_and_unchanged()
    {
        SimulatedLink<string> link = new(Choices.Exhaustive());
        link.SendSegments(TimeSpan.Zero, A, B, [1, 2, 3, 4, 5], segmentBytes: 2);
        Assert.Equal(["12", "34", "5"], Receive(link, TimeSpan.Zero));
        Assert.Equal(new SimulatedLinkStats(Sent: 3, Delivered: 3, 0, 0, 0, 0, 0), link.Stats);
        Assert.Null(link.NextDeadline);
    }

    [Fact]
    public void A_datagram_goes_only_to_its_destination_and_names_its_source()
    {
        SimulatedLink<string> link = new(Choices.Exhaustive());
        link.Send(TimeSpan.Zero, A, B, [1]);
        Assert.False(link.PollReceive(TimeSpan.Zero, A, out _, out _));
        Assert.True(link.PollReceive(TimeSpan.Zero, B, out string source, out _));
        Assert.Equal(A, source);
    }

    [Fact]
    public void A_datagram_is_not_there_before_its_time()
    {
        SimulatedLink<string> link = new(Choices.Exhaustive(), new SimulatedLinkOptions { Delay = s_millisecond });
        link.Send(s_millisecond, A, B, [1]);
        Assert.Equal(2 * s_millisecond, link.NextDeadline);
        Assert.Empty(Receive(link, (2 * s_millisecond) - TimeSpan.FromTicks(1)));
        Assert.Equal(["1"], Receive(link, 2 * s_millisecond));
    }

    [Fact]
    public void Jitter_delays_but_does_not_reorder()
    {
        SimulatedLink<string> link = new(Choices.Seeded(3), new SimulatedLinkOptions { Jitter = s_millisecond });
        for (byte i = 1; i <= 9; i++)
        {
            link.Send(TimeSpan.Zero, A, B, [i]);
        }

        Assert.InRange(link.NextDeadline!.Value, TimeSpan.FromTicks(1), s_millisecond);
        Assert.Equal(["1", "2", "3", "4", "5", "6", "7", "8", "9"], Receive(link, s_millisecond));
    }

    [Fact]
    public void A_search_with_one_fault_sees_each_datagram_lost_once_and_all_arrive_once()
    {
        SimulatedLinkOptions options = new() { LossPerMille = 1, FaultLimit = 1 };
        Assert.Equal(["1 2 3", "1 2", "1 3", "2 3"], Outcomes(options));
    }

    [Fact]
    public void A_search_with_one_fault_sees_each_datagram_twice()
    {
        SimulatedLinkOptions options = new() { DuplicationPerMille = 1, FaultLimit = 1 };
        Assert.Equal(["1 2 3", "1 2 3 3", "1 2 2 3", "1 1 2 3"], Outcomes(options));
    }

    [Fact]
    public void A_search_with_one_fault_sees_each_datagram_overtaken()
    {
        SimulatedLinkOptions options = new() { ReorderingPerMille = 1, FaultLimit = 1 };
        Assert.Equal(["1 2 3", "1 2 3", "1 3 2", "2 3 1"], Outcomes(options));
    }

    [Fact]
    public void A_damaged_datagram_differs_in_one_bit_and_the_sender_keeps_its_own()
    {
        byte[] sent = new byte[64];
        SimulatedLink<string> link = new(Choices.Seeded(1), new SimulatedLinkOptions { CorruptionPerMille = 1000 });
        link.Send(TimeSpan.Zero, A, B, sent);
        Assert.True(link.PollReceive(TimeSpan.Zero, B, out _, out ReadOnlyMemory<byte> got));
        Assert.Equal(1, got.ToArray().Sum(b => byte.PopCount(b)));
        Assert.All(sent, b => Assert.Equal(0, b));
    }

    [Fact]
    public void A_healed_link_loses_nothing()
    {
        SimulatedLink<string> link = new(Choices.Exhaustive(), new SimulatedLinkOptions { LossPerMille = 1000 });
        link.Send(TimeSpan.Zero, A, B, [1]);
        link.Heal();
        link.Send(TimeSpan.Zero, A, B, [2]);
        Assert.Equal(["2"], Receive(link, TimeSpan.Zero));
    }

    [Fact]
    public void A_full_queue_drops_the_next_datagram()
    {
        SimulatedLink<string> link = new(Choices.Exhaustive(), new SimulatedLinkOptions { QueueDatagrams = 2 });
        link.SendSegments(TimeSpan.Zero, A, B, [1, 2, 3], segmentBytes: 1);
        Assert.Equal(["1", "2"], Receive(link, TimeSpan.Zero));
        Assert.Equal(1, link.Stats.Overflowed);
    }

    [Fact]
    public void A_seed_makes_the_same_run_again()
    {
        string[] Run()
        {
            SimulatedLink<string> link = new(Choices.Seeded(99), new SimulatedLinkOptions
            {
                LossPerMille = 100,
                DuplicationPerMille = 100,
                ReorderingPerMille = 100,
                CorruptionPerMille = 100,
                Delay = s_millisecond,
                Jitter = s_millisecond,
            });
            for (int i = 0; i < 1000; i++)
            {
                link.Send(i * s_millisecond, A, B, [(byte)i]);
            }

            return [.. Receive(link, TimeSpan.MaxValue), link.Stats.ToString()];
        }

        Assert.Equal(Run(), Run());
    }

    [Fact]
    public void Wrong_options_are_named_all_at_once()
    {
        SimulatedLinkOptions wrong = new() { LossPerMille = 1001, QueueDatagrams = 0, Delay = -s_millisecond };
        ArgumentException e = Assert.Throws<ArgumentException>(wrong.Validate);
        Assert.Contains("LossPerMille is 1001", e.Message, StringComparison.Ordinal);
        Assert.Contains("QueueDatagrams is 0", e.Message, StringComparison.Ordinal);
        Assert.Contains("Delay is -00:00:00.0010000", e.Message, StringComparison.Ordinal);
    }

    // What arrives of the datagrams 1, 2 and 3, in each run of an exhaustive search.
    private static List<string> Outcomes(SimulatedLinkOptions options)
    {
        List<string> outcomes = [];
        Choices choices = Choices.Exhaustive();
        do
        {
            SimulatedLink<string> link = new(choices, options);
            link.SendSegments(TimeSpan.Zero, A, B, [1, 2, 3], segmentBytes: 1);
            outcomes.Add(string.Join(' ', Receive(link, TimeSpan.FromSeconds(1))));
        }
        while (choices.MoveNext());
        return outcomes;
    }

    private static List<string> Receive(SimulatedLink<string> link, TimeSpan now)
    {
        List<string> got = [];
        while (link.PollReceive(now, B, out _, out ReadOnlyMemory<byte> datagram))
        {
            got.Add(string.Concat(datagram.ToArray()));
        }

        return got;
    }
}
