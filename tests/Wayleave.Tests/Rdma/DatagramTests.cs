using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>UD: one packet, any destination, 40 bytes that say who sent it.</summary>
public class DatagramTests
{
    private const uint QKey = 0x11223344;

    private sealed class Pairs
    {
        public Pairs(string addressA = "10.77.0.1", string addressB = "10.77.0.2")
        {
            Link = new TestLink(addressA: addressA, addressB: addressB);
            Source = Link.A.Allocate(8192);
            Source.FillPattern(0, 8192, 0x11);
            Target = Link.B.Allocate(8192);
            SourceRegion = Link.A.Register(Source);
            TargetRegion = Link.B.Register(Target);
            A = Open(Link.A);
            B = Open(Link.B);
            Handle = Link.A.CreateAddressHandle(Link.B.Gid);
        }

        public TestLink Link { get; }

        public TestMemory Source { get; }

        public TestMemory Target { get; }

        public MemoryRegion SourceRegion { get; }

        public MemoryRegion TargetRegion { get; }

        public QueuePair A { get; }

        public QueuePair B { get; }

        public AddressHandle Handle { get; }

        public static QueuePair Open(TestNode node, QueuePairState upTo = QueuePairState.ReadyToSend)
        {
            QueuePair pair = node.CreatePair(
                QueuePairType.UnreliableDatagram, TestNode.CreateCompletionQueue());
            Assert.Equal(QueuePairState.ReadyToSend, upTo);
            new Connection { Attributes = new QueuePairAttributes { QKey = QKey, SqPsn = 0xA00000 } }
                .ApplyRequired(pair);
            return pair;
        }

        public void Receive(ulong wrId, uint length, uint offset = 0) => Assert.Equal(
            Errno.Success,
            B.PostReceive(
                new ReceiveWorkRequest(wrId), new Sge(TargetRegion.Iova + offset, length, TargetRegion.Key)));

        public Errno Send(
            uint length, uint qkey = QKey, AddressHandle? handle = null, uint? to = null, uint? immediate = null) =>
            A.PostSend(
                new SendWorkRequest
                {
                    Opcode = immediate is null ? WorkRequestOpcode.Send : WorkRequestOpcode.SendWithImmediate,
                    Immediate = immediate ?? 0,
                    Flags = SendFlags.Signaled,
                    AddressHandle = handle ?? Handle,
                    RemoteQpNumber = to ?? B.QpNumber,
                    RemoteQKey = qkey,
                },
                new Sge(SourceRegion.Iova, length, SourceRegion.Key));
    }

    [Fact]
    public void ROCE_62_A_datagram_over_IPv4_has_the_header_in_the_second_half_of_forty_bytes()
    {
        Pairs p = new();
        p.Receive(5, 256);
        Assert.Equal(Errno.Success, p.Send(64, immediate: 0xCAFE));
        p.Link.Run();
        Assert.Equal(["A UD_SEND_ONLY_IMM a00000"], p.Link.Log);
        WorkCompletion completion = Assert.Single(TestNode.Poll(p.B.ReceiveCompletionQueue));
        Assert.Equal(
            (5UL, 104u, p.A.QpNumber, 0xCAFEu, WorkCompletionFlags.Grh | WorkCompletionFlags.WithImmediate),
            (completion.WrId, completion.ByteLength, completion.SourceQp, completion.Immediate, completion.Flags));
        byte[] area = p.Target.Read(0, 40);
        Assert.All(area[..20], b => Assert.Equal(0, b));
        Assert.Equal([0x45, 0], area[20..22]);
        Assert.Equal([17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2], area[29..40]);
        Assert.Equal(20 + 8 + 12 + 8 + 4 + 64 + 4, area[22] << 8 | area[23]);
        Assert.Equal(TestMemory.Pattern(64, 0x11), p.Target.Read(40, 64));
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(p.A.SendCompletionQueue)).Status);
    }

    [Fact]
    public void ROCE_62_A_datagram_over_IPv6_has_the_header_in_all_forty_bytes()
    {
        Pairs p = new("fd77::1", "fd77::2");
        p.Receive(5, 256);
        Assert.Equal(Errno.Success, p.Send(64));
        p.Link.Run();
        Assert.Equal(104u, Assert.Single(TestNode.Poll(p.B.ReceiveCompletionQueue)).ByteLength);
        byte[] area = p.Target.Read(0, 40);
        Assert.Equal((0x60, 17), (area[0], area[6]));
        Assert.Equal((0xFD, 1, 0xFD, 2), (area[8], area[23], area[24], area[39]));
    }

    [Fact]
    public void ROCE_63_A_datagram_with_another_QKey_is_dropped()
    {
        Pairs p = new();
        p.Receive(5, 256);
        Assert.Equal(Errno.Success, p.Send(64, qkey: 0x55));
        p.Link.Run();
        Assert.Empty(TestNode.Poll(p.B.ReceiveCompletionQueue));
        Assert.Equal(1, p.Link.B.Port.Stats.Drops(DropReason.WrongQKey));
    }

    [Fact]
    public void A_QKey_with_its_top_bit_set_stands_for_the_own_one()
    {
        Pairs p = new();
        p.Receive(5, 256);
        Assert.Equal(Errno.Success, p.Send(64, qkey: 0x8000_0000));
        p.Link.Run();
        Assert.Single(TestNode.Poll(p.B.ReceiveCompletionQueue));
    }

    [Fact]
    public void ROCE_64_A_receive_that_is_a_byte_too_small_is_not_taken()
    {
        Pairs p = new();
        p.Receive(5, 64 + 39);
        Assert.Equal(Errno.Success, p.Send(64));
        p.Link.Run();
        Assert.Equal(1, p.Link.B.Port.Stats.Drops(DropReason.NoReceive));
        Assert.Equal(Errno.Success, p.Send(63));
        p.Link.Run();
        Assert.Equal(103u, Assert.Single(TestNode.Poll(p.B.ReceiveCompletionQueue)).ByteLength);
    }

    [Fact]
    public void A_datagram_without_a_receive_disappears()
    {
        Pairs p = new();
        Assert.Equal(Errno.Success, p.Send(64));
        p.Link.Run();
        Assert.Equal(1, p.Link.B.Port.Stats.Drops(DropReason.NoReceive));
        Assert.Equal(QueuePairState.ReadyToSend, p.B.State);
        Assert.Single(p.Link.Log);
    }

    [Fact]
    public void A_datagram_longer_than_the_MTU_is_refused_when_it_is_posted()
    {
        Pairs p = new();
        Assert.Equal(Errno.Success, p.Send(4096));
        Assert.Equal(Errno.EINVAL, p.Send(4097));
    }

    [Fact]
    public void A_datagram_needs_an_address_handle_and_a_destination()
    {
        Pairs p = new();
        SendWorkRequest request = new()
        {
            Opcode = WorkRequestOpcode.Send,
            AddressHandle = p.Handle,
            RemoteQpNumber = 5,
        };
        Assert.Equal(Errno.Success, p.A.PostSendInline(request, [1]));
        Assert.Equal(Errno.EINVAL, p.A.PostSendInline(request with { AddressHandle = null }, [1]));
        Assert.Equal(Errno.EINVAL, p.A.PostSendInline(request with { RemoteQpNumber = 0 }, [1]));
        Assert.Equal(Errno.EINVAL, p.A.PostSendInline(request with { Opcode = WorkRequestOpcode.RdmaWrite }, [1]));
    }

    [Fact]
    public void Datagrams_of_one_queue_pair_go_to_many_destinations_in_order()
    {
        Pairs p = new();
        AddressHandle seven = Handle("10.77.0.7");
        AddressHandle eight = Handle("10.77.0.8");
        AddressHandle[] order = [seven, eight, eight, Handle("10.77.0.9"), seven];
        foreach (AddressHandle to in order)
        {
            Assert.Equal(Errno.Success, p.Send(16, handle: to));
        }

        List<string> sent = [];
        byte[] buffer = new byte[65536];
        while (p.Link.A.Port.PollTransmit(p.Link.Now, buffer, out Transmit transmit))
        {
            for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
            {
                Assert.Equal(DropReason.None, PacketView.TryParse(
                    buffer.AsSpan(at, transmit.SegmentBytes), out PacketView view));
                sent.Add($"{transmit.Destination} {view.Psn:x}");
            }
        }

        Assert.Equal(
            [
                "10.77.0.7 a00000", "10.77.0.8 a00001", "10.77.0.8 a00002", "10.77.0.9 a00003", "10.77.0.7 a00004",
            ],
            sent);
        Assert.Equal(5, TestNode.Poll(p.A.SendCompletionQueue).Count);

        AddressHandle Handle(string address)
        {
            Assert.True(Gid.TryParse(address, out Gid gid));
            return p.Link.A.CreateAddressHandle(gid);
        }
    }

    [Fact]
    public void A_datagram_whose_address_handle_was_destroyed_fails_and_stops_the_sends()
    {
        Pairs p = new();
        p.Link.A.Device.DestroyAddressHandle(p.Handle);
        p.Link.A.Device.DestroyAddressHandle(p.Handle);
        Assert.Equal(Errno.Success, p.Send(16));
        p.Link.Run();
        Assert.Equal(
            WorkCompletionStatus.LocalQpOperationError,
            Assert.Single(TestNode.Poll(p.A.SendCompletionQueue)).Status);
        Assert.Equal(QueuePairState.SendQueueError, p.A.State);
    }

    [Fact]
    public void An_address_handle_destroyed_behind_a_post_does_not_leave_it_hanging()
    {
        Pairs p = new();
        Assert.Equal(Errno.Success, p.Send(16));
        byte[] buffer = new byte[4096];
        Assert.True(p.Link.A.Port.PollTransmit(p.Link.Now, buffer, out _));
        Assert.Equal(Errno.Success, p.Send(16));
        p.Link.A.Device.DestroyAddressHandle(p.Handle);
        p.Link.Run();
        Assert.Equal(
            [WorkCompletionStatus.Success, WorkCompletionStatus.LocalQpOperationError],
            TestNode.Poll(p.A.SendCompletionQueue).Select(c => c.Status));
    }

    [Fact]
    public void An_address_of_the_other_family_is_refused()
    {
        TestNode node = new("10.77.0.1", 1);
        Assert.True(Gid.TryParse("fd77::1", out Gid gid));
        Assert.Equal(
            Errno.EINVAL, node.Device.TryCreateAddressHandle(node.Domain, new AddressVector(gid), out _));
    }

    [Fact]
    public void A_datagram_from_the_other_address_family_is_dropped()
    {
        Pairs p = new();
        Assert.True(Gid.TryParse("fd77::1", out Gid source));
        IcrcFlow flow = new(p.Link.A.Gid, p.Link.B.Gid, 4791, 4791);
        byte[] packet = new RawPacket(Opcode.UdSendOnly, 0)
        {
            DestQp = p.B.QpNumber,
            Deth = new Deth(QKey, 5),
        }.Build(flow);
        p.Link.B.Port.HandleDatagrams(source, 4791, packet, packet.Length, 0, p.Link.Now);
        Assert.Equal(1, p.Link.B.Port.Stats.Drops(DropReason.BadIcrc));
    }

    [Fact]
    public void Datagrams_of_strangers_with_any_identification_are_checked()
    {
        Pairs p = new();
        p.Receive(5, 256);
        Assert.True(Gid.TryParse("10.77.0.99", out Gid stranger));
        IcrcFlow flow = new(stranger, p.Link.B.Gid, 50000, 4791);
        RawPacket datagram = new(Opcode.UdSendOnly, 0)
        {
            DestQp = p.B.QpNumber,
            Deth = new Deth(QKey, 5),
            Payload = [1, 2, 3, 4],
        };
        byte[] packet = datagram.Build(flow, identification: 0xBEEF);
        p.Link.B.Port.HandleDatagrams(stranger, 50000, packet, packet.Length, 0, p.Link.Now);
        Assert.Equal(5u, Assert.Single(TestNode.Poll(p.B.ReceiveCompletionQueue)).SourceQp);
        Assert.Equal(0xBEEF, p.Target.Read(24, 2) is [byte high, byte low] ? high << 8 | low : 0);
        packet[20] ^= 1;
        p.Link.B.Port.HandleDatagrams(stranger, 50000, packet, packet.Length, 0, p.Link.Now);
        Assert.Equal(1, p.Link.B.Port.Stats.PacketsDropped);
    }
}
