using Wayleave.Core;
using Wayleave.Devices.Ethernet.Tcp;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>RFC 5961 and PAWS: segments of somebody who has to guess, and old ones.</summary>
public class BlindAttackTests
{
    private const string Timestamps = "mss 1000,sackOK,TS val 1000 ecr 0";

    [Fact]
    public void TCP_25_An_exact_reset_ends_the_connection_and_gives_the_chunks_back()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        d.Send("P. 1:101(100) ack 1");
        d.Send("P. 201:301(100) ack 1");
        d.TakeAll();
        d.Send("R 101:101(0)");
        Assert.Equal((TcpState.Closed, Errno.ECONNRESET), (connection.State, connection.Error));
        Assert.True(d.Events().HasFlag(TcpEvents.Closed));
        Assert.Equal(d.ChunkCount, d.FreeChunks);
        Assert.Equal(0, d.Endpoint.ConnectionCount);
        d.ExpectNothing();
    }

    [Fact]
    public void TCP_26_A_reset_elsewhere_in_the_window_is_challenged_and_an_honest_peer_answers_exactly()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        d.Send("R 500:500(0)");
        d.Expect(". 1:1(0) ack 1");
        Assert.Equal(TcpState.Established, connection.State);
        d.Send("R 1:1(0)");
        Assert.Equal(TcpState.Closed, connection.State);
    }

    [Fact]
    public void TCP_26_is_caught_when_any_reset_in_the_window_counts()
    {
        Dialog d = new(o => o with { Defences = TcpDefences.All with { ChecksResets = false } });
        TcpConnection connection = d.Establish();
        d.Send("R 500:500(0)");
        Assert.Equal(TcpState.Closed, connection.State);
    }

    [Fact]
    public void TCP_27_A_reset_outside_the_window_is_met_with_silence()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        d.Send("R 70000:70000(0)");
        d.Send("R 0:0(0)");
        d.ExpectNothing();
        Assert.Equal(TcpState.Established, connection.State);
    }

    [Fact]
    public void TCP_28_A_SYN_is_challenged_wherever_it_is()
    {
        foreach (long sequence in new long[] { 0, 1, 500, 1_000_000 })
        {
            Dialog d = new();
            TcpConnection connection = d.Establish();
            d.Send($"S {sequence}:{sequence}(0) win 10 <mss 1>");
            d.Expect(". 1:1(0) ack 1");
            d.ExpectNothing();
            Assert.Equal((TcpState.Established, 1000), (connection.State, connection.Info.SegmentBytes));
        }
    }

    [Fact]
    public void TCP_28_is_caught_when_a_SYN_resets()
    {
        Dialog d = new(o => o with { Defences = TcpDefences.All with { ChallengesSyns = false } });
        TcpConnection connection = d.Establish();
        d.Send("S 500:500(0)");
        Assert.Equal(TcpState.Closed, connection.State);
    }

    [Fact]
    public void TCP_29_An_acknowledgement_of_what_was_never_sent_is_challenged_and_its_data_dropped()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        d.Send("P. 1:101(100) ack 2");
        d.Expect(". 1:1(0) ack 1");
        Assert.Equal((0, 0), (connection.Received.UnreadBytes, connection.AcknowledgedBytes));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void TCP_30_An_acknowledgement_older_than_a_window_is_challenged_and_its_data_dropped(bool checks)
    {
        Dialog d = new(o => o with { Defences = TcpDefences.All with { ChecksAcknowledgements = checks } });
        TcpConnection connection = d.Establish(window: 1000);
        long tooOld = 0x1_0000_0001 - 66_000;
        d.Send($"P. 1:101(100) ack {tooOld} win 1000");
        Assert.Equal(checks ? 0 : 100, connection.Received.UnreadBytes); // the twin without the defence takes it
        if (checks)
        {
            d.Expect(". 1:1(0) ack 1");
        }
    }

    [Fact]
    public void TCP_31_Challenges_have_a_budget_that_nobody_can_measure()
    {
        long[] answers = [.. Enumerable.Range(0, 5).Select(i => Flood((ulong)i, limits: true))];
        Assert.All(answers, n => Assert.InRange(n, 50, 150));
        Assert.True(answers.Distinct().Count() > 1, "the budget is the same every time");
        Assert.Equal(1000, Flood(seed: 1, limits: false));

        static long Flood(ulong seed, bool limits)
        {
            Dialog d = new(
                o => o with { ChallengesPerSecond = 100, Defences = new TcpDefences { LimitsChallenges = limits } },
                seed: seed + 1);
            d.Establish();
            long answered = 0;
            for (int i = 0; i < 1000; i++)
            {
                d.Send("S 500:500(0)");
                answered += d.TakeAll().Count;
            }

            return answered;
        }
    }

    // Half open, opening, and with nobody there: each is answered by a reset that anybody can ask for.
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void TCP_31_Resets_that_wrong_acknowledgements_ask_for_have_a_budget_too(int stage)
    {
        Assert.InRange(Flood(limits: true), 50, 150);
        Assert.Equal(1000, Flood(limits: false));

        long Flood(bool limits)
        {
            Dialog d = new(
                o => o with { ResetsPerSecond = 100, Defences = new TcpDefences { LimitsChallenges = limits } });
            if (stage == 0)
            {
                d.Listen();
                d.Send("S 0:0(0) win 1000");
                d.Expect("S. 0:0(0) ack 1");
            }
            else if (stage == 1)
            {
                Assert.Equal(Errno.Success, d.Endpoint.Connect(
                    d.Now, d.Local, Dialog.OwnPort, d.Remote, Dialog.PeerPort, out _));
                d.Expect("S 0:0(0)");
            }

            long answered = 0;
            for (int i = 0; i < 1000; i++)
            {
                d.Send(stage == 2 ? ". 1:1(0)" : ". 1:1(0) ack 5000");
                answered += d.TakeAll().Count;
            }

            return answered;
        }
    }

    [Fact]
    public void TCP_32_A_segment_without_ACK_is_dropped()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        d.Send("P 1:101(100)");
        d.Send("- 1:101(100)");
        d.Send("F 1:1(0)");
        d.ExpectNothing();
        Assert.Equal((TcpState.Established, 0), (connection.State, connection.Received.UnreadBytes));
    }

    [Fact]
    public void TCP_33_Old_timestamps_are_refused_but_not_in_resets()
    {
        Dialog d = new();
        TcpConnection connection = EstablishAt(d, 1000);
        d.Send("P. 1:101(100) ack 1 <TS val 999 ecr 0>");
        d.Expect(". 1:1(0) ack 1");
        Assert.Equal((0, 1), (connection.Received.UnreadBytes, d.Stats.OldTimestamps));
        d.Send("R 1:1(0) <TS val 999 ecr 0>");
        Assert.Equal(TcpState.Closed, connection.State);
    }

    [Fact]
    public void TCP_33_is_caught_when_timestamps_are_not_looked_at()
    {
        Dialog d = new(o => o with { Defences = TcpDefences.All with { RefusesOldTimestamps = false } });
        TcpConnection connection = EstablishAt(d, 1000);
        d.Send("P. 1:101(100) ack 1 <TS val 999 ecr 0>");
        Assert.Equal(100, connection.Received.UnreadBytes);
    }

    [Fact]
    public void TCP_34_The_echo_is_that_of_the_segment_that_fills_the_gap()
    {
        Dialog d = new();
        EstablishAt(d, 1000);
        d.Send(". 101:201(100) ack 1 <TS val 1010 ecr 0>");
        d.Expect(". 1:1(0) ack 1 win 65535 <TS val 0 ecr 1001,sack 101:201>");
        d.Send(". 1:101(100) ack 1 <TS val 1005 ecr 0>");
        d.Expect(". 1:1(0) ack 201 win 65335 <TS val 0 ecr 1005>");
    }

    [Fact]
    public void TCP_35_After_24_days_of_silence_an_old_timestamp_is_new()
    {
        Dialog d = new();
        TcpConnection connection = EstablishAt(d, 1000);
        d.Wait(TimeSpan.FromDays(23));
        d.Send("P. 1:101(100) ack 1 <TS val 999 ecr 0>");
        Assert.Equal(0, connection.Received.UnreadBytes);
        d.Wait(TimeSpan.FromDays(1.1));
        d.Send("P. 1:101(100) ack 1 <TS val 999 ecr 0>");
        Assert.Equal(100, connection.Received.UnreadBytes);
    }

    [Fact]
    public void H_25_Segments_outside_the_window_make_no_loop_of_acknowledgements()
    {
        Dialog d = new();
        d.Establish();
        int answers = 0;
        for (int i = 0; i < 1000; i++)
        {
            d.Send("F. 500000:500000(0) ack 1");
            d.Send(". 0:0(0) ack 1");
            answers += d.TakeAll().Count;
            d.Wait(1);
        }

        Assert.InRange(answers, 1, 4); // one in half a second
    }

    [Fact]
    public void H_30_A_clock_that_jumps_back_or_far_ahead_causes_no_burst()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(1, 500), out _));
        d.Expect("P. 1:501(500)");
        d.Endpoint.HandleTimeout(TimeSpan.Zero);
        d.ExpectNothing();
        d.Jump(TimeSpan.FromDays(1));
        Assert.Single(d.TakeAll());
        d.Endpoint.HandleTimeout(TimeSpan.FromSeconds(1));
        d.ExpectNothing();
        Assert.Equal(TcpState.Established, connection.State);
    }

    private static TcpConnection EstablishAt(Dialog d, uint timestamp)
    {
        d.Listen();
        d.Send($"S 0:0(0) win 65535 <{Timestamps}>");
        d.Expect("S. 0:0(0) ack 1");
        d.Send($". 1:1(0) ack 1 <TS val {timestamp + 1} ecr 0>");
        Assert.True(d.Listener!.TryAccept(out TcpConnection? connection));
        return connection;
    }
}
