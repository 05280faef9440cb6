using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Tcp.Wire;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>
/// H-19, H-20, F-09, F-10: options and segments of somebody who means no good, and what holds whatever they are.
/// </summary>
public class SegmentFuzzTests
{
    private const int Segments = 400;

    [Fact]
    public void H_19_Options_of_any_bytes_are_read_without_a_fault_and_ours_come_back_equal()
    {
        SplitMix64 random = new(7);
        byte[] bytes = new byte[SegmentOptions.SizeMax], written = new byte[SegmentOptions.SizeMax];
        for (int i = 0; i < FuzzRounds.Of(200_000); i++)
        {
            random.Fill(bytes);
            if (i % 2 == 0)
            {
                // Mostly options that exist, with any length.
                ReadOnlySpan<byte> kinds = [0, 1, 2, 3, 4, 5, 8, 19, 253];
                bytes[0] = kinds[random.Next(kinds.Length)];
                bytes[1] = (byte)random.Next(12);
            }

            SegmentOptions parsed = SegmentOptions.Parse(bytes.AsSpan(0, random.Next(41)), isSyn: i % 3 == 0);
            Assert.InRange(parsed.SackCount, 0, 4);
            if (parsed.SizeBytes <= SegmentOptions.SizeMax)
            {
                int length = parsed.WriteTo(written);
                Assert.Equal(parsed.SizeBytes, length);
                SegmentOptions again = SegmentOptions.Parse(written.AsSpan(0, length), isSyn: i % 3 == 0);
                Assert.Equal(
                    (parsed.MaximumSegment, parsed.HasTimestamps, parsed.TimestampValue, parsed.SackCount),
                    (again.MaximumSegment, again.HasTimestamps, again.TimestampValue, again.SackCount));
            }
        }

        // A wrong length ends the options, and what came before it counts.
        SegmentOptions half = SegmentOptions.Parse([2, 4, 5, 0xB4, 8, 0, 1, 1], isSyn: true);
        Assert.Equal((1460, false), (half.MaximumSegment, half.HasTimestamps));
    }

    [Theory]
    [InlineData("2001:1001")]
    [InlineData("50001:60001")]
    [InlineData("1001:2147484650")]
    [InlineData("1001:1001")]
    public void H_20_A_block_that_cannot_be_is_ignored(string block)
    {
        Dialog d = new(o => o with { SuperPacketBytes = 1 });
        TcpConnection connection = d.Establish("mss 1000,sackOK");
        connection.Send(Dialog.Bytes(1, 5000), out _);
        Assert.Equal(5, d.TakeAll().Count);
        for (int i = 0; i < 10; i++)
        {
            d.Send($". 1:1(0) ack 1 <sack {block}>");
        }

        d.ExpectNothing();
        Assert.Equal((0, 0), (connection.Sender.Recovery.Sent.SackedBytes, connection.Sender.Recovery.Sent.LostBytes));
    }

    [Fact]
    public void H_20_A_thousand_holes_make_no_more_entries_than_allowed()
    {
        Dialog d = new(o => o with { ScoreboardEntriesMax = 64 });
        TcpConnection connection = d.Establish("mss 1000,sackOK");
        connection.Send(Dialog.Bytes(1, 10_000), out _);
        d.TakeAll();
        for (int i = 0; i < 1000; i++)
        {
            d.Send($". 1:1(0) ack 1 <sack {2 + (4 * i)}:{4 + (4 * i)}>");
            d.TakeAll();
        }

        Assert.InRange(connection.Sender.Recovery.Sent.Count, 1, 64);
        d.Send(". 1:1(0) ack 10001");
        Assert.Equal(10_000, connection.AcknowledgedBytes);
    }

    /// <summary>
    /// F-09. What is delivered is a prefix of the peer's stream; acknowledgements and the window's edge never go back;
    /// one segment makes at most one answer; every chunk comes back.
    /// </summary>
    [Fact]
    public void F_09_A_receiver_survives_every_sequence_of_segments()
    {
        long delivered = 0, held = 0;
        for (ulong seed = 1; seed <= (ulong)FuzzRounds.Of(120); seed++)
        {
            SplitMix64 random = new(seed);
            Dialog d = new(
                o => o with
                {
                    ReceiveBufferBytes = 1000 + random.Next(60_000),
                    ReassemblyRangesMax = 1 + random.Next(32),
                },
                seed: seed);
            bool hasSack = random.Next(2) == 0;
            TcpConnection connection = d.Establish(hasSack ? "mss 1000,sackOK" : "mss 1000");
            long read = 0, ack = 1, edge = 0;
            for (int i = 0; i < Segments && connection.State != TcpState.Closed; i++)
            {
                d.Send(RandomSegment(random, connection));
                int answers = 0;
                while (d.TryTake(out TcpTransmit transmit))
                {
                    Assert.True(++answers <= 1, $"seed {seed}: {d.Describe(transmit)} is another answer");
                    CheckAnswer(transmit, connection, ref ack, ref edge, seed);
                }

                held = Math.Max(held, connection.Info.OutOfOrderBytes);
                if (random.Next(4) == 0 && d.HasConnection)
                {
                    byte[] bytes = d.Read(1 + random.Next(5000));
                    Assert.True(
                        bytes.AsSpan().SequenceEqual(Dialog.Bytes(1 + read, bytes.Length)),
                        $"seed {seed}: byte {read} is not that of the stream");
                    read += bytes.Length;
                    while (d.TryTake(out TcpTransmit update))
                    {
                        CheckAnswer(update, connection, ref ack, ref edge, seed);
                    }
                }

                if (random.Next(8) == 0)
                {
                    d.Wait(random.Next(300));
                    while (d.TryTake(out TcpTransmit late))
                    {
                        CheckAnswer(late, connection, ref ack, ref edge, seed);
                    }
                }
            }

            delivered += read;
            connection.Close();
            Assert.True(d.ChunkCount == d.FreeChunks, $"seed {seed}: {d.ChunkCount - d.FreeChunks} chunks are lost");
        }

        Assert.True(delivered > 100_000 && held > 1000, $"the fuzz reached little: {delivered} bytes, {held} held");
    }

    /// <summary>
    /// F-10. Nothing leaves beyond an edge that was offered; what leaves is our stream; the counts of what is lost and
    /// held stay within what is outstanding; and an honest peer gets everything afterwards.
    /// </summary>
    [Fact]
    public void F_10_A_sender_survives_every_sequence_of_acknowledgements()
    {
        long repeated = 0;
        for (ulong seed = 1; seed <= (ulong)FuzzRounds.Of(120); seed++)
        {
            SplitMix64 random = new(seed);
            Dialog d = new(o => o with { SuperPacketBytes = random.Next(2) == 0 ? 1 : 20_000 }, seed: seed);
            bool hasSack = random.Next(4) != 0;
            TcpConnection connection = d.Establish(hasSack ? "mss 1000,sackOK" : "mss 1000");
            long edge = 1 + 65535, una = 1;
            for (int i = 0; i < Segments && connection.State != TcpState.Closed; i++)
            {
                if (random.Next(5) == 0 && connection.QueuedBytes < 200_000)
                {
                    connection.Send(Dialog.Bytes(1 + connection.QueuedBytes, random.Next(8000)), out _);
                }

                for (int sent = 0; d.TryTake(out TcpTransmit transmit); sent++)
                {
                    Assert.True(sent < 1000, $"seed {seed}: {d.Describe(transmit)} is sent for ever");
                    long first = (uint)(transmit.Sequence - d.OwnInitial);
                    long last = first + transmit.PayloadBytes;
                    Assert.True(last <= edge, $"seed {seed}: {last} is beyond {edge}");
                    Assert.Equal(Dialog.Bytes(first, transmit.PayloadBytes), Dialog.PayloadOf(transmit));
                }

                long nxt = connection.Sender.Nxt;
                long ack = random.Next(3) == 0 ? una + random.Next((int)(nxt - una) + 1) : una + random.Next(3) - 1;
                int window = random.Next(6) == 0 ? random.Next(3000) : random.Next(65536);
                string sack = "";
                for (int b = random.Next(4); hasSack && b > 0; b--)
                {
                    long left = una + random.Next(20_000) - 500;
                    sack += $" {left}:{left + random.Next(4000) - 200}";
                }

                d.Send(
                    $". 1:1(0) ack {Math.Max(ack, 0)} win {window}" + (sack.Length > 0 ? $" <sack{sack}>" : ""));
                if (ack >= una && ack <= nxt)
                {
                    una = ack;
                    edge = Math.Max(edge, ack + window);
                }

                LossRecovery recovery = connection.Sender.Recovery;
                long outstanding = connection.Sender.Nxt - Math.Max(connection.Sender.Una, 1);
                Assert.True(
                    recovery.Sent.LostBytes >= 0 && recovery.Sent.SackedBytes >= 0
                    && recovery.Sent.LostBytes + recovery.Sent.SackedBytes <= outstanding
                    && recovery.PipeBytes(connection.Sender.Una) >= 0,
                    $"seed {seed}: lost {recovery.Sent.LostBytes}, held {recovery.Sent.SackedBytes} of {outstanding}");
                if (random.Next(6) == 0)
                {
                    d.Wait(random.Next(400));
                }
            }

            Assert.Equal(TcpState.Established, connection.State);
            for (int i = 0; i < 200 && !connection.Sender.IsIdle; i++)
            {
                d.TakeAll();
                d.Send($". 1:1(0) ack {connection.Sender.Nxt} win 65535");
                d.Wait(10);
            }

            Assert.True(
                connection.AcknowledgedBytes == connection.QueuedBytes, $"seed {seed}: something was never sent");
            repeated += d.Stats.Retransmits;
        }

        Assert.True(repeated > 1000, $"the fuzz reached little: {repeated} repairs");
    }

    [Fact]
    public void H_23_differs_floods_by_count_and_memory_and_not_by_rate_and_throughput()
    {
        Dialog d = new(o => o with { SynCookies = SynCookieMode.WhenFull, ConnectionsMax = 8 });
        TcpConnection connection = d.Establish();
        long Flood(int count)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < count; i++)
            {
                TcpFlow flow = d.Flow with { RemotePort = (ushort)(1024 + (i % 30_000)) };
                TcpFlags flags = (i % 3) switch { 0 => TcpFlags.Syn, 1 => TcpFlags.Ack, _ => TcpFlags.Rst };
                d.Endpoint.HandleSegment(
                    d.Now, flow, new TcpSegment { Sequence = (uint)(i * 7919), Acknowledgement = 1, Flags = flags });
                if (i % 64 == 0)
                {
                    while (d.Endpoint.PollTransmit(d.Now, out _))
                    {
                    }
                }
            }

            return GC.GetAllocatedBytesForCurrentThread() - before;
        }

        Flood(20_000);
        Assert.Equal(0, Flood(100_000));
        Assert.Equal((256, 1), (d.Listener!.HalfOpenCount, d.Endpoint.ConnectionCount));
        connection.Send(Dialog.Bytes(1, 100), out _);
        Assert.Contains(d.TakeAll(), t => t.Contains("(100) ack 1", StringComparison.Ordinal));
        Assert.Equal(TcpState.Established, connection.State);
    }

    private static void CheckAnswer(
        in TcpTransmit transmit, TcpConnection connection, ref long ack, ref long edge, ulong seed)
    {
        if ((transmit.Flags & TcpFlags.Rst) != 0)
        {
            return;
        }

        long acknowledged = (uint)(transmit.Acknowledgement - Dialog.PeerInitial);
        Assert.True(acknowledged >= ack, $"seed {seed}: the acknowledgement went back to {acknowledged} from {ack}");
        Assert.True(acknowledged + transmit.Window >= edge, $"seed {seed}: the edge went back");
        Assert.InRange(acknowledged, 1, connection.Receiver.Next);
        (ack, edge) = (acknowledged, acknowledged + transmit.Window);
    }

    // A stream is a stream: the bytes at a position are always the same. All else is at will, but for a reset that is
    // exactly right, and an end.
    private static string RandomSegment(SplitMix64 random, TcpConnection connection)
    {
        long next = connection.Receiver.Next;
        long position = Math.Max(
            random.Next(3) switch
            {
                0 => next,
                1 => next + random.Next(4000) - 1000,
                _ => next + random.Next(200_000) - 50_000,
            },
            1);
        int length = random.Next(5) == 0 ? random.Next(9000) : random.Next(1200);
        string flags = random.Next(12) switch
        {
            0 => "S",
            1 => position == next ? "." : "R",
            2 => position == next ? "." : "R.",
            3 => "-",
            4 => "S.",
            _ => random.Next(2) == 0 ? "." : "P.",
        };
        int number = random.Next(10) == 0 ? random.Next(9) : 1;
        string ack = flags.Contains('.', StringComparison.Ordinal) ? $" ack {number}" : "";
        return $"{flags} {position}:{position + length}({length}){ack} win {random.Next(65536)}";
    }
}
