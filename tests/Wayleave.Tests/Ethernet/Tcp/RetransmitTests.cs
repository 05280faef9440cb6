using Wayleave.Core;
using Wayleave.Devices.Ethernet.Tcp;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>RFC 6298, RFC 5681, RFC 6582, RFC 6675, RFC 8985: what is lost is sent again, and not much else.</summary>
public class RetransmitTests
{
    private const string Sack = "mss 1000,sackOK";

    [Fact]
    public void TCP_43_Without_an_answer_the_time_out_doubles_and_one_segment_leaves()
    {
        Dialog d = new(o => Segments(o) with { RetransmitTimeoutMin = TimeSpan.FromSeconds(1) });
        TcpConnection connection = Start(d, "mss 1000", segments: 4);
        double[] waits = [1, 2, 4, 8];
        foreach (double seconds in waits)
        {
            TimeSpan before = d.Now;
            (TimeSpan at, string text) = d.WaitForSegment(TimeSpan.FromSeconds(20));
            Assert.Equal(seconds, (at - before).TotalSeconds, 3);
            Assert.StartsWith(". 1:1001(1000)", text, StringComparison.Ordinal);
            d.ExpectNothing();
            Assert.Equal(1000, connection.Info.CongestionWindowBytes);
        }

        Assert.Equal(2800, connection.Info.ThresholdBytes); // 0.7 of the flight, once
    }

    [Fact]
    public void A_peer_that_never_answers_is_given_up_after_fifteen_time_outs()
    {
        Dialog d = new(Segments);
        TcpConnection connection = Start(d, "mss 1000", segments: 1);
        for (int i = 0; i < d.Options.DataRetries; i++)
        {
            d.WaitForSegment(TimeSpan.FromSeconds(121));
        }

        d.Wait(TimeSpan.FromSeconds(121));
        Assert.Equal((TcpState.Closed, Errno.ETIMEDOUT), (connection.State, connection.Error));
    }

    [Fact]
    public void TCP_44_The_time_out_follows_steady_samples_and_Karn_is_respected()
    {
        Dialog d = new(Segments);
        TcpConnection connection = d.Establish("mss 1000");
        long end = 1;
        for (int i = 0; i < 40; i++)
        {
            Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(end, 1000), out _));
            d.Expect($"P. {end}:{end + 1000}(1000)");
            end += 1000;
            d.Wait(100);
            d.Send($". 1:1(0) ack {end}");
        }

        Assert.Equal(100, connection.Info.SmoothedRtt.TotalMilliseconds, 0);
        Assert.Equal(200, connection.Info.RetransmitTimeout.TotalMilliseconds, 0); // the floor

        // Sent twice: the answer says nothing about the path.
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(end, 1000), out _));
        d.Expect($"P. {end}:{end + 1000}(1000)");
        d.WaitForSegment(TimeSpan.FromSeconds(1));
        d.Wait(5);
        d.Send($". 1:1(0) ack {end + 1000}");
        Assert.Equal(100, connection.Info.SmoothedRtt.TotalMilliseconds, 0);
    }

    [Fact]
    public void TCP_45_Three_duplicate_acknowledgements_repair_one_segment_and_halve_the_window()
    {
        Dialog d = new(Segments);
        TcpConnection connection = Start(d, "mss 1000", segments: 10);
        for (int i = 0; i < 2; i++)
        {
            d.Send(". 1:1(0) ack 1");
            d.ExpectNothing();
        }

        d.Send(". 1:1(0) ack 1");
        d.Expect(". 1:1001(1000)");
        d.ExpectNothing();
        Assert.Equal(7000, connection.Info.ThresholdBytes); // CUBIC's 0.7 of the flight
        d.Send(". 1:1(0) ack 1");
        d.ExpectNothing();
        d.Send(". 1:1(0) ack 10001");
        Assert.Equal(7000, connection.Info.CongestionWindowBytes);
        Assert.Equal((1, 1, 0), (d.Stats.FastRecoveries, d.Stats.Retransmits, d.Stats.Timeouts));
    }

    [Fact]
    public void A_partial_acknowledgement_repairs_the_next_hole_without_a_time_out()
    {
        Dialog d = new(Segments);
        Start(d, "mss 1000", segments: 10);
        for (int i = 0; i < 3; i++)
        {
            d.Send(". 1:1(0) ack 1");
        }

        d.Expect(". 1:1001(1000)");
        d.Send(". 1:1(0) ack 5001");
        d.Expect(". 5001:6001(1000)");
        d.Send(". 1:1(0) ack 10001");
        Assert.Equal((1, 2, 0), (d.Stats.FastRecoveries, d.Stats.Retransmits, d.Stats.Timeouts));
    }

    [Fact]
    public void TCP_46_Two_of_ten_lost_are_both_repaired_in_one_recovery()
    {
        Dialog d = new(Segments);
        TcpConnection connection = Start(d, Sack, segments: 10);
        d.Wait(20);
        d.Send(". 1:1(0) ack 1 <sack 1001:2001>");
        d.Send(". 1:1(0) ack 1 <sack 1001:3001>");
        d.Send(". 1:1(0) ack 1 <sack 1001:4001>");
        d.Expect(". 1:1001(1000)");
        d.Send(". 1:1(0) ack 1 <sack 5001:7001 1001:4001>");
        d.Send(". 1:1(0) ack 1 <sack 5001:10001 1001:4001>");
        d.Wait(20);
        Assert.Equal([". 4001:5001(1000) ack 1 win 65535"], d.TakeAll());
        d.Wait(20);
        d.Send(". 1:1(0) ack 10001");
        d.ExpectNothing();
        Assert.Equal((1, 2, 0), (d.Stats.FastRecoveries, d.Stats.Retransmits, d.Stats.Timeouts));
        Assert.Equal(10000, connection.AcknowledgedBytes);
    }

    [Fact]
    public void TCP_47_The_loss_of_the_tail_is_probed_after_two_round_trips()
    {
        Dialog d = new(Segments);
        TcpConnection connection = Measured(d, Sack, roundTripMs: 50);
        long start = connection.QueuedBytes + 1;
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(start, 3000), out _));
        Assert.Equal(3, d.TakeAll().Count);
        TimeSpan sent = d.Now;
        (TimeSpan at, string text) = d.WaitForSegment(TimeSpan.FromSeconds(1));
        Assert.InRange((at - sent).TotalMilliseconds, 95, 100);
        Assert.StartsWith($"P. {start + 2000}:{start + 3000}(1000)", text, StringComparison.Ordinal);
        Assert.Equal((1, 0), (d.Stats.LossProbes, d.Stats.Timeouts));

        // The probe is answered: what lies before it is repaired without a time-out.
        d.Wait(50);
        d.Send($". 1:1(0) ack {start} <sack {start + 2000}:{start + 3000}>");
        d.Wait(30);
        Assert.Equal(2, d.TakeAll().Count);
        Assert.Equal(0, d.Stats.Timeouts);
    }

    // RFC 8985 7.4.2, case by case: what comes after the acknowledgement of the probe's end decides.
    [Theory]
    [InlineData("the original was late and the probe is reported twice", false)]
    [InlineData("the original was late and the probe is acknowledged again", false)]
    [InlineData("nothing came twice", true)]
    public void TCP_47_A_probe_halves_the_window_only_if_it_repaired_a_loss(string what, bool isReduced)
    {
        Dialog d = new(Segments);
        TcpConnection connection = Measured(d, Sack, roundTripMs: 50);
        long start = connection.QueuedBytes + 1;
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(start, 3000), out _));
        Assert.Equal(3, d.TakeAll().Count);
        d.WaitForSegment(TimeSpan.FromSeconds(1));
        Assert.Equal(1, d.Stats.LossProbes);
        long before = connection.Info.CongestionWindowBytes;
        d.Send($". 1:1(0) ack {start + 3000}");
        Assert.InRange(connection.Info.CongestionWindowBytes, before, long.MaxValue);
        if (what.EndsWith("twice", StringComparison.Ordinal) && !isReduced)
        {
            d.Send($". 1:1(0) ack {start + 3000} <sack {start + 2000}:{start + 3000}>");
        }
        else if (what.EndsWith("again", StringComparison.Ordinal))
        {
            d.Send($". 1:1(0) ack {start + 3000}");
        }

        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(start + 3000, 1000), out _));
        d.TakeAll();
        d.Wait(50);
        d.Send($". 1:1(0) ack {start + 4000}");
        Assert.Equal(isReduced, connection.Info.CongestionWindowBytes < before);
    }

    [Fact]
    public void TCP_48_Reordering_widens_the_window_in_which_nothing_is_called_lost()
    {
        Dialog d = new(Segments);
        TcpConnection connection = Measured(d, Sack, roundTripMs: 100);
        long first = connection.QueuedBytes + 1;
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(first, 8000), out _));
        Assert.Equal(8, d.TakeAll().Count);
        d.Wait(100);

        // The first comes five places late: it is sent again, and reported twice.
        d.Send($". 1:1(0) ack {first} <sack {first + 1000}:{first + 6000}>");
        Assert.StartsWith($". {first}:{first + 1000}(1000)", d.Take(), StringComparison.Ordinal);
        d.TakeAll();
        d.Send($". 1:1(0) ack {first + 6000}");
        d.Send($". 1:1(0) ack {first + 6000} <sack {first}:{first + 1000}>");
        d.Send($". 1:1(0) ack {first + 8000}");
        Assert.Equal(1, d.Stats.DuplicatesReported);

        // Late without a repetition shows the reordering itself; from then on the same lateness is waited for.
        long second = connection.QueuedBytes + 1;
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(second, 6000), out _));
        d.TakeAll();
        d.Wait(100);
        d.Send($". 1:1(0) ack {second} <sack {second + 1000}:{second + 2000}>");
        d.Send($". 1:1(0) ack {second + 2000}");
        Assert.True(connection.Info.HasSeenReordering);
        d.Send($". 1:1(0) ack {second + 6000}");
        long retransmits = d.Stats.Retransmits;
        long third = connection.QueuedBytes + 1;
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(third, 6000), out _));
        d.TakeAll();
        d.Wait(100);
        d.Send($". 1:1(0) ack {third} <sack {third + 1000}:{third + 5000}>");
        d.ExpectNothing();
        d.Wait(10);
        d.Send($". 1:1(0) ack {third + 6000}");
        Assert.Equal(retransmits, d.Stats.Retransmits);
    }

    [Fact]
    public void TCP_49_A_lost_repair_is_found_before_the_time_out()
    {
        Dialog d = new(Segments);
        TcpConnection connection = Measured(d, Sack, roundTripMs: 100);
        long first = connection.QueuedBytes + 1;
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(first, 8000), out _));
        d.TakeAll();
        d.Wait(100);
        d.Send($". 1:1(0) ack {first} <sack {first + 1000}:{first + 4000}>");
        Assert.StartsWith($". {first}:{first + 1000}(1000)", d.Take(), StringComparison.Ordinal); // lost again
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(first + 8000, 2000), out _));
        d.Wait(1);
        d.Send($". 1:1(0) ack {first} <sack {first + 1000}:{first + 8000}>");
        Assert.NotEmpty(d.TakeAll()); // new data, sent after the repair
        d.Wait(100);
        d.Send($". 1:1(0) ack {first} <sack {first + 1000}:{first + 10000}>");
        List<string> again = d.TakeAll();
        if (again.Count == 0)
        {
            again.Add(d.WaitForSegment(TimeSpan.FromMilliseconds(50)).Text);
        }

        Assert.StartsWith($". {first}:{first + 1000}(1000)", again[0], StringComparison.Ordinal);
        Assert.Equal(0, d.Stats.Timeouts);
    }

    [Fact]
    public void TCP_55_A_router_lowers_the_segment_size_only_for_what_is_outstanding_and_not_below_the_floor()
    {
        Dialog d = new(o => Segments(o) with { MtuBytes = 1500 });
        TcpConnection connection = d.Establish("mss 1460");
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(1, 1460), out _));
        d.Expect("P. 1:1461(1460)");
        uint next = d.OwnInitial + 1;
        Assert.False(d.Endpoint.HandleIcmpError(d.Now, d.Flow, next - 100, 1400, Errno.Success));
        Assert.False(d.Endpoint.HandleIcmpError(d.Now, d.Flow, next + 5000, 1400, Errno.Success));
        Assert.Equal(1460, connection.Info.SegmentBytes);
        Assert.True(d.Endpoint.HandleIcmpError(d.Now, d.Flow, next, 1400, Errno.Success));
        Assert.Equal(1360, connection.Info.SegmentBytes);
        d.Expect(". 1:1361(1360)");
        d.Expect("P. 1361:1461(100)");
        Assert.True(d.Endpoint.HandleIcmpError(d.Now, d.Flow, next, 68, Errno.Success));
        Assert.Equal(512, connection.Info.SegmentBytes);
    }

    [Fact]
    public void H_28_An_unreachable_peer_ends_what_is_opening_and_not_what_is_open()
    {
        Dialog d = new();
        Assert.Equal(
            Errno.Success,
            d.Endpoint.Connect(d.Now, d.Local, Dialog.OwnPort, d.Remote, Dialog.PeerPort, out TcpConnection? opening));
        d.Expect("S 0:0(0)");
        TcpFlow other = d.Flow with { RemotePort = 1 };
        Assert.False(d.Endpoint.HandleIcmpError(d.Now, other, d.OwnInitial, 0, Errno.EHOSTUNREACH));
        Assert.True(d.Endpoint.HandleIcmpError(d.Now, d.Flow, d.OwnInitial, 0, Errno.EHOSTUNREACH));
        Assert.Equal((TcpState.Closed, Errno.EHOSTUNREACH), (opening!.State, opening.Error));

        Dialog open = new(Segments);
        TcpConnection connection = Start(open, "mss 1000", segments: 1);
        open.Endpoint.HandleIcmpError(open.Now, open.Flow, open.OwnInitial + 1, 0, Errno.EHOSTUNREACH);
        Assert.Equal(TcpState.Established, connection.State);
    }

    [Fact]
    public void Without_segmentation_by_the_link_super_packets_are_single_segments()
    {
        Dialog d = new(Segments);
        Start(d, "mss 1000", segments: 3);
        Dialog super = new();
        TcpConnection connection = super.Establish("mss 1000");
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(1, 3000), out _));
        Assert.True(super.TryTake(out TcpTransmit transmit));
        Assert.Equal((3000, 1000), (transmit.PayloadBytes, transmit.SegmentBytes));
        Assert.Equal(Dialog.Bytes(1, 3000), Dialog.PayloadOf(transmit));
    }

    [Fact]
    public void A_small_segment_waits_for_the_one_before_it_unless_told_otherwise()
    {
        Dialog d = new(Segments);
        TcpConnection connection = d.Establish("mss 1000");
        connection.Send([1], out _);
        d.Expect("P. 1:2(1)");
        connection.Send([2, 3], out _);
        d.ExpectNothing();
        d.Send(". 1:1(0) ack 2");
        d.Expect("P. 2:4(2)");
        connection.NoDelay = true;
        connection.Send([4], out _);
        d.Expect("P. 4:5(1)");
    }

    private static TcpEndpointOptions Segments(TcpEndpointOptions options) => options with { SuperPacketBytes = 1 };

    private static TcpConnection Start(Dialog d, string options, int segments)
    {
        TcpConnection connection = d.Establish(options);
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(1, 1000 * segments), out int taken));
        Assert.Equal(1000 * segments, taken);
        List<string> sent = d.TakeAll();
        Assert.Equal(segments, sent.Count);
        Assert.Contains(". 1:1001(1000) ack 1", sent[0], StringComparison.Ordinal);
        return connection;
    }

    private static TcpConnection Measured(Dialog d, string options, int roundTripMs)
    {
        TcpConnection connection = d.Establish(options);
        for (int i = 0; i < 30; i++)
        {
            long end = connection.QueuedBytes + 1001;
            Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(end - 1000, 1000), out _));
            d.TakeAll();
            d.Wait(roundTripMs);
            d.Send($". 1:1(0) ack {end}");
            d.TakeAll();
        }

        return connection;
    }
}
