using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>What queue pairs share: super-packets, turns, checksum modes, doorbells.</summary>
public class PortTests
{
    private const int Megabyte = 1 << 20;

    private static void PostWrite(
        QueuePair pair, MemoryRegion local, MemoryRegion remote, uint length, ulong wrId = 0) =>
        Assert.Equal(Errno.Success, pair.PostSend(
            new SendWorkRequest
            {
                WrId = wrId,
                Opcode = WorkRequestOpcode.RdmaWrite,
                Flags = SendFlags.Signaled,
                RemoteAddress = remote.Iova,
                RKey = remote.Key,
            },
            new Sge(local.Iova, length, local.Key)));

    [Fact]
    public void A_super_packet_has_equal_segments_but_for_a_shorter_last_one()
    {
        TestLink link = new();
        (QueuePair a, _) = link.Connect();
        MemoryRegion local = link.A.Register(link.A.Allocate(Megabyte));
        MemoryRegion remote = link.B.Register(link.B.Allocate(Megabyte));
        PostWrite(a, local, remote, 100 * 1024 + 8);
        byte[] buffer = new byte[65536];
        List<(int Length, int Segment)> sent = [];
        while (link.A.Port.PollTransmit(link.Now, buffer, out Transmit transmit))
        {
            sent.Add((transmit.LengthBytes, transmit.SegmentBytes));
            for (int at = 0, i = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes, i++)
            {
                ReadOnlySpan<byte> packet = buffer.AsSpan(
                    at, Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at));
                Assert.True(Icrc.Verify(new IcrcFlow(link.A.Gid, link.B.Gid, 4791, 4791), (ushort)i, packet));
            }
        }

        // First is 16 bytes longer than Middle, so it ends its super-packet with one Middle; the Last rides at the end.
        Assert.Equal([(1056 + 1040, 1056), (62 * 1040, 1040), (36 * 1040 + 24, 1040)], sent);
    }

    [Fact]
    public void Small_requests_of_several_queue_pairs_share_a_super_packet()
    {
        TestLink link = new();
        MemoryRegion local = link.A.Register(link.A.Allocate(4096));
        MemoryRegion remote = link.B.Register(link.B.Allocate(4096));
        for (int i = 0; i < 10; i++)
        {
            PostWrite(link.Connect().A, local, remote, 8);
        }

        Assert.True(link.A.Port.PollTransmit(link.Now, new byte[65536], out Transmit transmit));
        Assert.Equal((400, 40), (transmit.LengthBytes, transmit.SegmentBytes));
    }

    [Fact]
    public void Queue_pairs_take_turns_even_when_the_window_lets_through_less_than_a_super_packet()
    {
        TestLink link = new(o => o with { WindowBytes = 8 * (1024 + 60 + 900) });
        MemoryRegion local = link.A.Register(link.A.Allocate(Megabyte));
        MemoryRegion remote = link.B.Register(link.B.Allocate(Megabyte));
        QueuePair[] pairs = [.. Enumerable.Range(0, 4).Select(_ => link.Connect().A)];
        foreach (QueuePair pair in pairs)
        {
            PostWrite(pair, local, remote, 256 * 1024);
        }

        // When the first one is through, the others are about as far.
        while (pairs.All(p => p.SendCompletionQueue.Count == 0))
        {
            Assert.True(link.Step(link.A, link.B) | link.Step(link.B, link.A));
        }

        Assert.InRange(link.B.Port.Stats.BytesPlaced, 4 * 256 * 1024 * 8 / 10, 4 * 256 * 1024);
        link.Run();
        Assert.All(pairs, p => Assert.Single(TestNode.Poll(p.SendCompletionQueue)));
    }

    [Fact]
    public void A_driver_is_told_how_soon_the_peer_waits_for_an_answer()
    {
        Conversation c = new(a => a with { MaxDestRdAtomic = 1 });
        RdmaPort port = c.Node.Port;
        c.SendWrite(Conversation.First, 0, new byte[8], ack: false);
        Assert.Equal(TransmitUrgency.None, port.Urgency);
        c.SendWrite(Conversation.First + 1, 0, new byte[8]);
        Assert.Equal(TransmitUrgency.Soon, port.Urgency);
        c.Expect("RC_ACKNOWLEDGE a00001 1f msn=2");
        c.SendRead(Conversation.First + 2, 0, 8);
        Assert.Equal(TransmitUrgency.None, port.Urgency);
        c.Expect("RC_READ_RESP_ONLY a00002 1f msn=3");
        Assert.Equal(TransmitUrgency.None, port.Urgency);
        c.SendWrite(Conversation.First + 9, 0, new byte[8]); // a gap: the NAK says so
        Assert.Equal(TransmitUrgency.Now, port.Urgency);
    }

    [Fact]
    public void An_acknowledgement_that_lets_requests_out_is_urgent_and_one_that_does_not_is_not()
    {
        Conversation c = new(options: o => o with { WindowBytes = 2 * (1024 + 60 + 900), AcknowledgeShare = 1 });
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 4096);
        c.Expect("RC_WRITE_FIRST b00000");
        c.Expect("RC_WRITE_MIDDLE b00001 A");
        c.SendAck(Conversation.OwnFirst + 1);
        Assert.Equal(TransmitUrgency.Now, c.Node.Port.Urgency);
        c.Expect("RC_WRITE_MIDDLE b00002");
        c.Expect("RC_WRITE_LAST b00003 A");
        c.SendAck(Conversation.OwnFirst + 3);
        Assert.Equal(TransmitUrgency.None, c.Node.Port.Urgency);
    }

    [Fact]
    public void An_acknowledgement_rides_at_the_end_of_data_in_the_other_direction()
    {
        TestLink link = new();
        (QueuePair a, QueuePair b) = link.Connect();
        MemoryRegion ofA = link.A.Register(link.A.Allocate(Megabyte)), ofB = link.B.Register(link.B.Allocate(Megabyte));
        byte[] buffer = new byte[65536];
        bool rode = false;
        for (int i = 0; i < 2; i++)
        {
            PostWrite(a, ofA, ofB, 8);
            PostWrite(b, ofB, ofA, 1024);
            link.Step(link.A, link.B);
            while (link.B.Port.PollTransmit(link.Now, buffer, out Transmit transmit))
            {
                int last = transmit.LengthBytes % transmit.SegmentBytes;
                rode |= last == 20;
                link.A.Port.HandleDatagrams(
                    link.B.Gid, 4791, buffer.AsSpan(0, transmit.LengthBytes), transmit.SegmentBytes, 0, link.Now);
            }

            link.Run();
        }

        Assert.True(rode);
        Assert.Equal(2, TestNode.Poll(a.SendCompletionQueue).Count);
    }

    [Theory]
    [InlineData(IcrcMode.OwnIdentification, 0, true, true)]
    [InlineData(IcrcMode.OwnIdentification, 5, true, false)] // split on the way: solved, and held against a limit
    [InlineData(IcrcMode.OwnIdentification, 4711, false, false)]
    [InlineData(IcrcMode.Full, 0, true, true)]
    [InlineData(IcrcMode.Full, 5, false, false)]
    [InlineData(IcrcMode.SolveIdentification, 4711, true, false)]
    public void ROCE_06_A_checksum_is_called_full_only_when_all_32_bits_were_checked(
        IcrcMode mode, int identification, bool accepted, bool full)
    {
        Conversation c = new(a => a with { AddressVector = a.AddressVector with { Icrc = mode } });
        byte[] packet = new RawPacket(Opcode.RcWriteOnly, Conversation.First)
        {
            DestQp = c.Pair.QpNumber,
            AckRequest = true,
            Reth = new Reth(c.Region.Iova, c.Region.Key, 8),
            Payload = new byte[8],
        }.Build(new IcrcFlow(c.PeerGid, c.Node.Gid, 4791, 4791), (ushort)identification);
        c.SendBytes(packet);
        RdmaStats stats = c.Node.Port.Stats;
        Assert.Equal(accepted ? 0 : 1, stats.Drops(DropReason.BadIcrc));
        Assert.Equal(
            (accepted && full ? 1 : 0, accepted && !full ? 1 : 0), (stats.IcrcChecksFull, stats.IcrcChecksSolved));
        PeerStatus peer = Assert.Single(c.Node.Port.GetPeers());
        Assert.Equal((stats.IcrcChecksFull, stats.IcrcChecksSolved), (peer.IcrcChecksFull, peer.IcrcChecksSolved));
        Assert.Equal(full || !accepted, peer.IsIcrcCheckFull);
    }

    [Fact]
    public void Steady_work_allocates_nothing()
    {
        TestLink link = new();
        (QueuePair a, QueuePair b) = link.Connect();
        MemoryRegion local = link.A.Register(link.A.Allocate(65536)), remote = link.B.Register(link.B.Allocate(65536));
        byte[] buffer = new byte[65536];
        WorkCompletion[] completions = new WorkCompletion[16];
        long before = 0;
        for (int round = 0; round < 300; round++)
        {
            if (round == 100)
            {
                before = GC.GetAllocatedBytesForCurrentThread();
            }

            b.PostReceive(new ReceiveWorkRequest(1), new Sge(remote.Iova, 100, remote.Key));
            a.PostSend(
                new SendWorkRequest { Opcode = WorkRequestOpcode.Send, Flags = SendFlags.Signaled },
                new Sge(local.Iova, 100, local.Key));
            a.PostSend(
                new SendWorkRequest
                {
                    Opcode = WorkRequestOpcode.RdmaRead,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = remote.Iova,
                    RKey = remote.Key,
                },
                new Sge(local.Iova, 5000, local.Key));
            a.PostSend(
                new SendWorkRequest
                {
                    Opcode = WorkRequestOpcode.RdmaWrite,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = remote.Iova,
                    RKey = remote.Key,
                },
                new Sge(local.Iova, 20000, local.Key));
            Exchange(link, buffer);
            link.A.Port.HandleTimeout(link.Now);
            if (a.SendCompletionQueue.Poll(completions) != 3 || b.ReceiveCompletionQueue.Poll(completions) != 1)
            {
                Assert.Fail($"round {round} did not complete");
            }
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    [Fact]
    public void Posts_from_many_threads_all_complete_once()
    {
        const int Threads = 4;
        const int Each = 2000;
        TestLink link = new();
        (QueuePair a, QueuePair b) = link.Connect();
        int[] seen = new int[Threads * Each];
        byte[] buffer = new byte[65536];
        Thread[] posters = [.. Enumerable.Range(0, Threads).Select(t => new Thread(() => Post(t)))];
        foreach (Thread poster in posters)
        {
            poster.Start();
        }

        // This thread holds both tokens and is the only one that drives; the posters leave doorbells.
        WorkCompletion[] completions = new WorkCompletion[64];
        for (int done = 0; done < Threads * Each;)
        {
            b.PostReceive(default, []);
            Exchange(link, buffer);
            b.ReceiveCompletionQueue.Poll(completions);
            int count = a.SendCompletionQueue.Poll(completions);
            for (int i = 0; i < count; i++)
            {
                Assert.Equal(WorkCompletionStatus.Success, completions[i].Status);
                seen[completions[i].WrId]++;
            }

            done += count;
        }

        Assert.All(seen, count => Assert.Equal(1, count));
        Assert.False(link.A.Port.HasDoorbell);

        void Post(int thread)
        {
            Span<byte> data = stackalloc byte[8];
            SpinWait wait = default;
            for (int i = 0; i < Each; i++)
            {
                SendWorkRequest request = new()
                {
                    WrId = (ulong)(thread * Each + i),
                    Opcode = WorkRequestOpcode.RdmaWrite,
                    Flags = SendFlags.Signaled,
                };
                while (a.PostSendInline(request, data[..0]) == Errno.ENOMEM)
                {
                    wait.SpinOnce();
                }
            }
        }
    }

    [Fact]
    public void RESET_empties_the_queues_without_completions_and_the_queue_pair_can_be_used_again()
    {
        TestLink link = new();
        (QueuePair a, QueuePair b) = link.Connect();
        MemoryRegion local = link.A.Register(link.A.Allocate(4096)), remote = link.B.Register(link.B.Allocate(4096));
        SendWorkRequest request = new() { Opcode = WorkRequestOpcode.Send, Flags = SendFlags.Signaled };
        while (a.PostSendInline(request, []) == Errno.Success)
        {
        }

        QueuePairAttributes ofA = a.Attributes, ofB = b.Attributes;
        foreach ((QueuePair pair, QueuePairAttributes attributes) in new[] { (a, ofA), (b, ofB) })
        {
            Assert.Equal(
                Errno.Success,
                pair.Modify(new QueuePairAttributes { State = QueuePairState.Reset }, QueuePairAttributeMask.State));
            Assert.Empty(TestNode.Poll(pair.SendCompletionQueue));
            new Connection { Attributes = attributes }.Apply(pair);
        }

        PostWrite(a, local, remote, 64, wrId: 5);
        link.Run();
        Assert.Equal([5ul], TestNode.Poll(a.SendCompletionQueue).Select(c => c.WrId));
    }

    [Fact]
    public void Several_peers_share_what_the_own_socket_holds_of_their_responses()
    {
        const int Limit = 160 * 1024;
        TestNode asker = new("10.77.0.1", 1, o => o with { ReadWindowBytes = Limit, ReadRequestBytes = 32 * 1024 });
        MemoryRegion local = asker.Register(asker.Allocate(Megabyte));
        QueuePair[] pairs = [.. Enumerable.Range(2, 3).Select(i => ConnectTo(asker, $"10.77.0.{i}"))];
        foreach (QueuePair pair in pairs)
        {
            for (int i = 0; i < 4; i++)
            {
                PostRead(pair, local, 32 * 1024); // four of them would fill the socket twice
            }
        }

        SendAll(asker);
        Assert.InRange(InFlight(pairs), Limit / 2, Limit);

        // Who has the room gives up: those of other peers go on, not only its own.
        QueuePair first = pairs.First(p => p.Peer.ReadWindow.InFlightBytes > 0);
        QueuePair[] others = [.. pairs.Where(p => p != first)];
        long before = InFlight(others);
        first.Modify(new QueuePairAttributes { State = QueuePairState.Error }, QueuePairAttributeMask.State);
        SendAll(asker);
        Assert.InRange(InFlight(others), before + 1, Limit);
        foreach (QueuePair pair in pairs)
        {
            asker.Device.DestroyQueuePair(pair);
        }

        QueuePair next = ConnectTo(asker, "10.77.0.9");
        PostRead(next, local, 32 * 1024);
        PostRead(next, local, 32 * 1024);
        SendAll(asker);
        Assert.InRange(InFlight([next]), Limit / 2, Limit); // nothing is left of the others
    }

    private static long InFlight(QueuePair[] pairs) => pairs.Sum(p => p.Peer.ReadWindow.InFlightBytes);

    private static QueuePair ConnectTo(TestNode node, string peer)
    {
        Assert.True(Gid.TryParse(peer, out Gid gid));
        QueuePair pair = node.CreatePair(TestNode.CreateCompletionQueue(16));
        QueuePairAttributes attributes = new Connection().Attributes with
        {
            AddressVector = new AddressVector(gid, Icrc: IcrcMode.OwnIdentification),
            DestQpNumber = 99,
        };
        new Connection { Attributes = attributes }.Apply(pair);
        return pair;
    }

    private static void PostRead(QueuePair pair, MemoryRegion local, uint length) =>
        Assert.Equal(Errno.Success, pair.PostSend(
            new SendWorkRequest { Opcode = WorkRequestOpcode.RdmaRead, RemoteAddress = 0x1000, RKey = 7 },
            new Sge(local.Iova, length, local.Key)));

    private static void SendAll(TestNode node)
    {
        byte[] buffer = new byte[65536];
        while (node.Port.PollTransmit(TimeSpan.FromSeconds(1), buffer, out _))
        {
        }
    }

    [Theory]
    [InlineData(1, 64 * 1024, 0)]
    [InlineData(8, 64 * 1024, 0)]
    [InlineData(8, 200_000, 0)]
    [InlineData(100, 64 * 1024, 0)]
    [InlineData(3, 5000, 0)]
    [InlineData(1, 64 * 1024, 7)]
    [InlineData(2, 64 * 1024, 7)]
    [InlineData(8, 64 * 1024, 7)]
    [InlineData(8, 200_000, 7)]
    [InlineData(100, 64 * 1024, 7)]
    [InlineData(8, 65_000, 7)]
    [InlineData(3, 5000, 7)]
    public void Queue_pairs_that_share_a_window_never_wait_for_a_time_out(int count, int lengthBytes, int ahead)
    {
        // As on a loopback between unprivileged users.
        TestLink link = new(o => o with { WindowBytes = 319_488 });
        MemoryRegion local = link.A.Register(link.A.Allocate(Megabyte));
        MemoryRegion remote = link.B.Register(link.B.Allocate(Megabyte));
        QueuePairAttributes OnLoopback(QueuePairAttributes attributes) => attributes with
        {
            PathMtu = PathMtu.Mtu4096,
            AddressVector = attributes.AddressVector with { KeepsSuperPackets = true },
            Profile = PeerProfile.Default with { FirstsAhead = ahead },
        };
        QueuePair[] pairs = [.. Enumerable.Range(0, count).Select(_ => link.Connect(OnLoopback, OnLoopback).A)];
        foreach (QueuePair pair in pairs)
        {
            for (int i = 0; i < 16; i++)
            {
                PostWrite(pair, local, remote, (uint)lengthBytes);
            }
        }

        link.Run(); // time stands still
        Assert.All(pairs, p => Assert.Equal(16, TestNode.Poll(p.SendCompletionQueue).Count));
        Assert.Equal(0, link.A.Port.Stats.Retransmits);
    }

    [Fact]
    public void A_destroyed_queue_pair_leaves_nothing_charged_and_is_not_found()
    {
        TestLink link = new();
        (QueuePair a, QueuePair b) = link.Connect();
        (QueuePair other, _) = link.Connect();
        MemoryRegion local = link.A.Register(link.A.Allocate(Megabyte));
        MemoryRegion remote = link.B.Register(link.B.Allocate(Megabyte));
        PostWrite(a, local, remote, Megabyte);
        Assert.True(link.A.Port.PollTransmit(link.Now, new byte[65536], out _));
        link.A.Device.DestroyQueuePair(a);
        Assert.Null(link.A.Port.FindQueuePair(a.QpNumber));
        Assert.Equal(0, other.Peer.Window.InFlightBytes);
        PostWrite(b, remote, local, 8);
        link.Run();
        Assert.Equal(1, link.A.Port.Stats.Drops(DropReason.UnknownQp));
        PostWrite(other, local, remote, 64);
        link.Run();
        Assert.Single(TestNode.Poll(other.SendCompletionQueue));
    }

    private static void Exchange(TestLink link, byte[] buffer)
    {
        bool any = true;
        while (any)
        {
            any = false;
            while (link.A.Port.PollTransmit(link.Now, buffer, out Transmit transmit))
            {
                any = true;
                link.B.Port.HandleDatagrams(
                    link.A.Gid, 4791, buffer.AsSpan(0, transmit.LengthBytes), transmit.SegmentBytes, 0, link.Now);
            }

            while (link.B.Port.PollTransmit(link.Now, buffer, out Transmit transmit))
            {
                any = true;
                link.A.Port.HandleDatagrams(
                    link.B.Gid, 4791, buffer.AsSpan(0, transmit.LengthBytes), transmit.SegmentBytes, 0, link.Now);
            }
        }
    }

    [Fact]
    public void Async_events_that_nobody_polls_are_lost_beyond_a_number_and_counted()
    {
        TestNode node = new("10.77.0.1", 1, o => o with { AsyncEventCapacity = 2 });
        PortState[] states = [PortState.Down, PortState.Active, PortState.Down, PortState.Active, PortState.Down];
        foreach (PortState state in states)
        {
            Assert.Equal(Errno.Success, node.Port.SetPortState(1, state));
        }

        Assert.Equal(
            [AsyncEventType.PortError, AsyncEventType.PortActive], node.PollEvents().Select(e => e.Type));
        Assert.Equal(3, node.Port.Stats.EventsLost);
        Assert.Equal(Errno.Success, node.Port.SetPortState(1, PortState.Active));
        Assert.Equal(AsyncEventType.PortActive, Assert.Single(node.PollEvents()).Type);
        Assert.Equal(3, node.Port.Stats.EventsLost);
    }
}
