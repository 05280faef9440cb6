using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;
using static Wayleave.Tests.Rdma.Conversation;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// Two ends that agreed that both ends of what answers a READ may go before their turn. What leaves together, and that
/// the other end takes everything in the order of the PSNs all the same. MTU 1024.
/// </summary>
public class EarlyResponsesTests
{
    private const int AreaBytes = 1 << 17;

    [Fact]
    public void Both_ends_of_the_next_answers_go_with_the_first_one()
    {
        Ends e = new(ahead: 3);
        e.Read(5, 4 * Mtu);
        Assert.Equal(
            ["0F 0L 1F 1L 2F 2L 3F 3L 0M", "0M 1M*2 2M*2 3M*2", "4F 4L 4M", "4M"], e.SuperPackets());
        e.Check(5);
    }

    // What is left of those that have begun is not worth a super-packet, so the next ones begin first.
    [Fact]
    public void What_is_left_of_answers_flows_into_the_next_ones()
    {
        Ends e = new(ahead: 7, segments: 8);
        e.Read(3, 6 * Mtu);
        Assert.Equal(
            ["0F 0L 1F 1L 2F 2L 0M", "0M*3 1M*4 2M", "2M*3"], e.SuperPackets());
        e.Read(2, 6 * Mtu);
        Assert.Equal("3F 3L 4F 4L 3M", e.Poll());
        e.Read(1, 6 * Mtu);
        Assert.Equal("5F 5L 3M", e.Poll());
        Assert.Equal(["3M*2 4M*4 5M*2", "5M*2"], e.SuperPackets());
        e.Check(6);
    }

    // The twin: what the same costs for a peer that holds nothing.
    [Fact]
    public void Nothing_goes_before_its_turn_to_a_peer_that_did_not_agree()
    {
        Ends e = new(ahead: 0);
        e.Read(2, 4 * Mtu);
        Assert.Equal(["0F 0M", "0M", "0L 1F 1M", "1M", "1L"], e.SuperPackets());
        e.Check(2);
        Assert.Equal(0, e.Link.B.Port.Stats.ResponsesSentAhead);
    }

    [Fact]
    public void Answers_of_two_packets_need_no_other_order()
    {
        Ends e = new(ahead: 7);
        e.Read(4, 2 * Mtu);
        Assert.Equal(["0F 0L 1F 1L 2F 2L 3F 3L"], e.SuperPackets());
        e.Check(4);
        Assert.Equal(0, e.Link.B.Port.Stats.ResponsesSentAhead);
    }

    [Fact]
    public void A_short_last_one_waits_for_its_turn()
    {
        Ends e = new(ahead: 7);
        e.Read(2, 3 * Mtu + 8);
        Assert.Equal(["0F 1F 0M", "0M 0L", "1M*2 1L"], e.SuperPackets());
        e.Check(2);
    }

    [Fact]
    public void Only_long_reads_behind_each_other_go_together()
    {
        Ends e = new(ahead: 7);
        e.Read(2, 4 * Mtu);
        e.Read(1, Mtu);
        e.Read(1, 4 * Mtu);
        e.Write(Mtu);
        e.Read(1, 4 * Mtu);
        Assert.Equal(
            ["0F 0L 1F 1L 0M", "0M 1M*2", "2O 3F 3M", "3M", "3L", "5F 5L 5M", "5M"], e.SuperPackets(data: true));
        e.Check(5);
    }

    // Whatever packet is lost, request or answer, is found and asked for again, and each READ completes once.
    [Fact]
    public void A_lost_packet_is_asked_for_again()
    {
        for (int lost = 0; lost < 40; lost++)
        {
            Ends e = new(ahead: 3);
            int seen = 0;
            e.Link.Filter = (_, _) => seen++ != lost;
            e.Read(8, 4 * Mtu);
            e.Check(8);
            Assert.True(seen > 40 && e.Link.A.Port.Stats.Retransmits > 0, $"{lost} of {seen}");
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void A_lost_super_packet_is_asked_for_again(int lost)
    {
        Ends e = new(ahead: 3);
        e.Read(8, 6 * Mtu);
        for (int i = 0; i <= lost; i++)
        {
            e.Poll(arrives: i != lost);
        }

        e.Check(8);
        Assert.True(e.Link.A.Port.Stats.Retransmits > 0);
    }

    [Fact]
    public void The_numbers_may_begin_again_among_those_that_went_ahead()
    {
        Ends e = new(ahead: 7, firstPsn: 0xFFFFF6);
        e.Read(8, 4 * Mtu);
        e.Check(8);
        Assert.True(e.Link.B.Port.Stats.ResponsesSentAhead > 8);
        Assert.Equal(0, e.Link.A.Port.Stats.Retransmits);
    }

    // The third one is refused. Those before it are whole, those behind it not touched.
    [Fact]
    public void A_refusal_ends_what_is_behind_it()
    {
        Ends e = new(ahead: 7);
        e.Read(2, 4 * Mtu);
        e.Read(1, 4 * Mtu, key: 0xDEAD00);
        e.Read(1, 4 * Mtu);
        e.Run();
        Assert.Equal(
            [
                WorkCompletionStatus.Success, WorkCompletionStatus.Success,
                WorkCompletionStatus.RemoteAccessError, WorkCompletionStatus.WorkRequestFlushed,
            ],
            e.Completions.Select(c => c.Status));
        e.AssertRead(0, 8 * Mtu);
        e.AssertUntouched(8 * Mtu);
    }

    // The memory is taken back while both ends of the answers are on their way: the error is the first one's, and of
    // what was held not a byte is placed. The twin places what comes ahead at once.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Memory_that_is_revoked_in_between_completes_nothing(bool holds)
    {
        Ends e = new(ahead: 3, defences: new ResponderDefences { HoldsEarly = holds });
        e.Read(4, 4 * Mtu);
        Assert.Equal("0F 0L 1F 1L 2F 2L 3F 3L 0M", e.Poll());
        Assert.Null(e.Link.B.Deregister(e.Region));
        e.Run();
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, e.Completions[0].Status);
        Assert.All(e.Completions.Skip(1), c => Assert.Equal(WorkCompletionStatus.WorkRequestFlushed, c.Status));
        Assert.Equal(holds, e.IsUntouched(2 * Mtu));
    }

    [Fact]
    public void A_local_key_that_dies_while_packets_are_held_is_refused()
    {
        Ends e = new(ahead: 3);
        e.Read(2, 4 * Mtu);
        e.Poll();
        Assert.Null(e.Link.A.Deregister(e.Local));
        e.Run();
        Assert.Equal(WorkCompletionStatus.LocalProtectionError, e.Completions[0].Status);
        e.AssertUntouched(2 * Mtu);
    }

    [Fact]
    public void Memory_that_moves_in_between_delays_what_is_left()
    {
        Ends e = new(ahead: 3);
        e.Read(8, 4 * Mtu);
        e.Poll();
        e.Source.Move();
        e.Link.RunFor(TimeSpan.FromMicroseconds(10));
        e.Link.B.ServeFaults();
        e.Check(8);
        Assert.True(e.Link.B.Port.Stats.Faults > 0);
    }

    // The own memory moves while packets are held, so all that is left is asked for again; meanwhile the peer's bytes
    // change. Of what was held all is new then. The twin keeps what it held, and places old bytes among new ones.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void What_is_held_is_dropped_when_it_is_asked_for_again(bool forgets)
    {
        Ends e = new(ahead: 3, defences: new ResponderDefences { ForgetsHeld = forgets });
        e.Read(2, 4 * Mtu);
        Assert.StartsWith("0F 0L 1F 1L", e.Poll(), StringComparison.Ordinal);
        e.Target.Invalidate();
        e.Poll(); // a Middle that cannot be placed
        e.Source.FillPattern(0, AreaBytes, seed: 99);
        e.Link.A.ServeFaults();
        e.Link.RunFor(TimeSpan.FromSeconds(1));
        byte[] wanted = e.Source.Read(3 * Mtu, 5 * Mtu);
        Assert.Equal(forgets, e.Target.Read(3 * Mtu, 5 * Mtu).AsSpan().SequenceEqual(wanted));
    }

    // What is held is in the socket no more: its bytes make room for another READ, once.
    [Fact]
    public void What_is_held_makes_room_for_the_next_read()
    {
        const int Each = Mtu + 28 + 32 + 900; // the socket's cost of a packet
        Conversation c = Agreed(options: o => o with { ReadWindowBytes = 3 * 4 * Each - Each - 3 * Mtu });
        for (uint i = 0; i < 3; i++)
        {
            c.Post(i, WorkRequestOpcode.RdmaRead, i * 4 * Mtu, 4 * Mtu);
        }

        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_READ_REQUEST b00004 A");
        Answer(c, Opcode.RcReadResponseFirst, 0, 1);
        Answer(c, Opcode.RcReadResponseLast, 3, 1);
        Answer(c, Opcode.RcReadResponseFirst, 4, 1);
        Answer(c, Opcode.RcReadResponseFirst, 4, 1); // twice
        c.ExpectNothing();
        Assert.Equal(7 * Each - 2 * Mtu, c.Pair.Peer.ReadWindow.InFlightBytes);
        Answer(c, Opcode.RcReadResponseLast, 7, 1);
        c.Expect("RC_READ_REQUEST b00008 A");
        Assert.Equal(11 * Each - 3 * Mtu, c.Pair.Peer.ReadWindow.InFlightBytes);
        foreach (int index in new[] { 1, 2, 5, 6 })
        {
            Answer(c, Opcode.RcReadResponseMiddle, index, 1);
        }

        Assert.Equal(4 * Each, c.Pair.Peer.ReadWindow.InFlightBytes);
        c.ExpectCompletion(0, WorkCompletionStatus.Success);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
    }

    // However the ends take turns, what lies in the socket never costs more than the window. The twin gives the room of
    // what was held back again in its turn.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void What_is_asked_for_fits_the_socket(bool freesOnce)
    {
        const int Window = 40 << 10;
        long most = 0;
        for (ulong seed = 1; seed <= 20; seed++)
        {
            SplitMix64 random = new(seed);
            Ends e = new(
                ahead: 3, defences: new ResponderDefences { FreesHeldOnce = freesOnce }, windowBytes: Window);
            e.Read(30, 4 * Mtu);
            Queue<(byte[] Bytes, int SegmentBytes)> socket = [];
            while (e.Pair.UncompletedSends > 0)
            {
                if (random.Next(3) != 0 && e.TrySend(out byte[] bytes, out int segmentBytes))
                {
                    socket.Enqueue((bytes, segmentBytes));
                    most = Math.Max(
                        most, socket.Sum(s => s.Bytes.Length + 928L * ((s.Bytes.Length - 1) / s.SegmentBytes + 1)));
                }
                else if (random.Next(2) == 0 && socket.TryDequeue(out (byte[] Bytes, int SegmentBytes) next))
                {
                    e.Deliver(next.Bytes, next.SegmentBytes);
                }

                e.Link.Step(e.Link.A, e.Link.B);
            }

            e.Check(30);
            Assert.True(e.Link.B.Port.Stats.ResponsesSentAhead > 8 && e.Link.A.Port.Stats.Retransmits == 0);
        }

        Assert.True(most > Window / 2 && most <= Window == freesOnce, $"{most} of {Window} bytes");
    }

    // What comes late, after a step back and before it was asked for again, is held though nothing is charged for it:
    // in its turn all is given back that was charged when it was asked for again, so that the next READ goes. The twin
    // keeps room for ever.
    [Theory]
    [InlineData(false, true, 0)]
    [InlineData(true, true, 0)]
    [InlineData(true, false, Mtu)]
    public void What_is_held_late_takes_no_room_when_all_is_there(bool late, bool counts, long left)
    {
        Conversation c = new(
            a => a with { Profile = PeerProfile.Default with { FirstsAhead = 1 }, MaxRdAtomic = 4 },
            o => o with
            {
                ReadWindowBytes = 12 * Mtu,
                ReadRequestBytes = 8 * Mtu,
                Defences = new ResponderDefences { CountsFreed = counts },
            });
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 4 * Mtu);
        c.Next();
        if (late)
        {
            c.Wait(TimeSpan.FromSeconds(1));
            Assert.Equal(1, c.Node.Port.Stats.Timeouts);
        }

        Answer(c, Opcode.RcReadResponseFirst, 0, 1);
        Answer(c, Opcode.RcReadResponseLast, 3, 1);
        if (late)
        {
            c.Expect("RC_READ_REQUEST b00001 A");
        }

        Answer(c, Opcode.RcReadResponseMiddle, 1, 1);
        Answer(c, Opcode.RcReadResponseMiddle, 2, 1);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        Assert.Equal(left, c.Pair.Peer.ReadWindow.InFlightBytes);
        c.Post(2, WorkRequestOpcode.RdmaRead, 0, 8 * Mtu); // more than there is room for, except in an empty window
        if (left == 0)
        {
            c.Expect("RC_READ_REQUEST b00004 A");
        }
        else
        {
            c.ExpectNothing();
        }
    }

    // As a responder: who asks again from the middle gets all from there on, also what went ahead.
    [Fact]
    public void A_read_asked_for_again_is_answered_with_what_went_ahead()
    {
        Conversation c = Agreed();
        c.SendRead(First, 0, 4 * Mtu);
        c.SendRead(First + 4, 0x2000, 4 * Mtu);
        byte[] buffer = new byte[65536];
        Assert.True(c.Node.Port.PollTransmit(c.Now, buffer, out Transmit sent));
        Assert.Equal(5, (sent.LengthBytes + sent.SegmentBytes - 1) / sent.SegmentBytes);
        c.SendRead(First + 2, 2 * Mtu, 2 * Mtu);
        c.SendRead(First + 4, 0x2000, 4 * Mtu);
        List<string> again = [];
        while (c.Node.Port.PollTransmit(c.Now, buffer, out sent))
        {
            for (int at = 0; at < sent.LengthBytes; at += sent.SegmentBytes)
            {
                int length = Math.Min(sent.SegmentBytes, sent.LengthBytes - at);
                again.Add(TestLink.Describe(buffer.AsSpan(at, length))[..^9]);
            }
        }

        Assert.Contains("RC_READ_RESP_LAST a00003", again.Select(a => a.Trim()));
        Assert.Contains("RC_READ_RESP_FIRST a00004", again.Select(a => a.Trim()));
        Assert.Contains("RC_READ_RESP_LAST a00007", again.Select(a => a.Trim()));
    }

    // As a requester: whoever did not agree and sends ahead left a gap, which is asked for again at once.
    [Theory]
    [InlineData(0, true)]
    [InlineData(3, false)]
    public void A_packet_ahead_is_a_gap_unless_that_was_agreed(int ahead, bool isGap)
    {
        Conversation c = Agreed(ahead);
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 4 * Mtu);
        c.Expect("RC_READ_REQUEST b00000 A");
        Answer(c, Opcode.RcReadResponseFirst, 0, 1);
        Answer(c, Opcode.RcReadResponseLast, 3, 7);
        if (isGap)
        {
            c.Expect("RC_READ_REQUEST b00001 A");
        }

        c.ExpectNothing();
        Assert.DoesNotContain((byte)7, c.Memory.Read(0, 4 * Mtu));
        Answer(c, isGap ? Opcode.RcReadResponseFirst : Opcode.RcReadResponseMiddle, 1, 1);
        Answer(c, Opcode.RcReadResponseMiddle, 2, 1);
        if (isGap)
        {
            c.ExpectNoCompletion();
            Answer(c, Opcode.RcReadResponseLast, 3, 1);
        }

        c.ExpectCompletion(1, WorkCompletionStatus.Success);
    }

    // A Middle never goes ahead, and nobody may answer what was not asked.
    [Fact]
    public void Only_ends_of_what_was_asked_are_held()
    {
        Conversation c = Agreed();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 4 * Mtu);
        c.Expect("RC_READ_REQUEST b00000 A");
        Answer(c, Opcode.RcReadResponseFirst, 0, 1);
        Answer(c, Opcode.RcReadResponseLast, 4, 7);
        Answer(c, Opcode.RcReadResponseFirst, -1, 7);
        c.ExpectNothing();
        Answer(c, Opcode.RcReadResponseMiddle, 2, 7);
        c.Expect("RC_READ_REQUEST b00001 A");
        Assert.DoesNotContain((byte)7, c.Memory.Read(0, 4 * Mtu));
    }

    // It is held as it came, and is what it should not be when its turn comes.
    [Theory]
    [InlineData(Opcode.RcReadResponseFirst, 3, Mtu, WorkCompletionStatus.BadResponse)]
    [InlineData(Opcode.RcReadResponseLast, 2, Mtu, WorkCompletionStatus.BadResponse)]
    [InlineData(Opcode.RcReadResponseLast, 3, Mtu - 4, WorkCompletionStatus.LocalLengthError)]
    public void What_was_held_is_checked_in_its_turn(
        Opcode opcode, int index, int length, WorkCompletionStatus status)
    {
        Conversation c = Agreed();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 4 * Mtu);
        c.Expect("RC_READ_REQUEST b00000 A");
        Answer(c, Opcode.RcReadResponseFirst, 0, 1);
        Answer(c, opcode, index, 9, length);
        for (int i = 1; i < index; i++)
        {
            c.ExpectNoCompletion();
            Answer(c, Opcode.RcReadResponseMiddle, i, 1);
        }

        c.ExpectCompletion(1, status);
        Assert.False(c.Memory.Read(0, 4 * Mtu).AsSpan().Contains((byte)9));
        c.ExpectState(QueuePairState.Error);
    }

    // A peer that sends far more ahead than was agreed costs no more memory; those that come next are kept.
    [Fact]
    public void What_is_held_is_bounded()
    {
        Conversation c = Agreed(ahead: 1);
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 32 * Mtu);
        c.Expect("RC_READ_REQUEST b00000 A");
        Answer(c, Opcode.RcReadResponseFirst, 0, 1);
        for (int i = 1; i <= 3; i++)
        {
            Answer(c, Opcode.RcReadResponseLast, 10 * i, 1); // room for three
        }

        c.ExpectNothing();
        long before = GC.GetAllocatedBytesForCurrentThread();
        byte[] packet = Packet(c, Opcode.RcReadResponseLast, 31, 1, Mtu);
        long ofPacket = GC.GetAllocatedBytesForCurrentThread() - before;
        c.SendBytes(packet);
        Assert.True(GC.GetAllocatedBytesForCurrentThread() - before < 2 * ofPacket);
        c.Expect("RC_READ_REQUEST b00001 A"); // not kept: a gap, as ever
    }

    // Answers of two packets have no middle, so nothing goes ahead: a lost one is missed at once.
    [Fact]
    public void An_end_that_nobody_can_have_sent_ahead_is_a_gap()
    {
        Conversation c = Agreed();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 2 * Mtu);
        c.Post(2, WorkRequestOpcode.RdmaRead, 2 * Mtu, 2 * Mtu);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_READ_REQUEST b00002 A");
        Answer(c, Opcode.RcReadResponseFirst, 0, 1);
        Answer(c, Opcode.RcReadResponseFirst, 2, 1);
        c.Expect("RC_READ_REQUEST b00001 A");
    }

    private static Conversation Agreed(
        int ahead = 3, Func<RdmaDeviceOptions, RdmaDeviceOptions>? options = null) =>
        new(q => q with { Profile = PeerProfile.Default with { FirstsAhead = ahead } }, options);

    private static void Answer(Conversation c, Opcode opcode, int index, byte fill, int length = Mtu) =>
        c.SendBytes(Packet(c, opcode, index, fill, length));

    private static byte[] Packet(Conversation c, Opcode opcode, int index, byte fill, int length)
    {
        byte[] payload = new byte[length];
        payload.AsSpan().Fill(fill);
        return new RawPacket(opcode, Psn.Add(OwnFirst, (uint)index & Psn.Mask))
        {
            DestQp = c.Pair.QpNumber,
            Aeth = new Aeth(Aeth.AckUnlimited, 1),
            Payload = payload,
        }.Build(new IcrcFlow(c.PeerGid, c.Node.Gid, 4791, 4791));
    }

    /// <summary>A queue pair on each side; READ i goes to the place behind READ i - 1.</summary>
    private sealed class Ends
    {
        private readonly byte[] _buffer = new byte[65536];
        private readonly List<uint> _starts = []; // first PSN of each request
        private readonly uint _peerQp;
        private uint _nextPsn;
        private uint _offset;

        public Ends(
            int ahead,
            ResponderDefences? defences = null,
            uint firstPsn = 0xA00000,
            int segments = 64,
            int windowBytes = 1 << 20)
        {
            Link = new TestLink(
                o => o with { Defences = defences ?? ResponderDefences.All, ReadWindowBytes = windowBytes },
                o => o with { SuperPacketSegments = segments });
            QueuePairAttributes Agree(QueuePairAttributes q) => q with
            {
                Profile = PeerProfile.Default with { FirstsAhead = ahead },
                MaxRdAtomic = 16,
                MaxDestRdAtomic = 16,
                SqPsn = q.SqPsn == new Connection().Attributes.SqPsn ? firstPsn : q.SqPsn,
                RqPsn = q.RqPsn == new Connection().Attributes.SqPsn ? firstPsn : q.RqPsn,
            };
            _nextPsn = firstPsn;
            (Pair, QueuePair peer) = Link.Connect(Agree, Agree);
            _peerQp = Pair.QpNumber;
            Source = Link.B.Allocate(AreaBytes);
            Source.FillPattern(0, AreaBytes, seed: 3);
            Region = Link.B.Register(Source);
            Target = Link.A.Allocate(AreaBytes);
            Local = Link.A.Register(Target);
            Link.Run();
            Assert.NotNull(peer);
        }

        public TestLink Link { get; }

        public QueuePair Pair { get; }

        public TestMemory Source { get; }

        public MemoryRegion Region { get; }

        public TestMemory Target { get; }

        public MemoryRegion Local { get; }

        public List<WorkCompletion> Completions { get; } = [];

        /// <summary>Posts READs, and lets the peer hear of them.</summary>
        public void Read(int count, int length, uint? key = null)
        {
            for (int i = 0; i < count; i++)
            {
                Post(WorkRequestOpcode.RdmaRead, length, key ?? Region.Key);
                _offset += (uint)length;
            }

            Link.Step(Link.A, Link.B);
        }

        /// <summary>A WRITE, to a place that no READ looks at.</summary>
        public void Write(int length)
        {
            uint offset = _offset;
            _offset = AreaBytes - (uint)length;
            Post(WorkRequestOpcode.RdmaWrite, length, Region.Key);
            _offset = offset;
            Link.Step(Link.A, Link.B);
        }

        /// <summary>What the peer sends next, delivered, in words: which request, and F, M, L or O.</summary>
        public string Poll(bool arrives = true) => PollOnce(arrives, data: false) ?? "";

        public List<string> SuperPackets(bool data = false)
        {
            List<string> all = [];
            while (PollOnce(arrives: true, data) is { } one)
            {
                all.Add(one);
            }

            return [.. all.Where(a => a.Length > 0)];
        }

        public void Run()
        {
            Link.RunFor(TimeSpan.FromSeconds(2));
            Completions.AddRange(TestNode.Poll(Pair.SendCompletionQueue));
        }

        /// <summary>All READs have completed, in order, and their bytes are there.</summary>
        public void Check(int reads)
        {
            Run();
            List<WorkCompletion> completed = [.. Completions.Where(c => c.Opcode == WorkCompletionOpcode.RdmaRead)];
            Assert.Equal(reads, completed.Count);
            Assert.All(Completions, c => Assert.Equal(WorkCompletionStatus.Success, c.Status));
            Assert.Equal(completed.Select(c => c.WrId).Order(), completed.Select(c => c.WrId));
            AssertRead(0, (int)_offset);
            Assert.Equal(0, Pair.Peer.ReadWindow.InFlightBytes);
        }

        public void AssertRead(int offset, int length) =>
            Assert.Equal(Source.Read(offset, length), Target.Read(offset, length));

        public bool IsUntouched(int from) =>
            !Target.Read(from, AreaBytes - from).AsSpan().ContainsAnyExcept((byte)0);

        public void AssertUntouched(int from) => Assert.True(IsUntouched(from));

        /// <summary>What the peer sends next, not delivered.</summary>
        public bool TrySend(out byte[] bytes, out int segmentBytes)
        {
            bool isSent = Link.B.Port.PollTransmit(Link.Now, _buffer, out Transmit transmit);
            (bytes, segmentBytes) = (_buffer[..transmit.LengthBytes], transmit.SegmentBytes);
            return isSent;
        }

        public void Deliver(ReadOnlySpan<byte> bytes, int segmentBytes) =>
            Link.A.Port.HandleDatagrams(Link.B.Gid, 4791, bytes, segmentBytes, 0, Link.Now);

        private void Post(WorkRequestOpcode opcode, int length, uint key)
        {
            _starts.Add(_nextPsn);
            _nextPsn = Psn.Add(_nextPsn, (uint)((length + Mtu - 1) / Mtu));
            Assert.Equal(Errno.Success, Pair.PostSend(
                new SendWorkRequest
                {
                    WrId = _offset,
                    Opcode = opcode,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = Region.Iova + _offset,
                    RKey = key,
                },
                new Sge(Local.Iova + _offset, (uint)length, Local.Key)));
        }

        private string? PollOnce(bool arrives, bool data)
        {
            if (!Link.B.Port.PollTransmit(Link.Now, _buffer, out Transmit transmit))
            {
                return null;
            }

            List<string> packets = [];
            for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
            {
                int length = Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at);
                packets.Add(Describe(_buffer.AsSpan(at, length), (ushort)(at / transmit.SegmentBytes)));
            }

            if (arrives)
            {
                Deliver(_buffer.AsSpan(0, transmit.LengthBytes), transmit.SegmentBytes);
            }

            packets.RemoveAll(p => data && p.EndsWith('A'));
            return string.Join(' ', packets
                .Select((name, i) => (Name: name, Run: i - packets.Take(i).Count(p => p == name)))
                .GroupBy(p => p)
                .Select(g => g.Count() > 1 ? $"{g.Key.Name}*{g.Count()}" : g.Key.Name));
        }

        private string Describe(ReadOnlySpan<byte> bytes, ushort index)
        {
            Assert.True(Icrc.Verify(new IcrcFlow(Link.B.Gid, Link.A.Gid, 4791, 4791), index, bytes));
            Assert.Equal(DropReason.None, PacketView.TryParse(bytes, out PacketView packet));
            Assert.Equal(_peerQp, packet.DestQp);
            uint psn = packet.Psn;
            string name = OpcodeTraits.NameOf(packet.Opcode);
            return $"{_starts.FindLastIndex(s => Psn.Compare(s, psn) <= 0)}{name[name.LastIndexOf('_') + 1]}";
        }
    }
}
