using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Marks, notifications and rates.</summary>
public class CongestionTests
{
    private const uint First = Conversation.First;
    private const byte Marked = 3;

    private static readonly CongestionOptions s_options = new();
    private static readonly TimeSpan s_long = TimeSpan.FromMinutes(1);

    private static Conversation Start(CongestionOptions? options = null) =>
        new(options: o => o with { Congestion = options ?? s_options });

    private static byte[] Write(Conversation c, uint psn) => new RawPacket(Opcode.RcWriteOnly, psn)
    {
        DestQp = c.Pair.QpNumber,
        Reth = new Reth(c.Region.Iova, c.Region.Key, 4),
        Payload = [1, 2, 3, 4],
    }.Build(new IcrcFlow(c.PeerGid, c.Node.Gid, 4791, 4791));

    private static void Deliver(Conversation c, byte[] packet, byte trafficClass) =>
        c.Node.Port.HandleDatagrams(c.PeerGid, 4791, packet, packet.Length, trafficClass, c.Now);

    private static RawPacket Notification(uint to = 0) => new(Opcode.CongestionNotification, 0)
    {
        DestQp = to,
        BackwardCongestion = true,
        Payload = new byte[16],
    };

    [Fact]
    public void A_marked_packet_is_answered_with_a_CNP_of_the_known_shape()
    {
        Conversation c = Start();
        Deliver(c, Write(c, First), Marked);
        byte[] sent = c.Expect("CNP 000000");
        Assert.Equal(12 + 16 + 4, sent.Length);
        Assert.Equal(
            [0x81, 0x00, 0xFF, 0xFF, 0x40, 0, 0, (byte)Conversation.PeerQp, 0, 0, 0, 0], sent[..12]);
        Assert.All(sent[12..28], b => Assert.Equal(0, b));
        Assert.Equal(4, c.Memory[3]); // the data was taken all the same
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void A_packet_that_is_not_marked_as_congested_is_not(byte ecn)
    {
        Conversation c = Start();
        Deliver(c, Write(c, First), ecn);
        c.ExpectNothing();
    }

    [Fact]
    public void One_CNP_leaves_in_its_interval_however_many_packets_are_marked()
    {
        Conversation c = Start();
        for (uint i = 0; i < 10; i++)
        {
            Deliver(c, Write(c, First + i), Marked);
        }

        c.Expect("CNP 000000");
        c.ExpectNothing();
        c.Wait(s_options.NotificationInterval);
        Deliver(c, Write(c, First + 10), Marked);
        c.Expect("CNP 000000");
        Assert.Equal((11, 2), (c.Node.Port.Stats.CongestionMarks, c.Node.Port.Stats.NotificationsSent));
    }

    [Fact]
    public void Nothing_is_marked_or_obeyed_where_congestion_is_not_controlled()
    {
        Conversation c = new();
        Deliver(c, Write(c, First), Marked);
        c.ExpectNothing();
        c.Send(Notification());
        Assert.Null(c.Pair.SendRate);
        Assert.Equal(QueuePairState.ReadyToSend, c.Pair.State);
    }

    [Fact]
    public void ROCE_79_A_CNP_for_a_live_queue_pair_slows_it_down_once()
    {
        Conversation c = Start();
        Assert.Equal(s_options.LineRate, c.Pair.SendRate);
        c.Send(Notification());
        Assert.Equal(s_options.LineRate / 2, c.Pair.SendRate);
        Assert.Equal(1, c.Node.Port.Stats.NotificationsReceived);
        c.ExpectNothing();
        c.ExpectState(QueuePairState.ReadyToSend);
    }

    [Fact]
    public void ROCE_79_A_CNP_for_a_dead_queue_pair_or_of_a_stranger_is_dropped()
    {
        Conversation c = Start();
        c.Send(Notification(to: 0x99));
        Assert.Equal(1, c.Node.Port.Stats.Drops(DropReason.UnknownQp));
        Assert.True(Gid.TryParse("10.77.0.9", out Gid stranger));
        c.Send(Notification(), stranger);
        Assert.Equal(1, c.Node.Port.Stats.Drops(DropReason.WrongPeer));
        c.Send(Notification() with { BackwardCongestion = false });
        Assert.Equal((s_options.LineRate, 0), (c.Pair.SendRate, c.Node.Port.Stats.NotificationsReceived));
    }

    [Fact]
    public void A_queue_pair_that_is_slowed_down_sends_when_its_time_has_come()
    {
        // 1 MB a second: a WRITE of 1000 bytes and its headers take a millisecond.
        Conversation c = Start(new CongestionOptions { LineRate = 2e6, MinimumRate = 1e5 });
        c.Send(Notification());
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 1000);
        c.Expect("RC_WRITE_ONLY b00000 A");
        c.Post(2, WorkRequestOpcode.RdmaWrite, 0, 1000);
        c.ExpectNothing();
        c.Wait(TimeSpan.FromMicroseconds(900));
        c.ExpectNothing();
        c.Wait(TimeSpan.FromMicroseconds(200));
        c.Expect("RC_WRITE_ONLY b00001 A");
    }

    // Everything is sent, so the question is all that is left to be woken for.
    [Fact]
    public void A_queue_pair_that_is_slowed_down_asks_a_silent_peer_and_gives_it_up()
    {
        Conversation c = new(options: o => o with
        {
            ProbeAfter = TimeSpan.FromMilliseconds(2),
            Congestion = new CongestionOptions { LineRate = 2e6, MinimumRate = 1e5 },
        });
        for (int i = 0; i < 10; i++)
        {
            c.Send(Notification());
        }

        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 1024);
        c.Expect("RC_WRITE_ONLY b00000 A");
        c.Wait(TimeSpan.FromMilliseconds(5)); // it would ask now, and may not for another 5 ms
        c.ExpectNothing();
        c.Wait(TimeSpan.FromMilliseconds(10));
        c.Expect("RC_SEND_ONLY afffff A");
        while (c.Completions.Count == 0 && c.Node.Port.NextDeadline is { } next && c.Now < TimeSpan.FromMinutes(1))
        {
            c.Wait(next > c.Now ? next - c.Now : TimeSpan.FromTicks(1));
            c.Drain();
        }

        c.ExpectCompletion(1, WorkCompletionStatus.RetryExceeded);
    }

    // Its Last is held back, and another queue pair may close the window before that: then nothing would ask.
    [Fact]
    public void Middles_that_are_sent_again_ask_though_the_Last_follows_them()
    {
        // 54 ms for a packet, and the acknowledge timeout is 67.
        Conversation c = Start(new CongestionOptions { LineRate = 2e6, MinimumRate = 2e4, IncreaseTimer = s_long });
        for (int i = 0; i < 20; i++)
        {
            c.Send(Notification());
        }

        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 4096);
        c.Expect("RC_WRITE_FIRST b00000");
        c.Wait(TimeSpan.FromMilliseconds(60));
        c.Expect("RC_WRITE_MIDDLE b00001");
        c.Expect("RC_WRITE_MIDDLE b00002");
        c.Wait(TimeSpan.FromMilliseconds(60));
        c.ExpectNothing();
        c.Wait(TimeSpan.FromMilliseconds(60));
        c.Expect("RC_WRITE_FIRST b00000");
        c.Wait(TimeSpan.FromMilliseconds(60));
        c.Expect("RC_WRITE_MIDDLE b00001");
        c.Expect("RC_WRITE_MIDDLE b00002 A");
        c.ExpectNothing();
    }

    [Fact]
    public void The_data_of_a_READ_is_slowed_down_and_an_acknowledgement_is_not()
    {
        Conversation c = Start(new CongestionOptions { LineRate = 2e6, MinimumRate = 1e5 });
        c.Send(Notification());
        c.SendRead(First, 0, 2048);
        c.Expect("RC_READ_RESP_FIRST a00000 1f msn=1");
        c.ExpectNothing();
        c.Wait(TimeSpan.FromMicroseconds(1100));
        c.Expect("RC_READ_RESP_LAST a00001 1f msn=1");
        c.SendWrite(First + 2, 0, [1, 2, 3, 4]);
        c.Expect("RC_ACKNOWLEDGE a00002 1f msn=2");
    }

    [Theory]
    [InlineData(QueuePairState.Error)]
    [InlineData(QueuePairState.Reset)]
    public void What_was_known_of_congestion_ends_with_the_connection(QueuePairState to)
    {
        Conversation c = Start(new CongestionOptions { LineRate = 2e6, MinimumRate = 1e5 });
        c.Send(Notification());
        Deliver(c, Write(c, First - 1), Marked); // a CNP is owed, and nothing else
        Assert.Equal(1e6, c.Pair.SendRate);
        SetState(c, to);
        c.ExpectNothing();
        Assert.Equal((2e6, 0), (c.Pair.SendRate, c.Node.Port.Stats.NotificationsSent));
        if (to == QueuePairState.Error)
        {
            SetState(c, QueuePairState.Reset);
        }

        QueuePairAttributes attributes = new Connection().Attributes with
        {
            AddressVector = new AddressVector(c.PeerGid),
            DestQpNumber = Conversation.PeerQp,
            RqPsn = First,
        };
        new Connection { Attributes = attributes }.Apply(c.Pair);
        c.SendWrite(First, 0, [1]);
        c.Expect($"RC_ACKNOWLEDGE {First:x6} 1f msn=1");
        Deliver(c, Write(c, First + 1), Marked); // in less than the interval
        c.Expect("CNP 000000");
    }

    private static void SetState(Conversation c, QueuePairState state) => Assert.Equal(
        Errno.Success,
        c.Pair.Modify(new QueuePairAttributes { State = state }, QueuePairAttributeMask.State));

    [Fact]
    public void A_timeout_counts_as_congestion_unless_it_is_told_not_to()
    {
        foreach (bool reacts in new[] { true, false })
        {
            Conversation c = Start(s_options with { ReactsToLoss = reacts });
            c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 8);
            c.Expect("RC_WRITE_ONLY b00000 A");
            c.Wait(TimeSpan.FromMilliseconds(100));
            Assert.Equal(reacts ? s_options.LineRate / 2 : s_options.LineRate, c.Pair.SendRate);
        }
    }

    [Fact]
    public void The_rate_recovers_half_the_way_at_a_time_and_then_grows_to_the_line()
    {
        RateControl rate = new(s_options);
        TimeSpan now = TimeSpan.FromSeconds(1);
        rate.HandleNotification(now);
        double[] expected = [0.75, 0.875, 0.9375];
        foreach (double share in expected)
        {
            now += s_options.IncreaseTimer;
            rate.NoteSent(1, now);
            Assert.Equal(share * s_options.LineRate, rate.CurrentRate, tolerance: 1);
        }

        for (int i = 0; i < 40; i++)
        {
            now += s_options.IncreaseTimer;
            rate.NoteSent(1, now);
        }

        Assert.True(rate.IsAtLineRate);
        Assert.Equal(s_options.LineRate, rate.CurrentRate);
    }

    [Fact]
    public void The_rate_never_falls_below_the_least()
    {
        RateControl rate = new(s_options);
        for (int i = 0; i < 10_000; i++)
        {
            rate.HandleNotification(TimeSpan.FromTicks(i));
        }

        Assert.Equal(s_options.MinimumRate, rate.CurrentRate);
    }

    [Fact]
    public void Two_flows_over_one_bottleneck_share_it_and_keep_its_queue_short()
    {
        // A queue of 1 GB/s that marks 1 % of the packets at 200 KB, fewer below, all above, as the paper's switches
        // do; one flow had it alone for 20 ms.
        const double Capacity = 1e9;
        SplitMix64 random = new(7);
        RateControl[] flows = [new(s_options), new(s_options)];
        double[] sent = new double[2];
        TimeSpan[] noticed = new TimeSpan[2];
        double queue = 0, longest = 0;
        TimeSpan step = TimeSpan.FromMicroseconds(5);
        for (TimeSpan now = TimeSpan.Zero; now < TimeSpan.FromMilliseconds(400); now += step)
        {
            int active = now < TimeSpan.FromMilliseconds(20) ? 1 : 2;
            for (int i = 0; i < active; i++)
            {
                int bytes = (int)(flows[i].CurrentRate * step.TotalSeconds);
                flows[i].NoteSent(bytes, now);
                queue += bytes;
                sent[i] += now > TimeSpan.FromMilliseconds(200) ? bytes : 0;
                double chance = queue > 200_000 ? 1 : Math.Max(0, (queue - 5_000) / 195_000 * 0.01);
                bool isMarked = Enumerable.Range(0, bytes / 1024)
                    .Any(_ => random.Next(1 << 20) < chance * (1 << 20));
                if (isMarked && now - noticed[i] >= s_options.NotificationInterval)
                {
                    flows[i].HandleNotification(now);
                    noticed[i] = now;
                }
            }

            queue = Math.Max(0, queue - Capacity * step.TotalSeconds);
            longest = now > TimeSpan.FromMilliseconds(200) ? Math.Max(longest, queue) : longest;
        }

        double jain = (sent[0] + sent[1]) * (sent[0] + sent[1]) / (2 * (sent[0] * sent[0] + sent[1] * sent[1]));
        Assert.True(jain > 0.95, $"shares {sent[0]:f0} and {sent[1]:f0}");
        Assert.True(sent.Sum() > 0.7 * Capacity * 0.2, $"{sent.Sum() / 0.2:e2} bytes a second");
        Assert.True(longest < 2e6, $"{longest:f0} bytes waited");
    }
}
