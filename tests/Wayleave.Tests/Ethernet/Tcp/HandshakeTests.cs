using Wayleave.Core;
using Wayleave.Devices.Ethernet.Tcp;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>RFC 9293 3.5, 3.10.7.1 to 3.10.7.3: how connections begin.</summary>
public class HandshakeTests
{
    private const string All = "mss 1460,sackOK,TS val 100 ecr 0,nop,wscale 7";

    [Fact]
    public void TCP_01_A_SYN_is_answered_with_the_options_that_it_offered()
    {
        Dialog full = new Dialog().Listen();
        full.Send($"S 0:0(0) win 65535 <{All}>");
        full.Expect("S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 0 ecr 100,wscale 0>");
        full.ExpectNothing();

        Dialog bare = new Dialog().Listen();
        bare.Send("S 0:0(0) win 65535");
        bare.Expect("S. 0:0(0) ack 1 win 65535 <mss 1460>");
        Assert.NotEqual(full.OwnInitial, InitialOf(new Dialog(seed: 2).Listen(), Dialog.PeerPort));
    }

    [Fact]
    public void TCP_02_A_listener_resets_acknowledgements_and_ignores_the_rest()
    {
        Dialog d = new Dialog().Listen();
        d.Send(". 1:1(0) ack 77");
        d.Expect("R 77:77(0)");
        foreach (string ignored in new[] { "R 1:1(0)", "R. 1:1(0) ack 5", "F 1:1(0)", "P 1:100(99)", "SF 0:0(0)" })
        {
            d.Send(ignored);
            d.ExpectNothing();
        }

        Assert.Equal(0, d.Listener!.HalfOpenCount);
    }

    [Fact]
    public void TCP_03_A_segment_for_no_socket_is_reset_and_a_reset_is_not()
    {
        Dialog d = new();
        d.Send("S 0:0(0)");
        d.Expect("R. 0:0(0) ack 1");
        d.Send("P. 1:101(100) ack 500");
        d.Expect("R 500:500(0)");
        d.Send("F 1:1(0)");
        d.Expect("R. 0:0(0) ack 2");
        d.Send("- 1:11(10)");
        d.Expect("R. 0:0(0) ack 11");
        d.Send("R 1:1(0)");
        d.ExpectNothing();
    }

    [Theory]
    [InlineData(1, "")]
    [InlineData(2, "R 2:2(0)")]
    [InlineData(0, "R 0:0(0)")]
    public void TCP_04_Only_the_acknowledgement_of_our_SYN_opens(long ack, string answer)
    {
        Dialog d = new Dialog().Listen();
        d.Send("S 0:0(0) win 65535 <mss 1000>");
        d.Expect("S. 0:0(0) ack 1");
        d.Send($". 1:1(0) ack {ack}");
        Assert.Equal(answer.Length == 0, d.HasConnection);
        if (answer.Length > 0)
        {
            d.Expect(answer);
            Assert.Equal(1, d.Listener!.HalfOpenCount); // somebody else's mistake: ours goes on
        }

        d.ExpectNothing();
    }

    [Fact]
    public void TCP_05_A_half_open_connection_is_reset_by_the_exact_number_alone()
    {
        Dialog d = new Dialog().Listen();
        d.Send("S 0:0(0) win 65535 <mss 1000>");
        d.Expect("S. 0:0(0) ack 1");
        d.Send("R 500:500(0)");
        d.Expect(". 1:1(0) ack 1");
        d.Send("R 100000:100000(0)");
        d.ExpectNothing();
        Assert.Equal(1, d.Listener!.HalfOpenCount);
        d.Send("R 1:1(0)");
        Assert.Equal(0, d.Listener.HalfOpenCount);
        d.ExpectNothing();
        d.Send("S 0:0(0) win 65535");
        d.Expect("S. 0:0(0) ack 1");
    }

    [Fact]
    public void TCP_06_A_repeated_SYN_gets_the_same_answer()
    {
        Dialog d = new Dialog().Listen();
        d.Send("S 0:0(0) win 65535 <mss 1000>");
        d.Expect("S. 0:0(0) ack 1");
        uint first = d.OwnInitial;
        d.Wait(300);
        d.Send("S 0:0(0) win 65535 <mss 1000>");
        d.Expect("S. 0:0(0) ack 1");
        Assert.Equal(first, d.OwnInitial);
        Assert.Equal(1, d.Listener!.HalfOpenCount);
    }

    [Fact]
    public void TCP_07_Data_with_the_third_packet_is_delivered_once()
    {
        Dialog d = new Dialog().Listen();
        d.Send("S 0:0(0) win 65535 <mss 1000>");
        d.Expect("S. 0:0(0) ack 1");
        d.Send("P. 1:101(100) ack 1");
        d.Send("P. 1:101(100) ack 1");
        d.ExpectRead(1, 100);
        d.Expect(". 1:1(0) ack 101");
    }

    [Fact]
    public void TCP_08_An_answer_without_reaction_is_repeated_five_times_and_forgotten()
    {
        Dialog d = new Dialog().Listen();
        d.Send("S 0:0(0) win 65535 <mss 1000>");
        d.Expect("S. 0:0(0) ack 1");
        double[] waits = [1, 2, 4, 8, 16];
        foreach (double seconds in waits)
        {
            TimeSpan before = d.Now;
            (TimeSpan at, string text) = d.WaitForSegment(TimeSpan.FromMinutes(2));
            Assert.Equal(seconds, (at - before).TotalSeconds, 3);
            Assert.StartsWith("S. 0:0(0) ack 1", text, StringComparison.Ordinal);
        }

        Assert.Equal(1, d.Listener!.HalfOpenCount);
        d.Wait(TimeSpan.FromSeconds(33));
        d.ExpectNothing();
        Assert.Equal(0, d.Listener.HalfOpenCount);
        Assert.Null(d.Endpoint.NextDeadline);
    }

    [Fact]
    public void TCP_09_A_wrong_acknowledgement_of_our_SYN_is_reset_and_the_right_one_opens()
    {
        Dialog d = new();
        TcpConnection connection = Connect(d);
        d.Send("S. 0:0(0) ack 2 win 1000");
        d.Expect("R 2:2(0)");
        d.Send("S. 0:0(0) ack 1 win 1000 <mss 500>");
        d.Expect(". 1:1(0) ack 1");
        Assert.Equal(TcpState.Established, connection.State);
        Assert.Equal(500, connection.Info.SegmentBytes);
        Assert.Equal(TcpEvents.Connected, d.Events());
    }

    [Fact]
    public void TCP_09_A_reset_refuses_only_with_an_acknowledgement_of_our_SYN()
    {
        Dialog d = new();
        TcpConnection connection = Connect(d);
        d.Send("R 0:0(0)");
        d.Send("R. 0:0(0) ack 9");
        d.ExpectNothing();
        Assert.Equal(TcpState.SynSent, connection.State);
        d.Send("R. 0:0(0) ack 1");
        Assert.Equal((TcpState.Closed, Errno.ECONNREFUSED), (connection.State, connection.Error));
        Assert.Equal(TcpEvents.Closed, d.Events());
        d.ExpectNothing();
    }

    [Fact]
    public void TCP_09_Two_SYNs_that_cross_open_one_connection()
    {
        Dialog d = new();
        TcpConnection connection = Connect(d);
        d.Send("S 0:0(0) win 1000 <mss 500>");
        Assert.Equal(TcpState.SynReceived, connection.State);
        d.Expect("S. 0:0(0) ack 1");
        d.Send("S. 0:0(0) ack 1 win 1000 <mss 500>");
        Assert.Equal(TcpState.Established, connection.State);
        d.Expect(". 1:1(0) ack 1");
        d.Send("P. 1:101(100) ack 1 win 1000");
        d.ExpectRead(1, 100);
    }

    [Fact]
    public void A_SYN_is_sent_seven_times_and_then_the_connection_timed_out()
    {
        Dialog d = new();
        TcpConnection connection = Connect(d);
        for (int i = 0; i < d.Options.SynRetries; i++)
        {
            (_, string text) = d.WaitForSegment(TimeSpan.FromMinutes(2));
            Assert.StartsWith("S 0:0(0)", text, StringComparison.Ordinal);
        }

        d.Wait(TimeSpan.FromMinutes(3));
        Assert.Equal((TcpState.Closed, Errno.ETIMEDOUT), (connection.State, connection.Error));
        Assert.Equal(TcpEvents.Closed, d.Events());
        Assert.Equal(0, d.Endpoint.ConnectionCount);
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(7, 7)]
    [InlineData(14, 14)]
    [InlineData(15, 14)]
    [InlineData(255, 14)]
    public void TCP_22_The_peers_shift_is_used_up_to_fourteen_and_never_in_a_SYN(int offered, int used)
    {
        Dialog d = new(o => o with { ReceiveBufferBytes = 4 << 20 });
        d.RoomBytes = 8 << 20;
        d.Listen();
        d.Send($"S 0:0(0) win 1000 <mss 1000,wscale {offered}>");
        d.Expect("S. 0:0(0) ack 1 win 65535 <mss 1460,wscale 7>");
        d.Send(". 1:1(0) ack 1 win 3");
        Assert.Equal(3L << used, d.Connection.Info.SendWindowBytes);
        Assert.Equal((used, 7), (d.Connection.Info.SendWindowShift, d.Connection.Info.ReceiveWindowShift));
        d.Send(". 1:1001(1000) ack 1 win 3");
        d.Send(". 1001:2001(1000) ack 1 win 3");
        d.Expect($". 1:1(0) ack 2001 win {(65535 + 2001) >> 7}"); // what it has sent, and as much as a SYN may promise
    }

    [Fact]
    public void TCP_23_A_peer_without_options_gets_none()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish("mss 1000");
        Assert.Equal((false, false, 0, 0), (
            connection.Info.UsesSack, connection.Info.UsesTimestamps, connection.Info.SendWindowShift,
            connection.Info.ReceiveWindowShift));
        d.Send(". 1001:2001(1000) ack 1");
        Assert.Equal(". 1:1(0) ack 1 win 65535", d.Take());
    }

    [Theory]
    [InlineData("", false, 536)]
    [InlineData("", true, 1220)]
    [InlineData("mss 0", false, 536)]
    [InlineData("mss 1", false, 88)]
    [InlineData("mss 65535", false, 1460)]
    [InlineData("mss 65535", true, 1440)]
    [InlineData("mss 1460,TS val 1 ecr 0", false, 1448)]
    public void TCP_24_A_segment_is_what_both_can_take(string options, bool ipv6, int expected)
    {
        Dialog d = new(ipv6: ipv6);
        Assert.Equal(expected, d.Establish(options).Info.SegmentBytes);
    }

    [Fact]
    public void TCP_53_A_full_SYN_queue_drops_the_next_SYN()
    {
        Dialog d = new Dialog(o => o with { SynQueueMax = 4 }).Listen();
        for (ushort i = 0; i < 5; i++)
        {
            d.Send("S 0:0(0) win 1000", flow: d.Flow with { RemotePort = (ushort)(5000 + i) });
        }

        Assert.Equal(4, d.TakeAll().Count);
        Assert.Equal((4, 1), (d.Listener!.HalfOpenCount, d.Stats.SynsDropped));
    }

    [Fact]
    public void TCP_53_With_cookies_nothing_is_remembered_and_the_options_come_back()
    {
        Dialog d = new Dialog(o => o with { SynCookies = SynCookieMode.Always, ReceiveBufferBytes = 1 << 20 }).Listen();
        d.Wait(1000);
        d.Send("S 0:0(0) win 1000 <mss 1300,sackOK,TS val 100 ecr 0,nop,wscale 9>");
        Assert.True(d.TryTake(out TcpTransmit answer));
        Assert.Equal((0, 0), (d.Listener!.HalfOpenCount, d.Endpoint.ConnectionCount));
        Assert.Null(d.Endpoint.NextDeadline);
        uint echo = answer.Options.TimestampValue - d.Endpoint.TimestampOf(d.Flow, TimeSpan.Zero);
        Assert.InRange(echo, 900u, 1000u);
        d.Send($"P. 1:11(10) ack 1 win 100 <TS val 101 ecr {echo}>");
        Assert.True(d.Listener.TryAccept(out TcpConnection? connection));
        Assert.Equal((1288, 9, true), (
            connection.Info.SegmentBytes, connection.Info.SendWindowShift, connection.Info.UsesSack));
        d.ExpectRead(1, 10);
        Assert.Equal((1, 1), (d.Stats.CookiesSent, d.Stats.CookiesAccepted));
    }

    [Theory]
    [InlineData(1001, 1, 0)]
    [InlineData(1, 1001, 0)]
    [InlineData(1, 1, 3)]
    public void TCP_53_An_altered_or_old_cookie_is_reset(long ack, long sequence, int minutes)
    {
        Dialog d = new Dialog(o => o with { SynCookies = SynCookieMode.Always }).Listen();
        d.Send("S 0:0(0) win 1000 <mss 1300>");
        d.Expect("S. 0:0(0) ack 1");
        d.Wait(TimeSpan.FromMinutes(minutes));
        d.Send($". {sequence}:{sequence}(0) ack {ack} win 100");
        d.Expect($"R {ack}:{ack}(0)");
        Assert.False(d.HasConnection);
    }

    [Fact]
    public void TCP_53_A_full_accept_queue_drops_the_third_packet_and_the_client_comes_again()
    {
        Dialog d = new Dialog().Listen(backlog: 0);
        TcpFlow other = d.Flow with { RemotePort = 7777 };
        d.Send("S 0:0(0) win 1000", flow: other);
        Assert.True(d.TryTake(out TcpTransmit answer));
        d.Send("S 0:0(0) win 1000");
        d.Expect("S. 0:0(0) ack 1");
        d.Send(". 1:1(0) ack 1");
        Assert.Equal(1, d.Listener!.AcceptableCount);
        uint own = d.OwnInitial;
        d.Send($". 1:1(0) ack {(uint)(answer.Sequence + 1 - own)}", flow: other);
        Assert.Equal((1, 1), (d.Listener.AcceptableCount, d.Stats.AcceptOverflows));
        Assert.True(d.Listener.TryAccept(out _));
        d.Send($". 1:1(0) ack {(uint)(answer.Sequence + 1 - own)}", flow: other);
        Assert.Equal(1, d.Listener.AcceptableCount);
    }

    [Fact]
    public void TCP_54_Sequence_numbers_grow_by_a_clock_and_are_unrelated_between_connections()
    {
        Dialog d = new Dialog(o => o with { SynQueueMax = 2000 }).Listen();
        uint[] first = [.. Enumerable.Range(0, 1000).Select(i => InitialOf(d, (ushort)(1024 + i)))];
        d.Wait(1000);
        Dialog later = new Dialog(o => o with { SynQueueMax = 2000 }).Listen();
        later.Wait(1000);
        uint[] second = [.. Enumerable.Range(0, 1000).Select(i => InitialOf(later, (ushort)(1024 + i)))];
        for (int i = 0; i < 1000; i++)
        {
            Assert.Equal(250_000u, second[i] - first[i]); // 4 us a step
        }

        // No two of neighbouring ports have the same distance, and the high bits are all used.
        Assert.True(first.Zip(first.Skip(1), (a, b) => b - a).Distinct().Count() > 990);
        Assert.Equal(16, first.Select(n => n >> 28).Distinct().Count());
    }

    [Fact]
    public void H_22_A_segment_from_ourselves_or_port_zero_is_dropped()
    {
        Dialog d = new Dialog().Listen();
        d.Send("S 0:0(0)", flow: new TcpFlow(d.Local, Dialog.OwnPort, d.Local, Dialog.OwnPort));
        d.Send("S 0:0(0)", flow: d.Flow with { RemotePort = 0 });
        d.Send("S 0:0(0)", flow: d.Flow with { LocalPort = 0 });
        d.ExpectNothing();
        Assert.Equal(0, d.Listener!.HalfOpenCount);
    }

    private static uint InitialOf(Dialog d, ushort port)
    {
        d.Send("S 0:0(0) win 1000", flow: d.Flow with { RemotePort = port });
        Assert.True(d.TryTake(out TcpTransmit answer));
        return answer.Sequence;
    }

    private static TcpConnection Connect(Dialog d)
    {
        Assert.Equal(
            Errno.Success,
            d.Endpoint.Connect(
                d.Now, d.Local, Dialog.OwnPort, d.Remote, Dialog.PeerPort, out TcpConnection? connection));
        d.Expect("S 0:0(0)");
        return connection!;
    }
}
