using Wayleave.Core;
using Wayleave.Devices.Ethernet.Tcp;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>A closed window, a silent peer, and patience (RFC 9293 3.8.4, 3.8.6.1).</summary>
public class ProbeTests
{
    [Fact]
    public void TCP_50_A_closed_window_is_probed_ever_more_rarely_for_as_long_as_answers_come()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish(window: 0);
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(1, 5000), out _));
        d.ExpectNothing();
        TimeSpan last = d.Now;
        List<double> waits = [];
        for (int i = 0; i < 40; i++)
        {
            (TimeSpan at, string text) = d.WaitForSegment(TimeSpan.FromSeconds(121));
            Assert.StartsWith(". 0:0(0) ack 1", text, StringComparison.Ordinal);
            waits.Add((at - last).TotalSeconds);
            last = at;
            d.Send(". 1:1(0) ack 1 win 0");
        }

        Assert.True(waits.Zip(waits.Skip(1)).All(w => w.Second >= w.First), string.Join(' ', waits));
        Assert.Equal(120, waits[^1], 3);
        d.Send(". 1:1(0) ack 1 win 5000");
        d.Expect("P. 1:5001(5000)");
        Assert.Equal(TcpState.Established, connection.State);
    }

    [Fact]
    public void A_closed_window_without_any_answer_ends_the_connection()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish(window: 0);
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(1, 5000), out _));
        d.ExpectNothing();
        for (int i = 0; i < 30 && connection.State != TcpState.Closed; i++)
        {
            d.Wait(TimeSpan.FromSeconds(120));
            d.TakeAll();
        }

        Assert.Equal((TcpState.Closed, Errno.ETIMEDOUT), (connection.State, connection.Error));
    }

    [Fact]
    public void TCP_51_Beyond_an_edge_that_moved_back_only_repairs_are_sent()
    {
        Dialog d = new(o => o with { SuperPacketBytes = 1 });
        TcpConnection connection = d.Establish(window: 4000);
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(1, 8000), out _));
        Assert.Equal(4, d.TakeAll().Count);
        d.Send(". 1:1(0) ack 1001 win 1000");
        d.ExpectNothing();
        (_, string repair) = d.WaitForSegment(TimeSpan.FromSeconds(5));
        Assert.StartsWith(". 1001:2001(1000)", repair, StringComparison.Ordinal);
        d.Send(". 1:1(0) ack 4001 win 0");
        d.ExpectNothing();
        d.Send(". 1:1(0) ack 4001 win 2500");
        Assert.Equal([". 4001:5001(1000) ack 1 win 65535", ". 5001:6001(1000) ack 1 win 65535"], d.TakeAll());
    }

    [Fact]
    public void TCP_52_A_dead_peer_is_probed_nine_times_and_a_living_one_is_left_alone()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        connection.KeepAlive = true;
        connection.HandleRead();
        d.ExpectNothing();
        TimeSpan since = d.Now;
        (TimeSpan at, string text) = d.WaitForSegment(TimeSpan.FromHours(3));
        Assert.Equal((2.0, ". 0:0(0) ack 1 win 65535"), ((at - since).TotalHours, text));
        d.Send(". 1:1(0) ack 1");
        since = d.Now;
        (at, _) = d.WaitForSegment(TimeSpan.FromHours(3));
        Assert.Equal(2.0, (at - since).TotalHours);
        for (int i = 1; i < 9; i++)
        {
            since = d.Now;
            (at, text) = d.WaitForSegment(TimeSpan.FromHours(3));
            Assert.Equal((75.0, ". 0:0(0) ack 1 win 65535"), ((at - since).TotalSeconds, text));
        }

        (at, text) = d.WaitForSegment(TimeSpan.FromHours(3));
        Assert.StartsWith("R. 1:1(0)", text, StringComparison.Ordinal);
        Assert.Equal((TcpState.Closed, Errno.ETIMEDOUT), (connection.State, connection.Error));
    }

    [Fact]
    public void H_26_A_window_that_stays_closed_is_ended_by_the_users_patience()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish(window: 0);
        connection.UserTimeout = TimeSpan.FromMinutes(2);
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(1, 5000), out _));
        d.ExpectNothing();
        while (connection.State != TcpState.Closed && d.Now < TimeSpan.FromMinutes(10))
        {
            d.Send(". 1:1(0) ack 1 win 0");
            d.TakeAll();
            d.Wait(TimeSpan.FromSeconds(1));
        }

        Assert.Equal(Errno.ETIMEDOUT, connection.Error);
        Assert.InRange(d.Now, TimeSpan.FromMinutes(2), TimeSpan.FromMinutes(2.1));
    }
}
