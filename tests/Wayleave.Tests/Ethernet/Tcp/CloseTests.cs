using Wayleave.Core;
using Wayleave.Devices.Ethernet.Tcp;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>RFC 9293 3.6, 3.10.4 and RFC 1122 4.2.2.13: how connections end.</summary>
public class CloseTests
{
    [Fact]
    public void The_transitions_are_those_of_figure_5() =>
        Snapshot.Match(TransitionTable.Of<TcpState, TcpEvent>(TcpStates.Next), "TcpTransitions");

    [Fact]
    public void TCP_36_A_FIN_is_taken_in_order_alone_with_data_or_after_a_gap()
    {
        Dialog alone = new();
        TcpConnection connection = alone.Establish();
        alone.Send("F. 1:1(0) ack 1");
        alone.Expect(". 1:1(0) ack 2");
        Assert.Equal(TcpState.CloseWait, connection.State);
        Assert.True(connection.IsAtEnd);
        alone.Send("F. 1:1(0) ack 1");
        alone.Expect(". 1:1(0) ack 2");
        Assert.Equal(TcpState.CloseWait, connection.State);

        Dialog data = new();
        connection = data.Establish();
        data.Send("FP. 1:101(100) ack 1");
        data.Expect(". 1:1(0) ack 102");
        data.ExpectRead(1, 100);

        Dialog gap = new();
        connection = gap.Establish();
        gap.Send("FP. 101:201(100) ack 1");
        gap.Expect(". 1:1(0) ack 1");
        Assert.Equal((TcpState.Established, false), (connection.State, connection.IsAtEnd));
        gap.Send("P. 1:101(100) ack 1");
        gap.Expect(". 1:1(0) ack 202");
        Assert.Equal((TcpState.CloseWait, true), (connection.State, connection.IsAtEnd));
        gap.ExpectRead(1, 200);
    }

    [Fact]
    public void TCP_36_A_FIN_alone_behind_a_gap_delivers_nothing()
    {
        // Found by seed 39645 of LossyLinkTests: bytes behind the gap were delivered in place of those before it.
        Dialog d = new();
        TcpConnection connection = d.Establish();
        d.Send(". 101:201(100) ack 1");
        d.Expect(". 1:1(0) ack 1");
        d.Send("F. 201:201(0) ack 1");
        d.Expect(". 1:1(0) ack 1");
        Assert.Equal((0, TcpState.Established), (connection.Received.UnreadBytes, connection.State));
        d.Send(". 1:101(100) ack 1");
        d.Expect(". 1:1(0) ack 202");
        d.ExpectRead(1, 200);
    }

    [Fact]
    public void TCP_37_An_active_close_ends_in_TIME_WAIT_for_a_minute()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        connection.Shutdown();
        d.Expect("F. 1:1(0) ack 1");
        Assert.Equal(TcpState.FinWait1, connection.State);
        d.Send(". 1:1(0) ack 2");
        Assert.Equal(TcpState.FinWait2, connection.State);
        d.Send("F. 1:1(0) ack 2");
        d.Expect(". 2:2(0) ack 2");
        Assert.Equal(TcpState.TimeWait, connection.State);
        d.Wait(TimeSpan.FromSeconds(59.9));
        Assert.True(d.HasConnection);
        d.Wait(TimeSpan.FromSeconds(0.2));
        Assert.False(d.HasConnection);
        Assert.Equal(Errno.Success, connection.Error);
    }

    [Fact]
    public void TCP_38_Two_FINs_that_cross_end_in_TIME_WAIT()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        connection.Shutdown();
        d.Expect("F. 1:1(0) ack 1");
        d.Send("F. 1:1(0) ack 1");
        d.Expect(". 2:2(0) ack 2");
        Assert.Equal(TcpState.Closing, connection.State);
        d.Send(". 2:2(0) ack 2");
        Assert.Equal(TcpState.TimeWait, connection.State);
    }

    [Fact]
    public void TCP_39_After_a_half_close_the_peer_goes_on()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        Assert.Equal(Errno.Success, connection.Send(Dialog.Bytes(1, 100), out _));
        connection.Shutdown();
        d.Expect("FP. 1:101(100) ack 1");
        Assert.Equal(Errno.EPIPE, connection.Send([1], out _));
        d.Send(". 1:1(0) ack 102");
        for (int i = 0; i < 5; i++)
        {
            d.Send($"P. {1 + (1000 * i)}:{1001 + (1000 * i)}(1000) ack 102");
            d.ExpectRead(1 + (1000 * i), 1000);
        }

        d.TakeAll();
        d.Send("F. 5001:5001(0) ack 102");
        d.Expect(". 102:102(0) ack 5002");
        Assert.Equal(TcpState.TimeWait, connection.State);
    }

    [Fact]
    public void TCP_40_A_close_with_unread_data_resets_the_peer()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        d.Send("P. 1:101(100) ack 1");
        connection.Close();
        d.Expect("R. 1:1(0) ack 101");
        d.ExpectNothing();
        Assert.False(d.HasConnection);
        Assert.Equal(d.ChunkCount, d.FreeChunks);
    }

    [Fact]
    public void TCP_41_Data_after_a_full_close_is_reset()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        connection.Close();
        d.Expect("F. 1:1(0) ack 1");
        d.Send("P. 1:101(100) ack 2");
        d.Expect("R. 2:2(0) ack 1");
        Assert.False(d.HasConnection);
        d.Send("P. 101:201(100) ack 2");
        d.Expect("R 2:2(0)");
        Assert.Equal(d.ChunkCount, d.FreeChunks);
        Assert.Equal(TcpState.Closed, connection.State);
    }

    [Fact]
    public void TCP_42_TIME_WAIT_answers_an_old_FIN_and_waits_anew()
    {
        Dialog d = CloseActively();
        d.Wait(TimeSpan.FromSeconds(50));
        d.Send("F. 1:1(0) ack 2");
        d.Expect(". 2:2(0) ack 2");
        d.Wait(TimeSpan.FromSeconds(50));
        Assert.True(d.HasConnection);
        d.Wait(TimeSpan.FromSeconds(11));
        Assert.False(d.HasConnection);
    }

    [Fact]
    public void TCP_42_TIME_WAIT_gives_way_to_a_SYN_beyond_it()
    {
        Dialog d = CloseActively();
        TcpConnection old = d.Connection;
        d.Send("S 1:1(0) win 1000"); // not beyond
        Assert.Equal(TcpState.TimeWait, old.State);
        d.TakeAll();
        d.Send("S 5000:5000(0) win 1000");
        d.Expect("S. 0:0(0) ack 5001");
        Assert.Equal(TcpState.Closed, old.State);
    }

    [Fact]
    public void TCP_42_TIME_WAIT_ends_by_an_exact_reset()
    {
        Dialog d = CloseActively();
        d.Send("R 2:2(0)");
        Assert.False(d.HasConnection);
    }

    [Fact]
    public void A_passive_close_ends_with_the_acknowledgement_of_its_FIN()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        d.Send("F. 1:1(0) ack 1");
        d.Expect(". 1:1(0) ack 2");
        connection.Close();
        d.Expect("F. 1:1(0) ack 2");
        Assert.Equal(TcpState.LastAck, connection.State);
        d.Send(". 2:2(0) ack 2");
        Assert.Equal((TcpState.Closed, Errno.Success), (connection.State, connection.Error));
        Assert.Null(d.Endpoint.NextDeadline);
    }

    [Fact]
    public void An_orphan_does_not_wait_for_ever_for_the_FIN_of_its_peer()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        connection.Close();
        d.Expect("F. 1:1(0) ack 1");
        d.Send(". 1:1(0) ack 2");
        Assert.Equal(TcpState.FinWait2, connection.State);
        d.Wait(TimeSpan.FromSeconds(61));
        Assert.False(d.HasConnection);
    }

    [Fact]
    public void A_lost_FIN_is_sent_again()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        connection.Shutdown();
        d.Expect("F. 1:1(0) ack 1");
        Assert.Equal("F. 1:1(0) ack 1 win 65535", d.WaitForSegment(TimeSpan.FromSeconds(2)).Text);
        d.Send(". 1:1(0) ack 2");
        Assert.Equal(TcpState.FinWait2, connection.State);
    }

    [Fact]
    public void TIME_WAIT_has_a_limit_and_the_oldest_gives_way()
    {
        Dialog d = new Dialog(o => o with { TimeWaitMax = 3 }).Listen();
        for (ushort port = 1000; port < 1005; port++)
        {
            TcpFlow flow = d.Flow with { RemotePort = port };
            d.Send("S 0:0(0) win 1000", flow: flow);
            Assert.True(d.TryTake(out _));
            d.Send(". 1:1(0) ack 1", flow: flow);
            Assert.True(d.Listener!.TryAccept(out TcpConnection? connection));
            connection.Close();
            d.TakeAll();
            d.Send("F. 1:1(0) ack 2", flow: flow);
            d.TakeAll();
        }

        Assert.Equal((3, 2), (d.Endpoint.ConnectionCount, d.Stats.TimeWaitEvictions));
        Assert.Null(d.Endpoint.Find(d.Flow with { RemotePort = 1000 }));
    }

    private static Dialog CloseActively()
    {
        Dialog d = new();
        TcpConnection connection = d.Establish();
        connection.Shutdown();
        d.Expect("F. 1:1(0) ack 1");
        d.Send("F. 1:1(0) ack 2");
        d.Expect(". 2:2(0) ack 2");
        Assert.Equal(TcpState.TimeWait, connection.State);
        return d;
    }
}
