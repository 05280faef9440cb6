using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Two devices with two ports each: a queue pair is on the port that its modify to INIT names.</summary>
public class SeveralPortsTests
{
    private const int Bytes = 1 << 16;

    private static readonly Gid[] s_gidsOfA = [Parse("10.77.0.1"), Parse("10.78.0.1")];
    private static readonly Gid[] s_gidsOfB = [Parse("10.77.0.2"), Parse("10.78.0.2")];

    private sealed class Pairs
    {
        public Pairs(int readWindowBytes = 352 * 1024)
        {
            Link = new TestLink(
                o => o with { FurtherPorts = [new PortAddress(s_gidsOfA[1])], ReadWindowBytes = readWindowBytes },
                o => o with { FurtherPorts = [new PortAddress(s_gidsOfB[1])] });
            Source = Link.A.Allocate(Bytes);
            Source.FillPattern(0, Bytes, 0x11);
            Target = Link.B.Allocate(2 * Bytes);
            SourceRegion = Link.A.Register(Source);
            TargetRegion = Link.B.Register(Target);
        }

        public TestLink Link { get; }

        public TestMemory Source { get; }

        public TestMemory Target { get; }

        public MemoryRegion SourceRegion { get; }

        public MemoryRegion TargetRegion { get; }

        public (QueuePair A, QueuePair B) Connect(int port, int? portOfB = null)
        {
            int other = portOfB ?? port;
            return Link.Connect(
                a => OnPort(a, port, s_gidsOfB[other - 1]), b => OnPort(b, other, s_gidsOfA[port - 1]));

            static QueuePairAttributes OnPort(QueuePairAttributes attributes, int port, Gid to) => attributes with
            {
                Port = port,
                AddressVector = attributes.AddressVector with { Destination = to },
            };
        }

        public void Write(QueuePair pair, ulong wrId, int half = 0) => Assert.Equal(
            Errno.Success,
            pair.PostSend(
                new SendWorkRequest
                {
                    WrId = wrId,
                    Opcode = WorkRequestOpcode.RdmaWrite,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = TargetRegion.Iova + (ulong)(half * Bytes),
                    RKey = TargetRegion.Key,
                },
                new Sge(SourceRegion.Iova, Bytes, SourceRegion.Key)));

        public bool HasArrived(int half) =>
            Target.Read(half * Bytes, Bytes).AsSpan().SequenceEqual(TestMemory.Pattern(Bytes, 0x11));
    }

    [Fact]
    public void The_modify_to_INIT_says_which_port_and_refuses_one_that_is_not_there()
    {
        Pairs p = new();
        QueuePair pair = p.Link.A.CreatePair();
        QueuePairAttributes attributes = new Connection().Attributes with { State = QueuePairState.Init };
        foreach (int port in new[] { 0, 3, -1 })
        {
            Assert.Equal(Errno.EINVAL, pair.Modify(attributes with { Port = port }, Connection.ToInit));
        }

        Assert.Equal(Errno.Success, pair.Modify(attributes with { Port = 2 }, Connection.ToInit));
        Assert.Equal((QueuePairState.Init, 2), (pair.State, pair.Attributes.Port));
        Assert.Equal(Errno.Success, pair.Modify(attributes with { Port = 1 }, Connection.ToInit)); // INIT to INIT
        Assert.Equal(1, pair.Attributes.Port);
    }

    [Fact]
    public void Each_port_has_its_own_GID_and_attributes()
    {
        Pairs p = new();
        RdmaPort port = p.Link.A.Port;
        Assert.Equal(2, p.Link.A.Device.Attributes.Ports);
        for (int number = 1; number <= 2; number++)
        {
            Assert.Equal(Errno.Success, port.TryQuery(number, out PortAttributes attributes));
            Assert.Equal((s_gidsOfA[number - 1], PortState.Active), (attributes.Gid, attributes.State));
            Assert.Equal(Errno.Success, port.TryGetGid(0, out Gid gid, number));
            Assert.Equal(s_gidsOfA[number - 1], gid);
        }

        Assert.Equal(Errno.EINVAL, port.TryQuery(3, out _));
        Assert.Equal(Errno.EINVAL, port.TryGetGid(0, out _, 3));
        Assert.Equal(Errno.EINVAL, port.TryQuery(0, out _));
    }

    [Fact]
    public void Two_ports_with_one_address_are_refused()
    {
        RdmaDeviceOptions options = new() { Gid = s_gidsOfA[0], FurtherPorts = [new PortAddress(s_gidsOfA[0])] };
        Assert.Throws<ArgumentException>(options.Validate);
    }

    [Fact]
    public void Queue_pairs_of_one_device_send_over_both_ports()
    {
        Pairs p = new();
        (QueuePair first, _) = p.Connect(1);
        (QueuePair second, _) = p.Connect(2);
        p.Write(first, 1, half: 0);
        p.Write(second, 2, half: 1);
        p.Link.Run();
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(first.SendCompletionQueue)).Status);
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(second.SendCompletionQueue)).Status);
        Assert.True(p.HasArrived(0) && p.HasArrived(1));
        foreach (PortLink link in p.Link.B.Port.Links)
        {
            Assert.Equal((64L, 0L), (link.Counters.PacketsReceived, link.Counters.PacketsDropped));
            Assert.True(link.Counters.BytesReceived > Bytes && link.Counters.PacketsSent > 0);
        }

        Assert.Equal(128, p.Link.B.Port.Stats.PacketsReceived); // the device's are sums
    }

    [Fact]
    public void A_port_that_goes_down_says_so_and_ends_only_its_own_queue_pairs()
    {
        Pairs p = new();
        (QueuePair first, _) = p.Connect(1);
        (QueuePair second, _) = p.Connect(2);
        Assert.Equal(Errno.Success, p.Link.A.Port.SetPortState(2, PortState.Down));
        Assert.Equal([new AsyncEvent(AsyncEventType.PortError, 0, Port: 2)], p.Link.A.PollEvents());
        p.Write(first, 1, half: 0);
        p.Write(second, 2, half: 1);
        p.Link.RunFor(TimeSpan.FromSeconds(30));
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(first.SendCompletionQueue)).Status);
        Assert.Equal(
            WorkCompletionStatus.RetryExceeded, Assert.Single(TestNode.Poll(second.SendCompletionQueue)).Status);
        Assert.Equal((QueuePairState.ReadyToSend, QueuePairState.Error), (first.State, second.State));
        Assert.True(p.HasArrived(0));
        PortLink link = p.Link.A.Port.Links[1];
        Assert.Equal((0L, 1L), (link.Counters.PacketsSent, link.Counters.Downs));
        Assert.True(link.Counters.SendsDiscarded > 0);
        Assert.Equal(Errno.Success, p.Link.A.Port.TryQuery(2, out PortAttributes attributes));
        Assert.Equal(PortState.Down, attributes.State);
    }

    [Fact]
    public void A_port_that_is_back_in_time_loses_nothing()
    {
        Pairs p = new();
        (QueuePair pair, _) = p.Connect(2);
        p.Link.B.Port.SetPortState(2, PortState.Down);
        p.Write(pair, 1);
        p.Link.RunFor(TimeSpan.FromMilliseconds(30));
        Assert.True(p.Link.B.Port.Stats.Drops(DropReason.PortDown) > 0);
        Assert.Empty(TestNode.Poll(pair.SendCompletionQueue));
        p.Link.B.Port.SetPortState(2, PortState.Active);
        p.Link.B.Port.SetPortState(2, PortState.Active); // no news
        p.Link.RunFor(TimeSpan.FromSeconds(1));
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(pair.SendCompletionQueue)).Status);
        Assert.True(p.HasArrived(0));
        Assert.Equal(
            [
                new AsyncEvent(AsyncEventType.PortError, 0, Port: 2),
                new AsyncEvent(AsyncEventType.PortActive, 0, Port: 2),
            ],
            p.Link.B.PollEvents());
        Assert.Equal(Errno.EINVAL, p.Link.B.Port.SetPortState(3, PortState.Down));
        Assert.Equal(Errno.EINVAL, p.Link.B.Port.SetPortState(1, (PortState)2));
    }

    [Fact]
    public void A_packet_that_comes_to_another_port_than_its_queue_pairs_is_dropped()
    {
        Pairs p = new();
        (QueuePair pair, _) = p.Connect(1, portOfB: 2);
        p.Link.Filter = (from, packet) =>
        {
            if (ReferenceEquals(from, p.Link.A))
            {
                p.Link.B.Port.HandleDatagrams(
                    s_gidsOfA[0], 4791, packet.Span, packet.Length, 0, p.Link.Now, port: 1);
            }

            return false;
        };
        p.Write(pair, 1);
        p.Link.Run();
        Assert.Equal(0, p.Link.B.Port.Stats.BytesPlaced);
        Assert.Equal(p.Link.B.Port.Stats.PacketsReceived, p.Link.B.Port.Stats.Drops(DropReason.WrongPort));
        Assert.Equal(p.Link.B.Port.Stats.PacketsReceived, p.Link.B.Port.Links[0].Counters.PacketsDropped);
    }

    [Fact]
    public void A_drained_queue_pair_goes_on_over_the_other_port()
    {
        Pairs p = new();
        (QueuePair a, QueuePair b) = p.Connect(1);
        p.Write(a, 1, half: 0);
        p.Link.Run();
        foreach ((QueuePair pair, Gid to) in new[] { (a, s_gidsOfB[1]), (b, s_gidsOfA[1]) })
        {
            Assert.Equal(Errno.Success, pair.Modify(
                new QueuePairAttributes { State = QueuePairState.SendQueueDrained }, QueuePairAttributeMask.State));
            Assert.Equal(Errno.Success, pair.Modify(
                new QueuePairAttributes
                {
                    State = QueuePairState.SendQueueDrained,
                    Port = 2,
                    AddressVector = new AddressVector(to),
                },
                QueuePairAttributeMask.State | QueuePairAttributeMask.Port | QueuePairAttributeMask.AddressVector));
            Assert.Equal(Errno.Success, pair.Modify(
                new QueuePairAttributes { State = QueuePairState.ReadyToSend }, QueuePairAttributeMask.State));
        }

        long sent = p.Link.A.Port.Links[0].Counters.PacketsSent;
        p.Write(a, 2, half: 1);
        p.Link.Run();
        Assert.Equal(2, TestNode.Poll(a.SendCompletionQueue).Count);
        Assert.True(p.HasArrived(1));
        Assert.Equal(sent, p.Link.A.Port.Links[0].Counters.PacketsSent);
        Assert.Equal(64, p.Link.A.Port.Links[1].Counters.PacketsSent);
        Assert.Equal(1, p.Link.A.Port.Peers.Count);
    }

    [Fact]
    public void Both_ports_share_the_window_of_the_socket_that_they_lead_to()
    {
        Pairs p = new();
        (QueuePair first, _) = p.Link.Connect(
            a => a with { PeerWindowBytes = Bytes },
            b => b);
        (QueuePair second, QueuePair peer) = p.Link.Connect(
            a => a with { Port = 2, PeerWindowBytes = Bytes },
            b => b with { AddressVector = b.AddressVector with { Destination = s_gidsOfA[1] } });
        Assert.Equal(QueuePairState.ReadyToSend, peer.State);
        for (ulong i = 0; i < 4; i++)
        {
            p.Write(first, i);
            p.Write(second, i);
        }

        long bytes = 0;
        byte[] buffer = new byte[65536];
        while (p.Link.A.Port.PollTransmit(p.Link.Now, buffer, out Transmit transmit))
        {
            bytes += transmit.LengthBytes;
        }

        Assert.InRange(bytes, Bytes / 2, Bytes);
    }

    [Fact]
    public void A_datagram_leaves_from_the_port_of_its_queue_pair_or_not_at_all()
    {
        Pairs p = new();
        (QueuePair sender, QueuePair receiver) = (OpenDatagram(p.Link.A, 2), OpenDatagram(p.Link.B, 2));
        Assert.Equal(
            Errno.Success,
            receiver.PostReceive(
                new ReceiveWorkRequest(5), new Sge(p.TargetRegion.Iova, 256, p.TargetRegion.Key)));
        Send(2);
        p.Link.Run();
        WorkCompletion received = Assert.Single(TestNode.Poll(receiver.ReceiveCompletionQueue));
        Assert.Equal(WorkCompletionStatus.Success, received.Status);
        byte[] header = p.Target.Read(20, 20);
        Assert.Equal(new byte[] { 10, 78, 0, 1, 10, 78, 0, 2 }, header[12..]);
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(sender.SendCompletionQueue)).Status);
        Send(1);
        p.Link.Run();
        Assert.Equal(
            WorkCompletionStatus.LocalQpOperationError,
            Assert.Single(TestNode.Poll(sender.SendCompletionQueue)).Status);
        Assert.Equal(0, p.Link.A.Port.Links[0].Counters.PacketsSent);
        Assert.Equal(
            Errno.EINVAL,
            p.Link.A.Device.TryCreateAddressHandle(p.Link.A.Domain, new AddressVector(s_gidsOfB[0]), out _, port: 3));

        void Send(int port)
        {
            Assert.Equal(
                Errno.Success,
                p.Link.A.Device.TryCreateAddressHandle(
                    p.Link.A.Domain, new AddressVector(s_gidsOfB[port - 1]), out AddressHandle? handle, port));
            Assert.Equal(
                Errno.Success,
                sender.PostSend(
                    new SendWorkRequest
                    {
                        Opcode = WorkRequestOpcode.Send,
                        Flags = SendFlags.Signaled,
                        AddressHandle = handle,
                        RemoteQpNumber = receiver.QpNumber,
                        RemoteQKey = 7,
                    },
                    new Sge(p.SourceRegion.Iova, 64, p.SourceRegion.Key)));
        }
    }

    [Fact]
    public void Connections_are_made_on_each_port_by_a_manager_of_its_own()
    {
        Pairs p = new();
        for (int port = 1; port <= 2; port++)
        {
            ConnectionManager ofA = new(p.Link.A.Device, port: port);
            ConnectionManager ofB = new(p.Link.B.Device, port: port);
            Assert.Throws<InvalidOperationException>(() => new ConnectionManager(p.Link.B.Device, port: port));
            Assert.Equal(Errno.Success, ofB.Listen(7174, 4, out _));
            QueuePair a = p.Link.A.CreatePair();
            Assert.Equal(
                Errno.Success,
                ofA.Connect(p.Link.Now, s_gidsOfB[port - 1], 7174, a, new CmParameters(), out _));
            p.Link.Run();
            Assert.True(ofB.PollEvent(out CmEvent request));
            QueuePair b = p.Link.B.CreatePair();
            Assert.Equal(Errno.Success, ofB.Accept(p.Link.Now, request.Connection, b, new CmParameters()));
            p.Link.Run();
            Assert.Equal(
                (QueuePairState.ReadyToSend, port, QueuePairState.ReadyToSend, port),
                (a.State, a.Attributes.Port, b.State, b.Attributes.Port));
            Assert.Equal(s_gidsOfA[port - 1], b.Attributes.AddressVector.Destination);
        }

        // Known by its number alone, queue pair 1 of the other port would have been found.
        Assert.Equal(0, p.Link.B.Port.Stats.PacketsDropped);
    }

    private static QueuePair OpenDatagram(TestNode node, int port)
    {
        QueuePair pair = node.CreatePair(QueuePairType.UnreliableDatagram, TestNode.CreateCompletionQueue());
        new Connection { Attributes = new QueuePairAttributes { Port = port, QKey = 7 } }.ApplyRequired(pair);
        return pair;
    }

    private static Gid Parse(string text)
    {
        Assert.True(Gid.TryParse(text, out Gid gid));
        return gid;
    }
}
