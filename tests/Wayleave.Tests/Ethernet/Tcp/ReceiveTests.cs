using Wayleave.Devices.Ethernet.Tcp;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>Reassembly, acknowledgements and the window (RFC 9293 3.8.6, 3.10.7.4; RFC 2018; RFC 2883).</summary>
public class ReceiveTests
{
    private const string Sack = "mss 1000,sackOK,TS val 0 ecr 0";

    [Fact]
    public void TCP_10_Data_in_order_is_delivered_and_acknowledged_in_time()
    {
        Dialog d = new();
        d.Establish();
        d.Send("P. 1:101(100) ack 1");
        Assert.Equal(TcpEvents.Readable, d.Events());
        d.ExpectRead(1, 100);
        d.ExpectNothing();
        (TimeSpan at, string text) = d.WaitForSegment(TimeSpan.FromSeconds(1));
        Assert.Equal((TimeSpan.FromMilliseconds(40), ". 1:1(0) ack 101 win 65435"), (at, text));
    }

    [Fact]
    public void TCP_11_Two_full_segments_or_a_super_packet_of_two_are_acknowledged_at_once()
    {
        Dialog d = new();
        d.Establish();
        d.Send(". 1:1001(1000) ack 1");
        d.ExpectNothing();
        d.Send(". 1001:2001(1000) ack 1");
        d.Expect(". 1:1(0) ack 2001");
        d.Send(". 2001:4001(2000) ack 1", segmentBytes: 1000);
        d.Expect(". 1:1(0) ack 4001");
        d.ExpectNothing();
    }

    [Fact]
    public void TCP_12_A_small_segment_is_acknowledged_within_40_ms()
    {
        Dialog d = new();
        d.Establish();
        d.Send("P. 1:2(1) ack 1");
        d.Wait(39);
        d.ExpectNothing();
        d.Wait(1);
        d.Expect(". 1:1(0) ack 2");
    }

    [Fact]
    public void TCP_13_A_gap_is_reported_at_once_and_so_is_its_end()
    {
        Dialog d = new();
        d.Establish(Sack);
        d.Send(". 1001:2001(1000) ack 1 <TS val 1 ecr 0>");
        d.Expect(". 1:1(0) ack 1 win 65535 <TS val 0 ecr 1,sack 1001:2001>");
        d.Send(". 1:1001(1000) ack 1 <TS val 1 ecr 0>");
        d.Expect(". 1:1(0) ack 2001 win 63535 <TS val 0 ecr 1>");
        d.ExpectRead(1, 2000);
    }

    [Fact]
    public void TCP_14_The_block_that_grew_last_comes_first_and_three_fit_beside_timestamps()
    {
        Dialog d = new();
        d.Establish(Sack);
        string[] expected =
        [
            "sack 101:201", "sack 301:401 101:201", "sack 501:601 301:401 101:201", "sack 701:801 501:601 301:401",
        ];
        for (int i = 0; i < 4; i++)
        {
            int first = 101 + (200 * i);
            d.Send($". {first}:{first + 100}(100) ack 1 <TS val 1 ecr 0>");
            d.Expect($". 1:1(0) ack 1 win 65535 <TS val 0 ecr 1,{expected[i]}>");
        }

        // The first one grows: it is the news.
        d.Send(". 201:251(50) ack 1 <TS val 1 ecr 0>");
        d.Expect(". 1:1(0) ack 1 win 65535 <TS val 0 ecr 1,sack 101:251 701:801 501:601>");
    }

    [Fact]
    public void TCP_15_A_duplicate_is_named_and_not_delivered()
    {
        Dialog d = new();
        d.Establish(Sack);
        d.Send(". 1:501(500) ack 1 <TS val 1 ecr 0>");
        d.ExpectRead(1, 500);
        d.Wait(40);
        d.Expect(". 1:1(0) ack 501");
        d.Send(". 1:501(500) ack 1 <TS val 1 ecr 0>");
        d.Expect(". 1:1(0) ack 501 win 65035 <TS val 40 ecr 1,sack 1:501>");
        Assert.Empty(d.Read());

        // Beyond a gap too: the first block is the duplicate, the second holds it.
        d.Send(". 1001:1501(500) ack 1 <TS val 1 ecr 0>");
        d.Expect(". 1:1(0) ack 501 win 65035 <TS val 40 ecr 1,sack 1001:1501>");
        d.Send(". 1101:1201(100) ack 1 <TS val 1 ecr 0>");
        d.Expect(". 1:1(0) ack 501 win 65035 <TS val 40 ecr 1,sack 1101:1201 1001:1501>");
        Assert.Equal(d.ChunkCount - 1, d.FreeChunks);
    }

    [Fact]
    public void TCP_16_The_first_copy_of_a_byte_is_kept()
    {
        Dialog d = new();
        d.Establish();
        d.Send(". 101:201(100) ack 1");
        d.Send(". 51:251(200) ack 1", fill: 0xEE);
        d.Send(". 1:251(250) ack 1", fill: 0xDD);
        byte[] expected = new byte[250];
        expected.AsSpan(0, 50).Fill(0xDD);
        expected.AsSpan(50, 50).Fill(0xEE);
        Dialog.Bytes(101, 100).CopyTo(expected.AsSpan(100));
        expected.AsSpan(200).Fill(0xEE);
        Assert.Equal(expected, d.Read());
        Assert.Equal(d.ChunkCount, d.FreeChunks);
    }

    [Fact]
    public void TCP_17_What_lies_beyond_the_window_is_cut_off()
    {
        Dialog d = new(o => o with { ReceiveBufferBytes = 3000 });
        d.Establish();
        d.Send(". 1:2001(2000) ack 1", segmentBytes: 1000);
        d.Expect(". 1:1(0) ack 2001 win 1000");
        d.Send("P. 2001:4001(2000) ack 1");
        d.Expect(". 1:1(0) ack 3001 win 0");
        d.ExpectRead(1, 3000);
    }

    [Fact]
    public void TCP_18_Of_data_that_is_partly_old_the_new_part_is_delivered()
    {
        Dialog d = new();
        d.Establish();
        d.Send(". 1:101(100) ack 1");
        d.Send(". 51:301(250) ack 1");
        d.Send(". 1:1001(1000) ack 1");
        d.ExpectRead(1, 1000);
        Assert.Equal(d.ChunkCount, d.FreeChunks);
    }

    [Fact]
    public void TCP_19_A_closed_window_takes_no_data_but_acknowledgements_resets_and_a_bare_FIN()
    {
        Dialog d = Fill();
        d.Send(". 2001:2002(1) ack 1");
        d.Expect(". 1:1(0) ack 2001 win 0");
        Assert.Equal(2000, d.Connection.Received.UnreadBytes);
        Assert.Equal(Core.Errno.Success, d.Connection.Send(Dialog.Bytes(1, 100), out _));
        d.Expect("P. 1:101(100) ack 2001 win 0");
        d.Send(". 2001:2001(0) ack 101");
        Assert.Equal(100, d.Connection.AcknowledgedBytes);
        d.Send("F. 2001:2001(0) ack 101");
        d.Expect(". 101:101(0) ack 2002 win 0");
        Assert.Equal(TcpState.CloseWait, d.Connection.State);

        Dialog reset = Fill();
        TcpConnection connection = reset.Connection;
        reset.Send("R 2001:2001(0)");
        Assert.Equal(Core.Errno.ECONNRESET, connection.Error);
    }

    [Fact]
    public void TCP_20_A_lost_window_update_is_repeated_for_a_probe()
    {
        Dialog d = Fill();
        d.ExpectRead(1, 2000);
        d.Expect(". 1:1(0) ack 2001 win 2000"); // and lost
        d.Send(". 2000:2000(0) ack 1");
        d.Expect(". 1:1(0) ack 2001 win 2000");
        d.Send(". 2001:2002(1) ack 1");
        d.Wait(40);
        d.Expect(". 1:1(0) ack 2002 win 1999");
    }

    [Fact]
    public void TCP_21_A_window_opens_by_a_segment_or_half_the_buffer()
    {
        Dialog d = Fill();
        for (int i = 0; i < 999; i++)
        {
            Assert.Equal([Dialog.ByteAt(1 + i)], d.Read(1));
            d.ExpectNothing();
        }

        d.Read(1);
        d.Expect(". 1:1(0) ack 2001 win 1000");
    }

    [Fact]
    public void The_right_edge_never_moves_left()
    {
        Dialog d = new(o => o with { ReceiveBufferBytes = 60000 });
        d.Establish();
        d.RoomBytes = 0;
        d.Send(". 1:1001(1000) ack 1");
        d.Send(". 1001:2001(1000) ack 1");
        d.Expect(". 1:1(0) ack 2001 win 58000");
        d.RoomBytes = 1 << 20;
        d.ExpectRead(1, 2000);
        d.Send(". 2001:3001(1000) ack 1");
        d.Send(". 3001:4001(1000) ack 1");
        d.Expect(". 1:1(0) ack 4001 win 58000");
    }

    [Fact]
    public void An_edge_that_moves_left_is_caught()
    {
        Dialog d = new(o => o with { Defences = TcpDefences.All with { KeepsPromisedWindow = false } });
        d.Establish();
        d.RoomBytes = 0;
        d.Send(". 1:1001(1000) ack 1");
        d.Send(". 1001:2001(1000) ack 1");
        d.Expect(". 1:1(0) ack 2001 win 0");
        d.Send(". 2001:3001(1000) ack 1"); // sent while 65535 was promised
        Assert.Equal(2000, d.Connection.Received.UnreadBytes);
    }

    [Fact]
    public void TCP_60_A_window_that_was_promised_is_kept_when_the_chunks_run_out_and_shrinks_afterwards()
    {
        Dialog d = new(o => o with { ReceiveBufferBytes = 10000 });
        d.Establish();
        d.RoomBytes = 0; // the rest comes linear, as the NIC does when device chunks run out
        for (int i = 0; i < 10; i++)
        {
            d.Send($". {1 + (1000 * i)}:{1001 + (1000 * i)}(1000) ack 1");
        }

        Assert.EndsWith("ack 10001 win 0", d.TakeAll()[^1], StringComparison.Ordinal);
        Assert.Equal(10000, d.Connection.Received.UnreadBytes);
        d.ExpectRead(1, 10000);
        d.ExpectNothing();
        d.RoomBytes = 6000;
        d.Endpoint.HandleRoom();
        d.Expect(". 1:1(0) ack 10001 win 6000");
    }

    [Fact]
    public void TCP_57_A_super_packet_is_one_delivery_and_tells_the_size_of_its_segments()
    {
        Dialog d = new(o => o with { ReceiveBufferBytes = 1 << 20 });
        TcpConnection connection = d.Establish("mss 1460,wscale 7");
        d.Send("P. 1:64241(64240) ack 1", segmentBytes: 1460);
        d.Expect(". 1:1(0) ack 64241");
        d.ExpectNothing();
        Assert.Equal(1460, connection.Info.ReceiveSegmentBytes);
        d.ExpectRead(1, 64240);
        Assert.Equal(45, d.Stats.SegmentsReceived - 1); // 44, and the third packet of the handshake
    }

    [Fact]
    public void H_20_Beyond_256_ranges_the_farthest_is_dropped()
    {
        Dialog d = new(o => o with { ReassemblyRangesMax = 16 });
        d.Establish(Sack);
        for (int i = 40; i > 0; i--)
        {
            d.Send($". {1 + (20 * i)}:{11 + (20 * i)}(10) ack 1 <TS val 1 ecr 0>");
        }

        Assert.Equal(160, d.Connection.Info.OutOfOrderBytes);
        Assert.Equal(d.ChunkCount - 16, d.FreeChunks);
        d.Send(". 1:1001(1000) ack 1 <TS val 1 ecr 0>");
        d.ExpectRead(1, 1000);
        Assert.Equal(d.ChunkCount, d.FreeChunks);
    }

    private static Dialog Fill()
    {
        Dialog d = new(o => o with { ReceiveBufferBytes = 2000 });
        d.Establish();
        d.Send(". 1:1001(1000) ack 1");
        d.Send(". 1001:2001(1000) ack 1");
        d.Expect(". 1:1(0) ack 2001 win 0");
        return d;
    }
}
