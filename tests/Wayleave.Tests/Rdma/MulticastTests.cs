using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Multicast: a copy for each queue pair that is attached, and never an answer.</summary>
public class MulticastTests
{
    private const uint QKey = 0x11223344;
    private const uint ToGroup = 0xFFFFFF;
    private const string Group = "239.1.2.3";

    [Fact]
    public void What_is_sent_to_a_group_comes_to_all_that_are_attached_also_to_who_sent_it()
    {
        Room room = new();
        Member a = Room.Add(room.A), b1 = Room.Add(room.B), b2 = Room.Add(room.B), alone = Room.Add(room.B);
        Assert.All([a, b1, b2], m => Assert.Equal(Errno.Success, room.Attach(m)));
        a.Send(room.To(room.A));
        room.Run();
        Assert.All([a, b1, b2], m =>
        {
            WorkCompletion completion = Assert.Single(TestNode.Poll(m.Pair.ReceiveCompletionQueue));
            Assert.Equal(
                (40u + Member.Length, a.Pair.QpNumber, WorkCompletionFlags.Grh),
                (completion.ByteLength, completion.SourceQp, completion.Flags));
            Assert.Equal(Member.Data(a), m.Memory.Read(40, Member.Length));
        });
        Assert.Empty(TestNode.Poll(alone.Pair.ReceiveCompletionQueue));
        Assert.Equal((1, 1), (room.B.Port.Links[0].Counters.MulticastReceived, room.Sent.Count));
        Assert.Equal(1, room.A.Port.Links[0].Counters.MulticastSent);
    }

    [Theory]
    [InlineData("10.77.0.1", "10.77.0.2", Group)]
    [InlineData("fd77::1", "fd77::2", "ff0e::ffff:239.1.2.3")]
    [InlineData("fd77::1", "fd77::2", "ff15::77")]
    public void The_header_in_the_receive_says_who_sent_it_and_to_which_group(string from, string to, string group)
    {
        Room room = new(from, to, group);
        Member a = Room.Add(room.A), b = Room.Add(room.B);
        Assert.Equal(Errno.Success, room.Attach(b));
        a.Send(room.To(room.A));
        room.Run();
        Assert.Single(TestNode.Poll(b.Pair.ReceiveCompletionQueue));
        byte[] area = b.Memory.Read(0, 40);
        byte[] addresses = new byte[2 * Gid.Size];
        room.A.Gid.WriteTo(addresses);
        room.Group.WriteTo(addresses.AsSpan(Gid.Size));
        Assert.Equal(
            room.Group.IsIPv4 ? [.. addresses[12..16], .. addresses[28..]] : addresses,
            area[(room.Group.IsIPv4 ? 32 : 8)..]);
    }

    [Fact]
    public void Attaching_twice_is_fine_and_one_detach_ends_it()
    {
        Room room = new();
        Member b = Room.Add(room.B);
        Assert.Equal(Errno.Success, b.TryAttach(room.Group, out bool joins));
        Assert.True(joins);
        Assert.Equal(Errno.Success, b.TryAttach(room.Group, out joins));
        Assert.False(joins);
        Assert.Equal(1, b.Pair.GroupCount);
        Assert.Equal(Errno.Success, b.TryDetach(room.Group, out bool leaves));
        Assert.True(leaves);
        Assert.Equal(Errno.EINVAL, b.TryDetach(room.Group, out leaves));
        Assert.False(leaves);
        Assert.Equal(0, b.Pair.GroupCount);
    }

    [Fact]
    public void The_first_joins_and_the_last_leaves()
    {
        Room room = new();
        Member one = Room.Add(room.B), two = Room.Add(room.B);
        Assert.Equal(Errno.Success, one.TryAttach(room.Group, out bool firstJoins));
        Assert.Equal(Errno.Success, two.TryAttach(room.Group, out bool secondJoins));
        Assert.Equal((true, false), (firstJoins, secondJoins));
        Assert.Equal(Errno.Success, one.TryDetach(room.Group, out bool firstLeaves));
        Assert.Equal(Errno.Success, two.TryDetach(room.Group, out bool lastLeaves));
        Assert.Equal((false, true), (firstLeaves, lastLeaves));
    }

    [Theory]
    [InlineData("10.77.0.9")]
    [InlineData("240.0.0.1")]
    [InlineData("ff0e::ffff:239.1.2.3")] // what RoCEv1 makes of a group: no socket of IPv4 can join it
    public void What_is_no_group_of_the_ports_family_is_refused(string group)
    {
        Room room = new(group: group);
        Member b = Room.Add(room.B);
        Assert.Equal(Errno.EINVAL, room.Attach(b));
        Assert.Equal(Errno.EINVAL, b.TryDetach(room.Group, out _));
    }

    [Theory]
    [InlineData(QueuePairType.ReliableConnection)]
    [InlineData(QueuePairType.UnreliableConnection)]
    public void Only_a_queue_pair_of_datagrams_can_be_attached(QueuePairType type)
    {
        Room room = new();
        QueuePair pair = room.B.CreatePair(type, TestNode.CreateCompletionQueue());
        Assert.Equal(Errno.EINVAL, room.B.Port.Groups.TryAttach(pair, room.Group, out _, out _));
    }

    [Fact]
    public void A_connection_to_a_group_is_refused()
    {
        TestLink link = new();
        (QueuePair a, _) = link.Connect();
        Assert.True(Gid.TryParse(Group, out Gid group));
        a.Modify(new QueuePairAttributes { State = QueuePairState.Reset }, QueuePairAttributeMask.State);
        QueuePairAttributes attributes = new Connection().Attributes with
        {
            AddressVector = new AddressVector(group),
            DestQpNumber = 5,
        };
        Assert.Equal(Errno.Success, a.Modify(
            attributes with { State = QueuePairState.Init },
            QueuePairAttributeMask.State | QueuePairAttributeMask.PKeyIndex | QueuePairAttributeMask.Port
                | QueuePairAttributeMask.AccessFlags));
        QueuePairTransitions.TryGet(
            QueuePairState.Init,
            QueuePairState.ReadyToReceive,
            QueuePairType.ReliableConnection,
            out QueuePairAttributeMask required,
            out _);
        Assert.Equal(
            Errno.EINVAL,
            a.Modify(
                attributes with { State = QueuePairState.ReadyToReceive }, required | QueuePairAttributeMask.State));
    }

    [Fact]
    public void The_limits_are_those_that_the_device_reports()
    {
        Room room = new(configure: o => o with { MulticastGroupsMax = 2, MulticastPairsMax = 1 });
        Member one = Room.Add(room.B), two = Room.Add(room.B);
        DeviceAttributes can = room.B.Device.Attributes;
        Assert.Equal((2, 1, 2), (can.MaxMulticastGroups, can.MaxMulticastPairs, can.MaxMulticastAttachments));
        Assert.Equal(Errno.Success, one.TryAttach(room.Group, out _));
        Assert.Equal(Errno.ENOMEM, two.TryAttach(room.Group, out _)); // a second in the group
        Assert.True(Gid.TryParse("239.1.2.4", out Gid other));
        Assert.True(Gid.TryParse("239.1.2.5", out Gid third));
        Assert.Equal(Errno.Success, two.TryAttach(other, out _));
        Assert.Equal(Errno.ENOMEM, two.TryAttach(third, out _)); // a third group
        Assert.Equal(Errno.Success, two.TryDetach(other, out _));
        Assert.Equal(Errno.Success, two.TryAttach(third, out _));
        Assert.Equal((8192, 56), (
            room.A.Device.Attributes.MaxMulticastGroups, room.A.Device.Attributes.MaxMulticastPairs)); // as rxe
    }

    [Fact]
    public void A_queue_pair_is_not_destroyed_while_it_is_attached()
    {
        Room room = new();
        Member b = Room.Add(room.B);
        Assert.Equal(Errno.Success, room.Attach(b));
        Assert.Equal(Errno.EBUSY, room.B.Device.TryDestroyQueuePair(b.Pair));
        Assert.Throws<InvalidOperationException>(() => room.B.Device.DestroyQueuePair(b.Pair));
        Assert.Equal(QueuePairState.ReadyToSend, b.Pair.State);
        Assert.Equal(Errno.Success, b.TryDetach(room.Group, out _));
        Assert.Equal(Errno.Success, room.B.Device.TryDestroyQueuePair(b.Pair));
    }

    [Fact]
    public void Each_that_is_attached_takes_it_or_not_by_itself()
    {
        Room room = new();
        Member a = Room.Add(room.A);
        Member otherKey = Room.Add(room.B, QKey + 1), noReceive = Room.Add(room.B, receives: 0);
        Member stopped = Room.Add(room.B), small = Room.Add(room.B, receiveBytes: 50), good = Room.Add(room.B);
        Assert.All([otherKey, noReceive, stopped, small, good], m => Assert.Equal(Errno.Success, room.Attach(m)));
        stopped.Pair.Modify(new QueuePairAttributes { State = QueuePairState.Error }, QueuePairAttributeMask.State);
        TestNode.Poll(stopped.Pair.ReceiveCompletionQueue);
        a.Send(room.To(room.A));
        room.Run();
        Assert.Single(TestNode.Poll(good.Pair.ReceiveCompletionQueue));
        Assert.All([otherKey, noReceive, stopped, small], m => Assert.Empty(
            TestNode.Poll(m.Pair.ReceiveCompletionQueue)));
        Assert.Equal(0, room.B.Port.Stats.PacketsDropped); // one took it
        Assert.Equal(Errno.Success, good.TryDetach(room.Group, out _));
        a.Send(room.To(room.A));
        room.Run();
        Assert.Equal(1, room.B.Port.Stats.PacketsDropped); // nobody did, and it is one packet
        Assert.Equal(1, room.B.Port.Stats.Drops(DropReason.WrongQKey)); // what the first said
    }

    [Theory]
    [InlineData(Opcode.RcSendOnly, ToGroup, true, DropReason.WrongTransport)]
    [InlineData(Opcode.RcWriteOnly, ToGroup, true, DropReason.WrongTransport)]
    [InlineData(Opcode.RcWriteMiddle, ToGroup, true, DropReason.WrongTransport)]
    [InlineData(Opcode.RcReadRequest, ToGroup, true, DropReason.WrongTransport)]
    [InlineData(Opcode.RcAcknowledge, ToGroup, true, DropReason.WrongTransport)]
    [InlineData(Opcode.UcSendOnly, ToGroup, true, DropReason.WrongTransport)]
    [InlineData(Opcode.UdSendOnly, 0u, true, DropReason.WrongGroup)] // 0: the number of the queue pair
    [InlineData(Opcode.UdSendOnly, 1u, true, DropReason.WrongGroup)]
    [InlineData(Opcode.UdSendOnly, ToGroup, false, DropReason.WrongGroup)]
    [InlineData(Opcode.RcSendOnly, ToGroup, false, DropReason.WrongGroup)]
    public void What_a_group_must_not_bring_is_dropped_and_not_answered(
        Opcode opcode, uint number, bool isToGroup, DropReason reason)
    {
        Room room = new();
        Member b = Room.Add(room.B);
        Assert.Equal(Errno.Success, room.Attach(b));
        RawPacket packet = new(opcode, 0)
        {
            DestQp = number == 0 ? b.Pair.QpNumber : number,
            Deth = new Deth(QKey, 5),
            AckRequest = true,
            Payload = opcode is Opcode.RcReadRequest or Opcode.RcAcknowledge ? []
                : opcode == Opcode.RcWriteMiddle ? new byte[1024] : [1, 2, 3, 4],
        };
        room.Inject(packet, isToGroup ? room.Group : room.B.Gid, isToGroup);
        Assert.Equal(1, room.B.Port.Stats.Drops(reason));
        Assert.Empty(TestNode.Poll(b.Pair.ReceiveCompletionQueue));
        room.Run();
        Assert.Empty(room.Sent);
    }

    [Fact]
    public void A_connections_packet_is_not_taken_at_a_groups_address()
    {
        Room room = new();
        TestLink link = new();
        (QueuePair a, QueuePair b) = link.Connect();
        Assert.Equal(QueuePairState.ReadyToSend, a.State);
        IcrcFlow flow = new(link.A.Gid, room.Group, 4791, 4791);
        byte[] packet = new RawPacket(Opcode.RcSendOnly, 0) { DestQp = b.QpNumber, AckRequest = true }.Build(flow);
        link.B.Port.HandleDatagrams(
            link.A.Gid, 4791, packet, packet.Length, 0, link.Now, group: room.Group);
        Assert.Equal(1, link.B.Port.Stats.Drops(DropReason.WrongGroup));
        link.Run();
        Assert.Empty(link.Log);
    }

    [Fact]
    public void The_ICRC_covers_the_group()
    {
        Room room = new("fd77::1", "fd77::2", "ff15::77"); // with IPv4, 16 bits are solved for
        Member b = Room.Add(room.B);
        Assert.Equal(Errno.Success, room.Attach(b));
        RawPacket packet = new(Opcode.UdSendOnly, 0) { DestQp = ToGroup, Deth = new Deth(QKey, 5) };
        room.Inject(packet, room.Group, isToGroup: true);
        Assert.Single(TestNode.Poll(b.Pair.ReceiveCompletionQueue));
        IcrcFlow toPort = new(room.A.Gid, room.B.Gid, 4791, 4791);
        byte[] bytes = packet.Build(toPort);
        room.B.Port.HandleDatagrams(room.A.Gid, 4791, bytes, bytes.Length, 0, room.Now, group: room.Group);
        Assert.Equal(1, room.B.Port.Stats.Drops(DropReason.BadIcrc));
    }

    [Fact]
    public void A_group_that_nobody_is_attached_to_is_not_our_address()
    {
        Room room = new();
        Room.Add(room.B);
        room.Inject(
            new RawPacket(Opcode.UdSendOnly, 0) { DestQp = ToGroup, Deth = new Deth(QKey, 5) },
            room.Group,
            isToGroup: true);
        Assert.Equal(1, room.B.Port.Stats.Drops(DropReason.NotOurAddress));
    }

    [Fact]
    public void A_mark_of_congestion_on_a_datagram_to_a_group_is_not_answered_by_everybody()
    {
        Room room = new(configure: o => o with { Congestion = new CongestionOptions() });
        Member b = Room.Add(room.B);
        Assert.Equal(Errno.Success, room.Attach(b));
        RawPacket packet = new(Opcode.UdSendOnly, 0) { DestQp = ToGroup, Deth = new Deth(QKey, 5) };
        room.Inject(packet, room.Group, isToGroup: true, trafficClass: 3);
        Assert.Single(TestNode.Poll(b.Pair.ReceiveCompletionQueue));
        room.Run();
        Assert.Empty(room.Sent);
        room.Inject(
            packet with { DestQp = b.Pair.QpNumber }, room.B.Gid, isToGroup: false, trafficClass: 3);
        room.Run();
        Assert.Single(room.Sent); // one to the queue pair is answered
    }

    [Fact]
    public void The_hop_limit_of_the_address_handle_goes_with_the_datagram()
    {
        Room room = new();
        Member a = Room.Add(room.A);
        a.Send(room.To(room.A, hopLimit: 7));
        a.Send(room.To(room.A));
        room.Run();
        Assert.Equal([7, 0], room.Sent.Select(t => t.HopLimit));
        Assert.All(room.Sent, t => Assert.Equal(room.Group, t.Destination));
    }

    [Fact]
    public void A_datagram_that_is_held_back_keeps_its_group_and_its_hop_limit()
    {
        TimeSpan late = TimeSpan.FromMilliseconds(3);
        Room room = new(
            configure: o => o with { Faults = new FaultOptions { Delay = late, Directions = FaultDirections.Both } });
        Member b = Room.Add(room.B), sender = Room.Add(room.B);
        Assert.Equal(Errno.Success, room.Attach(b));
        sender.Send(room.To(room.B, hopLimit: 9));
        room.Run();
        Assert.Empty(room.Sent);
        room.Advance(late);
        Assert.Equal(9, Assert.Single(room.Sent).HopLimit);
        Assert.Empty(TestNode.Poll(b.Pair.ReceiveCompletionQueue));
        room.Advance(late);
        Assert.Single(TestNode.Poll(b.Pair.ReceiveCompletionQueue));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)] // the twin: what is detached still gets what comes for the others
    public void Nothing_comes_to_a_queue_pair_that_was_detached(bool forgets)
    {
        Room room = new(configure: o => o with { Defences = o.Defences with { ForgetsDetached = forgets } });
        Member a = Room.Add(room.A), stays = Room.Add(room.B), goes = Room.Add(room.B);
        Assert.All([stays, goes], m => Assert.Equal(Errno.Success, room.Attach(m)));
        Assert.Equal(Errno.Success, goes.TryDetach(room.Group, out bool leaves));
        Assert.False(leaves);
        a.Send(room.To(room.A));
        room.Run();
        Assert.Single(TestNode.Poll(stays.Pair.ReceiveCompletionQueue));
        bool isClean = TestNode.Poll(goes.Pair.ReceiveCompletionQueue).Count == 0
            && goes.Memory.Read(0, 40).All(b => b == 0);
        Assert.Equal(forgets, isClean);
    }

    [Fact]
    public void A_port_that_is_down_takes_nothing_from_a_group()
    {
        Room room = new();
        Member a = Room.Add(room.A), b = Room.Add(room.B);
        Assert.Equal(Errno.Success, room.Attach(b));
        Assert.Equal(Errno.Success, room.B.Port.SetPortState(1, PortState.Down));
        a.Send(room.To(room.A));
        room.Run();
        Assert.Equal(1, room.B.Port.Stats.Drops(DropReason.PortDown));
    }

    [Fact]
    public void Nothing_allocates_for_a_datagram_that_goes_to_many()
    {
        Room room = new();
        Member[] members = [.. Enumerable.Range(0, 8).Select(_ => Room.Add(room.B, receives: 200))];
        Assert.All(members, m => Assert.Equal(Errno.Success, room.Attach(m)));
        IcrcFlow flow = new(room.A.Gid, room.Group, 4791, 4791);
        byte[] packet = new RawPacket(Opcode.UdSendOnly, 0)
        {
            DestQp = ToGroup,
            Deth = new Deth(QKey, 5),
            Payload = new byte[64],
        }.Build(flow);
        Take(20);
        long before = GC.GetAllocatedBytesForCurrentThread();
        Take(150);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
        Assert.All(members, m => Assert.Equal(170, TestNode.Poll(m.Pair.ReceiveCompletionQueue).Count));

        void Take(int count)
        {
            for (; count > 0; count--)
            {
                room.B.Port.HandleDatagrams(
                    room.A.Gid, 4791, packet, packet.Length, 0, room.Now, group: room.Group);
            }
        }
    }

    /// <summary>Two nodes on one network: what goes to a group comes to both, also to who sent it.</summary>
    private sealed class Room
    {
        private readonly byte[] _buffer = GC.AllocateArray<byte>(65536, pinned: true);

        public Room(
            string a = "10.77.0.1",
            string b = "10.77.0.2",
            string group = MulticastTests.Group,
            Func<RdmaDeviceOptions, RdmaDeviceOptions>? configure = null)
        {
            A = new TestNode(a, 1);
            B = new TestNode(b, 2, configure);
            Assert.True(Gid.TryParse(group, out Gid gid));
            Group = gid;
        }

        public TestNode A { get; }

        public TestNode B { get; }

        public Gid Group { get; }

        public TimeSpan Now { get; private set; } = TimeSpan.FromSeconds(1);

        public List<Transmit> Sent { get; } = [];

        public static Member Add(TestNode node, uint qKey = QKey, int receives = 2, int receiveBytes = 256) =>
            new(node, qKey, receives, receiveBytes);

        public Errno Attach(Member member) => member.TryAttach(Group, out _);

        public AddressHandle To(TestNode node, byte hopLimit = 0)
        {
            Assert.Equal(Errno.Success, node.Device.TryCreateAddressHandle(
                node.Domain, new AddressVector(Group, HopLimit: hopLimit), out AddressHandle? handle));
            return handle!;
        }

        public void Inject(RawPacket packet, Gid destination, bool isToGroup, byte trafficClass = 0)
        {
            IcrcFlow flow = new(A.Gid, destination, 4791, 4791);
            byte[] bytes = packet.Build(flow);
            B.Port.HandleDatagrams(
                A.Gid,
                4791,
                bytes,
                bytes.Length,
                trafficClass,
                Now,
                group: isToGroup ? destination : default);
        }

        public void Advance(TimeSpan by)
        {
            Now += by;
            A.Port.HandleTimeout(Now);
            B.Port.HandleTimeout(Now);
            Run();
        }

        public void Run()
        {
            while (Step(A) | Step(B))
            {
            }
        }

        private bool Step(TestNode from)
        {
            bool any = false;
            while (from.Port.PollTransmit(Now, _buffer, out Transmit transmit))
            {
                any = true;
                Sent.Add(transmit);
                foreach (TestNode to in (TestNode[])[A, B])
                {
                    bool isToGroup = transmit.Destination.IsMulticast;
                    if (isToGroup || to.Gid == transmit.Destination)
                    {
                        to.Port.HandleDatagrams(
                            from.Gid,
                            4791,
                            _buffer.AsSpan(0, transmit.LengthBytes),
                            transmit.SegmentBytes,
                            trafficClass: 0,
                            Now,
                            group: isToGroup ? transmit.Destination : default);
                    }
                }
            }

            return any;
        }
    }

    /// <summary>A queue pair of datagrams with its own memory, and receives posted.</summary>
    private sealed class Member
    {
        public const int Length = 64;

        private readonly TestNode _node;
        private readonly MemoryRegion _region;

        public Member(TestNode node, uint qKey, int receives, int receiveBytes)
        {
            _node = node;
            Memory = node.Allocate(4096);
            Pair = node.CreatePair(QueuePairType.UnreliableDatagram, TestNode.CreateCompletionQueue());
            _region = node.Register(Memory);
            new Connection { Attributes = new QueuePairAttributes { QKey = qKey } }.ApplyRequired(Pair);
            for (int i = 0; i < receives; i++)
            {
                Assert.Equal(Errno.Success, Pair.PostReceive(
                    new ReceiveWorkRequest((ulong)i),
                    new Sge(_region.Iova, (uint)receiveBytes, _region.Key)));
            }
        }

        public QueuePair Pair { get; }

        public TestMemory Memory { get; }

        public static byte[] Data(Member from) =>
            [.. Enumerable.Range(0, Length).Select(i => (byte)(from.Pair.QpNumber + i))];

        public Errno TryAttach(Gid group, out bool joins) =>
            _node.Port.Groups.TryAttach(Pair, group, out _, out joins);

        public Errno TryDetach(Gid group, out bool leaves) =>
            _node.Port.Groups.TryDetach(Pair, group, out _, out leaves);

        public void Send(AddressHandle to) => Assert.Equal(Errno.Success, Pair.PostSendInline(
            new SendWorkRequest
            {
                Opcode = WorkRequestOpcode.Send,
                AddressHandle = to,
                RemoteQpNumber = ToGroup,
                RemoteQKey = QKey,
            },
            Data(this)));
    }
}
