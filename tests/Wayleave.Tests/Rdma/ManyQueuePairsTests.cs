using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// In which order queue pairs to one destination send: the first packets of their messages together, the rest of each
/// in a turn. MTU 4096, so that 15 packets fit a super-packet and a message of 64 KiB is 16.
/// </summary>
public class ManyQueuePairsTests
{
    private const int Mtu = 4096;
    private const int Megabyte = 1 << 20;

    [Fact]
    public void The_first_packets_of_several_messages_share_a_super_packet_and_the_rest_of_each_follows()
    {
        Sender s = new(pairs: 3);
        s.PostAll(rounds: 2, 64 << 10);
        Assert.Equal(
            ["0F 1F 2F", "0M*14 0L", "1M*14 1L", "2M*14 2L", "0F 1F 2F", "0M*14 0L", "1M*14 1L", "2M*14 2L"],
            s.Poll());
    }

    // A queue pair whose peer holds Firsts sends two messages in a turn, and asks about both at the end of the second,
    // as long as enough are behind them.
    [Fact]
    public void Two_messages_are_a_turn_and_one_question()
    {
        Sender s = new(pairs: 3, ahead: 7) { ShowsQuestions = true };
        s.PostAll(rounds: 30, 64 << 10);
        s.Poll(most: 7); // the last to be posted to has not had a turn at first
        Assert.Equal(
            [
                "2F*2 0F*2 1F*2",
                "2M*14 2L", "2M*14 2L?", "0M*14 0L", "0M*14 0L?", "1M*14 1L", "1M*14 1L?",
                "2F*2 0F*2 1F*2",
                "2M*14 2L", "2M*14 2L?", "0M*14 0L", "0M*14 0L?", "1M*14 1L", "1M*14 1L?",
            ],
            s.Poll(most: 14));
        s.Poll();
        Assert.Equal(3 * 30, s.Messages);
    }

    [Theory]
    [InlineData(0)] // the peer holds nothing
    [InlineData(7)] // a turn is a part of a message
    public void Others_ask_at_the_end_of_each(int ahead)
    {
        Sender s = new(pairs: 2, ahead: ahead) { ShowsQuestions = true };
        s.PostAll(rounds: 8, ahead == 0 ? 64 << 10 : 17u * Mtu);
        Assert.Equal(16, s.Poll().Sum(p => p.Split("L?").Length - 1));
        Assert.Equal(0, s.SentAhead);
    }

    // In the window of an unprivileged user, which is less than five messages.
    [Theory]
    [InlineData(7, 0.55)]
    [InlineData(0, 1.2)]
    public void Eight_queue_pairs_ask_about_two_messages_at_a_time(int ahead, double most)
    {
        TestLink link = new(o => o with { WindowBytes = 319_488 });
        QueuePairAttributes OnLoopback(QueuePairAttributes q) => q with
        {
            PathMtu = PathMtu.Mtu4096,
            AddressVector = q.AddressVector with { KeepsSuperPackets = true },
            Profile = PeerProfile.Default with { FirstsAhead = ahead },
        };
        MemoryRegion local = link.A.Register(link.A.Allocate(Megabyte));
        MemoryRegion remote = link.B.Register(link.B.Allocate(Megabyte));
        QueuePair[] pairs = [.. Enumerable.Range(0, 8).Select(_ => link.Connect(OnLoopback, OnLoopback).A)];
        foreach (QueuePair pair in pairs)
        {
            for (int i = 0; i < 60; i++)
            {
                PostWrite(pair, local, remote, 64 << 10, WorkRequestOpcode.RdmaWrite);
            }
        }

        int questions = 0;
        int messages = 0;
        link.Filter = (_, bytes) =>
        {
            Assert.Equal(DropReason.None, PacketView.TryParse(bytes.Span, out PacketView packet));
            bool counts = messages < 8 * 50; // then too few are left for turns of two
            questions += counts && packet.AckRequest ? 1 : 0;
            messages += counts && packet.Opcode == Opcode.RcWriteLast ? 1 : 0;
            return true;
        };
        link.Run();
        Assert.All(pairs, p => Assert.Equal(60, TestNode.Poll(p.SendCompletionQueue).Count));
        Assert.InRange((double)questions / messages, most - 0.25, most);
    }

    // Somebody comes, and waits as long as if each turn was one message; and so does who has come.
    [Fact]
    public void Who_has_little_to_send_does_not_wait_for_turns_of_two()
    {
        Sender s = new(pairs: 6, ahead: 7);
        for (int round = 0; round < 20; round++)
        {
            for (int i = 4; i >= 0; i--)
            {
                s.Post(i, 64 << 10);
            }
        }

        s.Poll(most: 20);
        s.Post(5, 8);
        List<string> until = [.. s.Poll(most: 20).TakeWhile(p => !p.Contains("5O", StringComparison.Ordinal))];
        Assert.True(until.Count <= 7, string.Join(", ", until)); // five turns, their Firsts, and one that had begun
    }

    // The twin: what a message costs when its First goes by itself.
    [Theory]
    [InlineData(1, 16)]
    [InlineData(2, 12)]
    [InlineData(4, 10)]
    [InlineData(8, 9)]
    [InlineData(100, 9)]
    public void Eight_messages_are_that_many_super_packets(int together, int expected)
    {
        Sender s = new(pairs: 8, together);
        s.PostAll(rounds: 1, 64 << 10);
        Assert.Equal(expected, s.Poll().Count);
    }

    [Fact]
    public void Fifteen_first_packets_fit_a_super_packet()
    {
        Sender s = new(pairs: 20, together: 100);
        s.PostAll(rounds: 1, 64 << 10);
        List<string> sent = s.Poll();
        Assert.Equal(15, sent[0].Split(' ').Length);
        Assert.Equal(20 + 2, sent.Count);
    }

    [Fact]
    public void What_is_left_of_short_messages_goes_together_too()
    {
        Sender s = new(pairs: 8);
        s.PostAll(rounds: 1, 2 * Mtu);
        Assert.Equal(["0F 1F 2F 3F 4F 5F 6F 7F", "0L 1L 2L 3L 4L 5L 6L 7L"], s.Poll());
    }

    [Fact]
    public void A_last_packet_that_ends_its_super_packet_goes_with_its_first()
    {
        Sender s = new(pairs: 3);
        s.PostAll(rounds: 1, Mtu + 100);
        Assert.Equal(["0F 0L", "1F 1L", "2F 2L"], s.Poll());
    }

    [Fact]
    public void Long_messages_take_turns_of_a_super_packet_and_begin_together()
    {
        Sender s = new(pairs: 2);
        s.PostAll(rounds: 1, 31 * Mtu);
        Assert.Equal(["0F 1F", "0M*15", "1M*15", "0M*14 0L", "1M*14 1L"], s.Poll());
    }

    [Fact]
    public void Who_has_something_else_to_send_begins_nothing_with_others_and_is_not_passed_over()
    {
        Sender s = new(pairs: 4);
        s.Post(3, 64 << 10);
        s.Post(2, 8192, WorkRequestOpcode.RdmaRead);
        s.Post(1, 8); // one packet
        s.Post(0, 64 << 10);
        Assert.Equal(["0F 0M", "0M*13 0L 1O", "2R", "3F 3M", "3M*13 3L"], s.Poll());
    }

    // A SEND has no RETH, so that its First is no longer than a Middle, and rides with the end of what is before it.
    [Fact]
    public void First_packets_of_another_length_are_another_beginning()
    {
        Sender s = new(pairs: 3);
        s.Post(2, 64 << 10);
        s.Post(1, 64 << 10, WorkRequestOpcode.Send);
        s.Post(0, 64 << 10);
        Assert.Equal(["0F 0M", "0M*13 0L 1F", "1M*14 1L", "2F 2M", "2M*13 2L"], s.Poll());
    }

    // What is behind the end of a SEND fits its super-packet, and is a message begun again: that is no reason to go on.
    [Fact]
    public void A_queue_pair_that_begins_behind_its_own_end_leaves_the_turn_to_others()
    {
        Sender s = new(pairs: 2);
        for (int i = 0; i < 3; i++)
        {
            s.Post(1, 64 << 10, WorkRequestOpcode.Send);
            s.Post(0, 64 << 10, WorkRequestOpcode.Send);
        }

        Assert.Equal(["0F 0M*14", "0L 0F 0M*13", "1F 1M*14", "1L 1F 1M*13"], s.Poll()[..4]);
    }

    [Fact]
    public void A_window_that_closes_among_first_packets_is_opened_by_an_answer_to_one_of_them()
    {
        TestLink link = new(o => o with { WindowBytes = 5 * (1024 + 60 + 900) });
        MemoryRegion local = link.A.Register(link.A.Allocate(Megabyte));
        MemoryRegion remote = link.B.Register(link.B.Allocate(Megabyte));
        QueuePair[] pairs = [.. Enumerable.Range(0, 12).Select(_ => link.Connect().A)];
        for (int round = 0; round < 3; round++)
        {
            foreach (QueuePair pair in pairs)
            {
                PostWrite(pair, local, remote, 20 * 1024, WorkRequestOpcode.RdmaWrite);
            }
        }

        link.Run(); // time stands still: nobody waits for a time-out
        Assert.All(pairs, p => Assert.Equal(3, TestNode.Poll(p.SendCompletionQueue).Count));
        Assert.Equal(0, link.A.Port.Stats.Retransmits);
    }

    // What was begun together and lost is sent again by each queue pair for itself, in its own order.
    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    [InlineData(7)]
    public void A_lost_beginning_is_found_by_the_rest_of_its_message(int lost)
    {
        TestLink link = new(o => o with { WindowBytes = Megabyte });
        MemoryRegion local = link.A.Register(link.A.Allocate(64 << 10));
        MemoryRegion remote = link.B.Register(link.B.Allocate(64 << 10));
        QueuePair[] pairs = [.. Enumerable.Range(0, 8).Select(_ => link.Connect().A)];
        foreach (QueuePair pair in pairs)
        {
            PostWrite(pair, local, remote, 16 << 10, WorkRequestOpcode.RdmaWrite);
        }

        int seen = 0;
        link.Filter = (_, _) => seen++ != lost;
        link.Run();
        Assert.All(pairs, p => Assert.Single(TestNode.Poll(p.SendCompletionQueue)));
        Assert.Equal((16, 0L), ((int)link.A.Port.Stats.Retransmits, link.A.Port.Stats.Timeouts));
    }

    private static void PostWrite(
        QueuePair pair, MemoryRegion local, MemoryRegion remote, uint length, WorkRequestOpcode opcode) =>
        Assert.Equal(Errno.Success, pair.PostSend(
            new SendWorkRequest
            {
                Opcode = opcode,
                Flags = SendFlags.Signaled,
                RemoteAddress = remote.Iova,
                RKey = remote.Key,
            },
            new Sge(local.Iova, length, local.Key)));

    /// <summary>A port with a window for everything, and what it hands out in words.</summary>
    private sealed class Sender
    {
        private readonly TestLink _link;
        private readonly MemoryRegion _local;
        private readonly MemoryRegion _remote;
        private readonly List<QueuePair> _pairs = [];
        private readonly Dictionary<uint, int> _numbers = []; // of the peer's queue pairs
        private readonly Dictionary<int, uint> _psns = [];
        private readonly HashSet<(int Pair, uint Psn)> _sent = [];

        public Sender(int pairs, int together = 8, int ahead = 0)
        {
            _link = new TestLink(o => o with
            {
                WindowBytes = 64 * Megabyte,
                AcknowledgeShare = 1,
                BeginTogether = together,
            });
            _local = _link.A.Register(_link.A.Allocate(Megabyte));
            _remote = _link.B.Register(_link.B.Allocate(Megabyte));
            for (int i = 0; i < pairs; i++)
            {
                QueuePairAttributes Agree(QueuePairAttributes q) => q with
                {
                    PathMtu = PathMtu.Mtu4096,
                    Profile = PeerProfile.Default with { FirstsAhead = ahead },
                };
                (QueuePair a, QueuePair b) = _link.Connect(Agree, Agree);
                _pairs.Add(a);
                _numbers.Add(b.QpNumber, i);
            }

            Assert.Empty(Poll()); // a modify rings a doorbell too
        }

        /// <summary>A packet that asks for an acknowledgement has a question mark.</summary>
        public bool ShowsQuestions { get; init; }

        /// <summary>Messages that were sent to their end.</summary>
        public int Messages { get; private set; }

        public long SentAhead => _link.A.Port.Stats.SentAhead;

        public void PostAll(int rounds, uint length)
        {
            for (int round = 0; round < rounds; round++)
            {
                for (int i = _pairs.Count - 1; i >= 0; i--)
                {
                    Post(i, length, WorkRequestOpcode.RdmaWrite);
                }
            }
        }

        /// <summary>Doorbells are answered last in, first out: who is to be first is posted to last.</summary>
        public void Post(int pair, uint length, WorkRequestOpcode opcode = WorkRequestOpcode.RdmaWrite) =>
            PostWrite(_pairs[pair], _local, _remote, length, opcode);

        /// <summary>One text for each super-packet: whose packet each is, and F, M, L, O or R for a READ.</summary>
        public List<string> Poll(int most = int.MaxValue)
        {
            byte[] buffer = new byte[65536];
            List<string> sent = [];
            while (sent.Count < most && _link.A.Port.PollTransmit(_link.Now, buffer, out Transmit transmit))
            {
                List<string> packets = [];
                for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
                {
                    int length = Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at);
                    packets.Add(Take(buffer.AsSpan(at, length), at / transmit.SegmentBytes));
                }

                sent.Add(string.Join(' ', packets
                    .Select((name, i) => (Name: name, Run: i - packets.Take(i).Count(p => p == name)))
                    .GroupBy(p => p)
                    .Select(g => g.Count() > 1 ? $"{g.Key.Name}*{g.Count()}" : g.Key.Name)));
            }

            return sent;
        }

        // Every queue pair keeps its own order but for Firsts that go ahead, whoever is in between.
        private string Take(ReadOnlySpan<byte> bytes, int index)
        {
            Assert.True(Icrc.Verify(new IcrcFlow(_link.A.Gid, _link.B.Gid, 4791, 4791), (ushort)index, bytes));
            Assert.Equal(DropReason.None, PacketView.TryParse(bytes, out PacketView packet));
            int pair = _numbers[packet.DestQp];
            string name = OpcodeTraits.NameOf(packet.Opcode);
            char kind = name.Contains("READ", StringComparison.Ordinal) ? 'R' : name[name.LastIndexOf('_') + 1];
            Assert.True(_sent.Add((pair, packet.Psn)));
            if (packet.Opcode != Opcode.RcWriteFirst || packet.Psn == _psns.GetValueOrDefault(pair, packet.Psn))
            {
                Assert.Equal(_psns.GetValueOrDefault(pair, packet.Psn), packet.Psn);
                uint next = Psn.Add(packet.Psn, kind == 'R' ? packet.Reth.Length / Mtu : 1);
                _psns[pair] = _sent.Contains((pair, next)) ? Psn.Next(next) : next; // that First went ahead
            }

            Messages += kind is 'L' or 'O' ? 1 : 0;
            return $"{pair}{kind}{(ShowsQuestions && packet.AckRequest ? "?" : "")}";
        }
    }
}
