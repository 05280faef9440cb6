using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// Two ends that agreed that the Firsts of WRITEs may go before their turn. What leaves together, and that the other
/// end does everything in the order of the PSNs all the same. MTU 1024.
/// </summary>
public class EarlyFirstsTests
{
    private const int Mtu = 1024;
    private const int SourceBytes = 1 << 17;

    [Fact]
    public void The_firsts_of_the_next_writes_go_with_the_first_one()
    {
        Ends e = new(ahead: 3);
        e.Write(5, 4 * Mtu);
        Assert.Equal(
            ["0F 1F 2F 3F 0M", "0M 0L 1M*2 1L 2M*2 2L 3M*2 3L", "4F 4M", "4M 4L"], e.SuperPackets());
        e.Check(5);
    }

    [Fact]
    public void What_is_left_of_short_messages_goes_together()
    {
        Ends e = new(ahead: 3);
        e.Write(8, 2 * Mtu);
        Assert.Equal(["0F 1F 2F 3F 0L", "1L 2L 3L", "4F 5F 6F 7F 4L", "5L 6L 7L"], e.SuperPackets());
        e.Check(8);
    }

    // The twin: what the same costs for a peer that holds nothing.
    [Fact]
    public void Nothing_goes_before_its_turn_to_a_peer_that_did_not_agree()
    {
        Ends e = new(ahead: 0);
        e.Write(3, 4 * Mtu);
        Assert.Equal(["0F 0M", "0M 0L", "1F 1M", "1M 1L", "2F 2M", "2M 2L"], e.SuperPackets());
        e.Check(3);
    }

    [Fact]
    public void Only_long_writes_behind_each_other_go_together()
    {
        Ends e = new(ahead: 7);
        e.Write(1, 4 * Mtu);
        e.Write(1, Mtu + 8);
        e.Write(1, 4 * Mtu);
        e.Write(1, 4 * Mtu, flags: SendFlags.Fence);
        e.Write(1, 4 * Mtu, WorkRequestOpcode.RdmaRead);
        e.Write(2, 4 * Mtu);
        Assert.Equal(
            ["0F 0M", "0M 0L", "1F 2F 1L", "2M*2 2L", "3F 3M", "3M 3L 4R"], e.SuperPackets()[..6]);
        e.Run();
        Assert.Equal(7, e.Completions.Count(c => c.Status == WorkCompletionStatus.Success));
    }

    [Fact]
    public void Nothing_goes_before_its_turn_beside_another_queue_pair()
    {
        Ends e = new(ahead: 3);
        e.Write(3, 4 * Mtu);
        e.WriteByAnother(3, 4 * Mtu);
        Assert.All(e.SuperPackets(), s => Assert.DoesNotContain("0F 1F 2F", s, StringComparison.Ordinal));
        e.Check(3);
    }

    // Whatever packet is lost is found and sent again, in its order, and each message completes once.
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(6)]
    [InlineData(7)]
    [InlineData(9)]
    [InlineData(12)]
    [InlineData(15)]
    public void A_lost_packet_is_sent_again_in_its_order(int lost)
    {
        Ends e = new(ahead: 3);
        e.Write(8, 4 * Mtu);
        int seen = 0;
        e.Link.Filter = (from, _) => !ReferenceEquals(from, e.Link.A) || seen++ != lost;
        e.Run();
        Assert.True(seen > 32, $"{seen} packets");
        e.Check(8);
        Assert.True(e.Link.A.Port.Stats.Retransmits > 0);
    }

    // On a loopback a super-packet is lost whole. What was on its way behind it must not take the room of what comes
    // again: one gap is one NAK.
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(3)]
    public void A_lost_super_packet_is_one_gap(int lost)
    {
        Ends e = new(ahead: 7);
        e.Write(24, 2 * Mtu);
        e.LoseSuperPacket(lost);
        e.SuperPackets();
        e.Check(24);
        Assert.Equal(1, e.Link.A.Port.Stats.NaksReceived);
        Assert.Equal(0, e.Link.A.Port.Stats.Timeouts);
    }

    [Fact]
    public void The_numbers_may_begin_again_among_those_that_went_ahead()
    {
        Ends e = new(ahead: 7, firstPsn: 0xFFFFF6);
        e.Write(16, 2 * Mtu);
        Assert.StartsWith("0F 1F 2F 3F 4F 5F 6F 7F 0L", e.Poll(), StringComparison.Ordinal);
        e.Check(16);
        Assert.Equal(0, e.Link.A.Port.Stats.Retransmits);
    }

    // The peer has done all before it, and says so before the turn of the First has come here.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_refusal_of_a_first_whose_turn_has_not_come_is_heard(bool isFatal)
    {
        Ends e = new(ahead: 1);
        e.Write(1, 2 * Mtu);
        e.Write(1, 2 * Mtu, key: isFatal ? 0xDEAD00 : null);
        TestMemory moving = e.Target;
        Assert.Equal("0F 1F 0L", e.Poll(beforeArrival: isFatal ? null : moving.Invalidate));
        while (e.Link.Step(e.Link.B, e.Link.A))
        {
        }

        Assert.Equal(isFatal ? 1 : 0, (int)e.Link.A.Port.Stats.NaksReceived);
        Assert.Equal(isFatal ? 0 : 1, (int)e.Link.A.Port.Stats.RnrNaksReceived);
        e.Link.B.ServeFaults();
        e.Run();
        Assert.Equal(
            [
                WorkCompletionStatus.Success,
                isFatal ? WorkCompletionStatus.RemoteAccessError : WorkCompletionStatus.Success,
            ],
            e.Completions.Select(c => c.Status));
    }

    [Theory]
    [InlineData(1, false)]
    [InlineData(1 << 16, false)]
    [InlineData(1 << 17, false)]
    [InlineData((1 << 17) + 1, true)]
    [InlineData(1 << 22, true)]
    public void A_first_too_far_ahead_is_a_gap(int ahead, bool isGap)
    {
        Conversation c = new(q => q with { Profile = PeerProfile.Default with { FirstsAhead = 3 } });
        c.Send(new RawPacket(Opcode.RcWriteFirst, Psn.Add(Conversation.First, (uint)ahead))
        {
            Reth = new Reth(c.Region.Iova, c.Region.Key, 4 * Mtu),
            Payload = new byte[Mtu],
        });
        if (isGap)
        {
            c.Expect($"RC_ACKNOWLEDGE {Conversation.First:x6} 60 msn=0");
        }

        c.ExpectNothing();
    }

    // As far as a peer holds, and not a packet more: half of what it would, for it may be as much behind.
    [Theory]
    [InlineData(EarlyFirsts.PsnsMax, true)]
    [InlineData(EarlyFirsts.PsnsMax + 1, false)]
    public void A_first_goes_ahead_so_far_and_no_farther(int packets, bool goes)
    {
        const int Smallest = 256;
        Conversation c = new(
            a => a with
            {
                PathMtu = PathMtu.Mtu256,
                Profile = PeerProfile.Default with { FirstsAhead = 3 },
                AddressVector = a.AddressVector with { KeepsSuperPackets = true },
            },
            o => o with { WindowBytes = 1 << 20 });
        MemoryRegion region = c.Node.Register(c.Node.Allocate(packets * Smallest));
        foreach (int length in new[] { packets * Smallest, 4 * Smallest })
        {
            Assert.Equal(Errno.Success, c.Pair.PostSend(
                new SendWorkRequest { Opcode = WorkRequestOpcode.RdmaWrite, RKey = 1 },
                new Sge(region.Iova, (uint)length, region.Key)));
        }

        c.Expect($"RC_WRITE_FIRST {Conversation.OwnFirst:x6}");
        c.Expect(goes
            ? $"RC_WRITE_FIRST {Conversation.OwnFirst + packets:x6}"
            : $"RC_WRITE_MIDDLE {Conversation.OwnFirst + 1:x6}");
    }

    // The peer comes to the First that it holds when we are drained already, and cannot take it yet. Drained is
    // drained; the request is sent again when sending goes on, and not before.
    [Fact]
    public void A_held_first_that_is_refused_for_now_keeps_no_queue_pair_from_being_drained()
    {
        Ends e = new(ahead: 3);
        TestMemory moving = e.Link.B.Allocate(SourceBytes);
        MemoryRegion region = e.Link.B.Register(moving);
        moving.Invalidate();
        e.Write(1, 4 * Mtu);
        e.Write(1, 4 * Mtu, key: region.Key);
        Assert.Equal("0F 1F 0M", e.Poll());
        e.Modify(QueuePairState.SendQueueDrained);
        e.Run();
        Assert.Equal(1, e.Link.A.Port.Stats.RnrNaksReceived);
        Assert.Equal(
            [new AsyncEvent(AsyncEventType.SendQueueDrained, e.Pair.QpNumber)], e.Link.A.PollEvents());
        Assert.Equal((1, 0L), (e.Completions.Count, e.WindowInFlightBytes));
        e.Link.B.ServeFaults();
        e.Run();
        Assert.Single(e.Completions);
        e.Modify(QueuePairState.ReadyToSend);
        e.Run();
        Assert.Equal(
            [WorkCompletionStatus.Success, WorkCompletionStatus.Success], e.Completions.Select(w => w.Status));
        Assert.Equal(TestMemory.Pattern(8 * Mtu, 3)[(4 * Mtu)..], moving.Read(4 * Mtu, 4 * Mtu));
    }

    [Fact]
    public void Others_that_begin_beside_what_went_ahead_share_with_each_other_only()
    {
        Ends e = new(ahead: 3);
        e.Write(8, 4 * Mtu);
        Assert.Equal("0F 1F 2F 3F 0M", e.Poll());
        e.WriteByAnother(2, 4 * Mtu);
        e.WriteByAnother(2, 4 * Mtu);
        Assert.Contains(e.SuperPackets(), s => s.Contains("xF*2", StringComparison.Ordinal));
        e.Check(8);
    }

    // The key of the second message is dead when its turn comes: the first one is placed whole, of the second not a
    // byte, and the error is the second's.
    [Fact]
    public void A_first_that_came_before_its_turn_is_refused_in_its_turn()
    {
        Ends e = new(ahead: 3);
        e.Write(1, 4 * Mtu);
        e.Write(1, 4 * Mtu, key: 0xDEAD00);
        e.Write(2, 4 * Mtu);
        e.Run();
        Assert.Equal(
            [
                WorkCompletionStatus.Success, WorkCompletionStatus.RemoteAccessError,
                WorkCompletionStatus.WorkRequestFlushed, WorkCompletionStatus.WorkRequestFlushed,
            ],
            e.Completions.Select(c => c.Status));
        e.AssertPlaced(message: 0, 4 * Mtu);
        e.AssertUntouched(from: 4 * Mtu);
    }

    // The key dies after the First has come and before its turn. It is held, so nothing of it lands.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_key_that_dies_while_its_first_is_held_is_refused(bool holds)
    {
        Ends e = new(ahead: 3, holds);
        e.Write(4, 4 * Mtu);
        Assert.Equal("0F 1F 2F 3F 0M", e.Poll()); // and arrives
        Assert.Null(e.Link.B.Deregister(e.Region));
        e.Run();
        Assert.Equal(!holds, e.HasPlaced(message: 1, Mtu)); // the twin executes what comes ahead at once
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, e.Completions[0].Status);
    }

    [Fact]
    public void A_receiver_that_is_not_ready_is_asked_again_in_order()
    {
        Ends e = new(ahead: 3);
        e.Write(8, 4 * Mtu);
        e.Poll();
        e.Target.Move();
        e.Link.RunFor(TimeSpan.FromMilliseconds(5));
        e.Link.B.ServeFaults();
        e.Run();
        e.Check(8);
        Assert.True(e.Link.A.Port.Stats.RnrNaksReceived > 0);
    }

    [Fact]
    public void A_queue_pair_that_is_stopped_or_drained_leaves_nothing_in_the_window()
    {
        Ends e = new(ahead: 3);
        e.Write(4, 4 * Mtu);
        e.Poll();
        Assert.Equal(Errno.Success, e.Pair.Modify(
            new QueuePairAttributes { State = QueuePairState.Error }, QueuePairAttributeMask.State));
        e.Run();
        Assert.Equal(0, e.WindowInFlightBytes);

        Ends drained = new(ahead: 3);
        drained.Write(4, 4 * Mtu);
        drained.Poll();
        Assert.Equal(Errno.Success, drained.Pair.Modify(
            new QueuePairAttributes { State = QueuePairState.SendQueueDrained }, QueuePairAttributeMask.State));
        drained.Run();
        Assert.Equal(0, drained.WindowInFlightBytes);
        Assert.Single(drained.Completions);
        Assert.Equal(Errno.Success, drained.Pair.Modify(
            new QueuePairAttributes { State = QueuePairState.ReadyToSend }, QueuePairAttributeMask.State));
        drained.Run();
        drained.Check(4);
    }

    [Fact]
    public void A_small_window_is_never_filled_with_firsts()
    {
        Ends e = new(ahead: 7, windowBytes: 12 * Mtu);
        e.Write(12, 4 * Mtu);
        e.Run();
        e.Check(12);
        Assert.True(e.Link.A.Port.Stats.SentAhead > 0);
        Assert.Equal((0L, 0L), (e.Link.A.Port.Stats.Retransmits, e.Link.A.Port.Stats.Timeouts));
        Assert.Equal(0, e.WindowInFlightBytes);
    }

    /// <summary>A queue pair on each side; message i goes to the place behind message i - 1.</summary>
    private sealed class Ends
    {
        private readonly byte[] _buffer = new byte[65536];
        private readonly TestMemory _source;
        private readonly MemoryRegion _local;
        private readonly List<uint> _starts = []; // first PSN of each request
        private uint _nextPsn;
        private uint _offset;
        private int? _lost;
        private Action? _beforeArrival;

        public Ends(int ahead, bool holds = true, int? windowBytes = null, uint firstPsn = 0xA00000)
        {
            Link = new TestLink(
                o => o with { WindowBytes = windowBytes ?? 1 << 20, AcknowledgeShare = windowBytes is null ? 1 : 2 },
                o => o with { Defences = new ResponderDefences { HoldsEarly = holds } });
            QueuePairAttributes Agree(QueuePairAttributes q) => q with
            {
                Profile = PeerProfile.Default with { FirstsAhead = ahead },
                AddressVector = q.AddressVector with { KeepsSuperPackets = true },
                SqPsn = q.SqPsn == new Connection().Attributes.SqPsn ? firstPsn : q.SqPsn,
                RqPsn = q.RqPsn == new Connection().Attributes.SqPsn ? firstPsn : q.RqPsn,
            };
            _nextPsn = firstPsn;
            (Pair, Peer) = Link.Connect(Agree, Agree);
            _source = Link.A.Allocate(SourceBytes);
            _source.FillPattern(0, SourceBytes, seed: 3);
            _local = Link.A.Register(_source);
            Target = Link.B.Allocate(SourceBytes);
            Region = Link.B.Register(Target);
            Assert.Empty(SuperPackets()); // a modify rings a doorbell too
        }

        public TestLink Link { get; }

        public QueuePair Pair { get; }

        public QueuePair Peer { get; }

        public TestMemory Target { get; }

        public MemoryRegion Region { get; }

        public List<WorkCompletion> Completions { get; } = [];

        public long WindowInFlightBytes => Pair.Peer.Window.InFlightBytes;

        public void Write(
            int count,
            int length,
            WorkRequestOpcode opcode = WorkRequestOpcode.RdmaWrite,
            SendFlags flags = SendFlags.None,
            uint? key = null)
        {
            for (int i = 0; i < count; i++)
            {
                _starts.Add(_nextPsn);
                _nextPsn = Psn.Add(_nextPsn, (uint)((length + Mtu - 1) / Mtu));
                Post(Pair, (uint)length, opcode, flags, key ?? Region.Key);
                _offset += (uint)length;
            }
        }

        /// <summary>Of a second queue pair between the same two, to the same place.</summary>
        public void WriteByAnother(int count, int length)
        {
            QueuePairAttributes Keep(QueuePairAttributes q) =>
                q with { AddressVector = q.AddressVector with { KeepsSuperPackets = true } };
            (QueuePair another, _) = Link.Connect(Keep, Keep);
            for (int i = 0; i < count; i++)
            {
                Post(another, (uint)length, WorkRequestOpcode.RdmaWrite, SendFlags.None, Region.Key);
            }
        }

        /// <summary>What leaves next, delivered, in words.</summary>
        public string Poll(Action? beforeArrival = null)
        {
            _beforeArrival = beforeArrival;
            return PollOnce() ?? "";
        }

        /// <summary>The one so many super-packets on does not arrive.</summary>
        public void LoseSuperPacket(int index) => _lost = index;

        /// <summary>All that leaves without an answer, delivered, in words: which message, and F, M, L or O.</summary>
        public List<string> SuperPackets()
        {
            List<string> all = [];
            while (PollOnce() is { } one)
            {
                all.Add(one);
            }

            return all;
        }

        public void Run()
        {
            Link.RunFor(TimeSpan.FromSeconds(1));
            Completions.AddRange(TestNode.Poll(Pair.SendCompletionQueue));
        }

        public void Modify(QueuePairState state) => Assert.Equal(
            Errno.Success, Pair.Modify(new QueuePairAttributes { State = state }, QueuePairAttributeMask.State));

        /// <summary>All messages have completed, in order, and their bytes are there.</summary>
        public void Check(int messages)
        {
            Run();
            Assert.Equal(messages, Completions.Count);
            Assert.All(Completions, c => Assert.Equal(WorkCompletionStatus.Success, c.Status));
            Assert.Equal(Completions.Select(c => c.WrId).Order(), Completions.Select(c => c.WrId));
            Assert.Equal(_source.Read(0, (int)_offset), Target.Read(0, (int)_offset));
        }

        public void AssertPlaced(int message, int length) =>
            Assert.Equal(_source.Read(message * length, length), Target.Read(message * length, length));

        public bool HasPlaced(int message, int packetBytes) =>
            Target.Read(message * 4 * Mtu, packetBytes).AsSpan().ContainsAnyExcept((byte)0);

        public void AssertUntouched(int from) =>
            Assert.False(Target.Read(from, SourceBytes - from).AsSpan().ContainsAnyExcept((byte)0));

        private void Post(QueuePair pair, uint length, WorkRequestOpcode opcode, SendFlags flags, uint key) =>
            Assert.Equal(Errno.Success, pair.PostSend(
                new SendWorkRequest
                {
                    WrId = _offset,
                    Opcode = opcode,
                    Flags = SendFlags.Signaled | flags,
                    RemoteAddress = Region.Iova + _offset,
                    RKey = key,
                },
                new Sge(_local.Iova + _offset, length, _local.Key)));

        private string? PollOnce()
        {
            if (!Link.A.Port.PollTransmit(Link.Now, _buffer, out Transmit transmit))
            {
                return null;
            }

            List<string> packets = [];
            for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
            {
                int length = Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at);
                packets.Add(Describe(_buffer.AsSpan(at, length), (ushort)(at / transmit.SegmentBytes)));
            }

            _beforeArrival?.Invoke();
            _beforeArrival = null;
            if (_lost-- != 0)
            {
                Link.B.Port.HandleDatagrams(
                    Link.A.Gid, 4791, _buffer.AsSpan(0, transmit.LengthBytes), transmit.SegmentBytes, 0, Link.Now);
            }

            return string.Join(' ', packets
                .Select((name, i) => (Name: name, Run: i - packets.Take(i).Count(p => p == name)))
                .GroupBy(p => p)
                .Select(g => g.Count() > 1 ? $"{g.Key.Name}*{g.Count()}" : g.Key.Name));
        }

        private string Describe(ReadOnlySpan<byte> bytes, ushort index)
        {
            Assert.True(Icrc.Verify(new IcrcFlow(Link.A.Gid, Link.B.Gid, 4791, 4791), index, bytes));
            Assert.Equal(DropReason.None, PacketView.TryParse(bytes, out PacketView packet));
            uint psn = packet.Psn;
            string name = OpcodeTraits.NameOf(packet.Opcode);
            char kind = name.Contains("READ", StringComparison.Ordinal) ? 'R' : name[name.LastIndexOf('_') + 1];
            return packet.DestQp == Peer.QpNumber
                ? $"{_starts.FindLastIndex(s => Psn.Compare(s, psn) <= 0)}{kind}"
                : $"x{kind}";
        }
    }
}
