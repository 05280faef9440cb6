using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>
/// Two endpoints back to back over a link that loses, duplicates, reorders and damages: every byte arrives once, in
/// order, both ways, and both ends close.
/// </summary>
public class LossyLinkTests
{
    private const int Bytes = 300_000;

    [Theory]
    [InlineData(0, 0, 0, 0, 4)]
    [InlineData(10, 10, 10, 0, 12)]
    [InlineData(50, 0, 0, 10, 8)]
    [InlineData(0, 200, 200, 0, 8)]
    [InlineData(150, 50, 50, 20, 8)]
    public void TCP_62_Every_byte_arrives_once_and_in_order(
        int loss, int duplication, int reordering, int corruption, int runs)
    {
        long retransmits = 0, timeouts = 0;
        for (int run = 0; run < runs; run++)
        {
            ulong seed = (ulong)((run + 1) * 7919) + (ulong)loss;
            SimulatedLinkOptions link = new()
            {
                LossPerMille = loss,
                DuplicationPerMille = duplication,
                ReorderingPerMille = reordering,
                CorruptionPerMille = corruption,
                Delay = TimeSpan.FromMilliseconds(5),
                Jitter = TimeSpan.FromMicroseconds(300),
                ReorderingDelay = TimeSpan.FromMilliseconds(2),
            };
            bool sack = run % 3 != 2, timestamps = run % 2 == 0;
            TcpPair pair = new(
                Choices.Seeded(seed),
                link,
                o => o with { UsesSack = sack, UsesTimestamps = timestamps },
                ipv6: run % 4 == 3);
            string outcome = Transfer(pair, Bytes, Bytes / 10);
            Assert.True(outcome.Length == 0, $"seed {seed}: {outcome}");
            retransmits += pair.A.Endpoint.Stats.Retransmits;
            timeouts += pair.A.Endpoint.Stats.Timeouts;
        }

        Assert.True(loss == 0 || retransmits > runs, $"{retransmits} retransmits, {timeouts} time-outs");
        Assert.True(loss + duplication + reordering > 0 || retransmits == 0, $"{retransmits} without need");
    }

    [Fact]
    public void One_percent_of_loss_is_repaired_almost_without_time_outs()
    {
        SimulatedLinkOptions link = new() { LossPerMille = 10, Delay = TimeSpan.FromMilliseconds(5) };
        TcpPair pair = new(Choices.Seeded(5), link);
        Assert.Equal(string.Empty, Transfer(pair, 3_000_000, 0));
        TcpStats stats = pair.A.Endpoint.Stats;
        Assert.True(stats.Timeouts <= 1 && stats.FastRecoveries > 3, $"{stats.Timeouts} of {stats.FastRecoveries}");
        Assert.InRange(stats.Retransmits, 10, 60);
    }

    [Fact]
    public void A_slow_reader_closes_the_window_and_loses_nothing()
    {
        SimulatedLinkOptions link = new() { LossPerMille = 20, Delay = TimeSpan.FromMilliseconds(1) };
        TcpPair pair = new(Choices.Seeded(9), link, o => o with { ReceiveBufferBytes = 8000 });
        Assert.Equal(string.Empty, Transfer(pair, 100_000, 0, readsBytes: 500));
    }

    [Fact]
    public void A_run_is_the_same_every_time()
    {
        (TimeSpan, long)[] runs = [.. Enumerable.Range(0, 2).Select(_ =>
        {
            TcpPair pair = new(
                Choices.Seeded(77),
                new SimulatedLinkOptions { LossPerMille = 50, Delay = TimeSpan.FromMilliseconds(3) });
            Transfer(pair, 100_000, 10_000);
            return (pair.Now, pair.A.Endpoint.Stats.SegmentsSent);
        })];
        Assert.Equal(runs[0], runs[1]);
    }

    [Fact]
    public void No_allocation_per_segment()
    {
        // The link copies; its share is measured apart by sending the same count of datagrams through it.
        Dialog d = new(o => o with { ReceiveBufferBytes = 1 << 20 });
        TcpConnection connection = d.Establish("mss 1000,sackOK,wscale 7");
        byte[] data = new byte[8000];
        long Round(int rounds)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < rounds; i++)
            {
                connection.Send(data, out _);
                while (d.Endpoint.PollTransmit(d.Now, out TcpTransmit transmit))
                {
                    for (int at = 0; at < transmit.PayloadBytes;)
                    {
                        at += transmit.GetPayload(at).LengthBytes;
                    }
                }

                d.AcknowledgeAll();
                d.Endpoint.HandleTimeout(d.Now);
                while (d.Endpoint.PollConnection(out _, out _))
                {
                }
            }

            return GC.GetAllocatedBytesForCurrentThread() - before;
        }

        Round(50);
        Assert.Equal(0, Round(200));
    }

    private static string Transfer(TcpPair pair, int bytesForth, int bytesBack, int readsBytes = 1 << 20)
    {
        Assert.Equal(Errno.Success, pair.B.Endpoint.Listen(null, 80, 8, out TcpListener? listener));
        Assert.Equal(
            Errno.Success,
            pair.A.Endpoint.Connect(pair.Now, pair.A.Address, 0, pair.B.Address, 80, out TcpConnection? client));
        TcpConnection? server = null;
        Flow forth = new(bytesForth, 1, readsBytes), back = new(bytesBack, 2, readsBytes);
        for (int step = 0; step < 2_000_000; step++)
        {
            if (server is null && listener!.TryAccept(out server))
            {
                server.NoDelay = true;
            }

            forth.Pump(client!, server);
            back.Pump(server, client!);
            bool bothDone = forth.IsDone && back.IsDone;
            if ((forth.Problem ?? back.Problem) is { } problem)
            {
                return problem;
            }

            if (bothDone && client!.State == TcpState.Closed && server!.State == TcpState.Closed)
            {
                return pair.A.Pool.LiveChunks + pair.B.Pool.LiveChunks == 0 ? "" : "chunks leaked";
            }

            if (!pair.Step() && server?.Received.UnreadBytes == 0)
            {
                return $"stuck at {pair.Now}: {client!.State}, {server?.State}, {forth.Read} and {back.Read} bytes, "
                    + $"{client.Info}, {server?.Info}";
            }
        }

        return $"no end: {client!.State} {server?.State} {forth.Read} {back.Read} at {pair.Now}";
    }

    /// <summary>Bytes in one direction: written, read and compared.</summary>
    private sealed class Flow(int total, int kind, int readsBytes)
    {
        private readonly byte[] _scratch = new byte[16384];
        private int _written;
        private bool _closed;

        public int Read { get; private set; }

        public string? Problem { get; private set; }

        public bool IsDone { get; private set; }

        public void Pump(TcpConnection? from, TcpConnection? to)
        {
            while (from is not null && _written < total && from.State.CanSend())
            {
                int count = Math.Min(_scratch.Length, total - _written);
                for (int i = 0; i < count; i++)
                {
                    _scratch[i] = Expected(_written + i);
                }

                if (from.Send(_scratch.AsSpan(0, count), out int taken) != Errno.Success)
                {
                    break;
                }

                _written += taken;
            }

            if (from is not null && _written == total && !_closed && from.State is not TcpState.SynSent)
            {
                _closed = true;
                from.Shutdown();
            }

            if (to is null || IsDone)
            {
                return;
            }

            Drain(to);
            if (Problem is not null)
            {
                return;
            }

            if (to.Error != Errno.Success)
            {
                Problem = $"{kind}: {to.Error} after {Read} bytes";
                return;
            }

            IsDone = to.IsAtEnd && to.Received.UnreadBytes == 0;
            if (IsDone && Read != total)
            {
                Problem = $"{kind}: the end came after {Read} of {total} bytes; ";
            }
        }

        private void Drain(TcpConnection to)
        {
            for (int left = readsBytes; left > 0;)
            {
                Errno errno = to.Received.Receive(
                    ReceiveFlags.None, Math.Min(left, _scratch.Length), _scratch, [], out ReceiveResult result);
                if (errno != Errno.Success)
                {
                    break;
                }

                for (int i = 0; i < result.Bytes; i++)
                {
                    if (_scratch[i] != Expected(Read + i))
                    {
                        Problem = $"{kind}: byte {Read + i} is wrong";
                        return;
                    }
                }

                Read += result.Bytes;
                left -= result.Bytes;
            }

            to.HandleRead();
        }

        private byte Expected(long position) => (byte)((position * 131) ^ (position >> 7) ^ kind);
    }
}
