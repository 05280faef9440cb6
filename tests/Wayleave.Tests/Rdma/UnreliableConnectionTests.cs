using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>UC: what is lost is lost, and nobody answers.</summary>
public class UnreliableConnectionTests
{
    private const int Mtu = 1024;

    private readonly TestLink _link = new() { Filter = (_, _) => true };
    private readonly TestMemory _source;
    private readonly TestMemory _target;
    private readonly MemoryRegion _sourceRegion;
    private readonly MemoryRegion _targetRegion;
    private readonly QueuePair _a;
    private readonly QueuePair _b;

    public UnreliableConnectionTests()
    {
        _source = _link.A.Allocate(1 << 16);
        _target = _link.B.Allocate(1 << 16);
        _source.FillPattern(0, 1 << 16, 0x11);
        _sourceRegion = _link.A.Register(_source);
        _targetRegion = _link.B.Register(_target);
        (_a, _b) = Connect();
    }

    private (QueuePair A, QueuePair B) Connect(SharedReceiveQueue? shared = null, bool mayWrite = true)
    {
        QueuePair a = _link.A.CreatePair(
            QueuePairType.UnreliableConnection, TestNode.CreateCompletionQueue());
        QueuePair b = _link.B.CreatePair(
            QueuePairType.UnreliableConnection, TestNode.CreateCompletionQueue(), shared);
        QueuePairAttributes attributes = new Connection().Attributes;
        new Connection
        {
            Attributes = attributes with
            {
                AddressVector = new AddressVector(_link.B.Gid),
                DestQpNumber = b.QpNumber,
            },
        }.ApplyRequired(a);
        new Connection
        {
            Attributes = attributes with
            {
                AccessFlags = mayWrite ? AccessFlags.RemoteWrite : AccessFlags.None,
                AddressVector = new AddressVector(_link.A.Gid),
                DestQpNumber = a.QpNumber,
                SqPsn = attributes.RqPsn,
                RqPsn = attributes.SqPsn,
            },
        }.ApplyRequired(b);
        return (a, b);
    }

    private void Send(ulong wrId, uint offset, uint length, QueuePair? from = null) =>
        Assert.Equal(Errno.Success, (from ?? _a).PostSend(
            new SendWorkRequest { WrId = wrId, Opcode = WorkRequestOpcode.Send, Flags = SendFlags.Signaled },
            new Sge(_sourceRegion.Iova + offset, length, _sourceRegion.Key)));

    private void Receive(ulong wrId, uint offset, uint length) =>
        Assert.Equal(Errno.Success, _b.PostReceive(
            new ReceiveWorkRequest(wrId), new Sge(_targetRegion.Iova + offset, length, _targetRegion.Key)));

    private static List<WorkCompletion> Completions(QueuePair pair) => TestNode.Poll(pair.SendCompletionQueue);

    // A7: the next message breaks it, or a gap does.
    [Theory]
    [InlineData(1, 1)] // the Last comes out of turn
    [InlineData(1, 2)] // the next message begins inside it
    [InlineData(2, 1)]
    public void A_receive_of_a_shared_queue_that_a_broken_message_has_opened_ends_with_an_error(int lost, int count)
    {
        SharedReceiveQueue shared = _link.B.CreateSharedReceives();
        (QueuePair a, QueuePair b) = Connect(shared);
        foreach (ulong id in (ulong[])[7, 8])
        {
            shared.PostReceive(
                new ReceiveWorkRequest(id), new Sge(_targetRegion.Iova + id * 4096, 4096, _targetRegion.Key));
        }

        // Of First, Middle and Last.
        int sent = 0;
        _link.Filter = (_, _) => sent++ is int at && (at < lost || at >= lost + count);
        Send(1, 0, 2500, a);
        Send(2, 100, 8, a);
        _link.Run();
        Assert.Equal(
            [(7UL, WorkCompletionStatus.RemoteInvalidRequest), (8UL, WorkCompletionStatus.Success)],
            TestNode.Poll(b.ReceiveCompletionQueue).Select(c => (c.WrId, c.Status)));
        Assert.Equal(_source.Read(100, 8), _target.Read(8 * 4096, 8));
        Assert.Equal(QueuePairState.ReadyToSend, b.State);
    }

    [Fact]
    public void A_SEND_completes_when_it_is_sent_and_arrives()
    {
        Receive(7, 0, 4096);
        Send(1, 0, 2500);
        _link.Run();
        Assert.Equal(
            ["A UC_SEND_FIRST a00000", "A UC_SEND_MIDDLE a00001", "A UC_SEND_LAST a00002"], _link.Log);
        Assert.Equal(
            (1UL, WorkCompletionStatus.Success, WorkCompletionOpcode.Send, 2500u),
            Of(Assert.Single(Completions(_a))));
        Assert.Equal(
            (7UL, WorkCompletionStatus.Success, WorkCompletionOpcode.Receive, 2500u),
            Of(Assert.Single(Completions(_b))));
        Assert.Equal(TestMemory.Pattern(2500, 0x11), _target.Read(0, 2500));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void ROCE_61_A_message_that_loses_a_packet_is_dropped_and_leaves_its_receive(int lost)
    {
        Receive(7, 0, 4096);
        Receive(8, 8192, 4096);
        int sent = 0;
        _link.Filter = (_, _) => sent++ != lost;
        Send(1, 0, 3000);
        Send(2, 3000, 100);
        _link.Run();
        Assert.All(_link.Log, packet => Assert.StartsWith("A ", packet, StringComparison.Ordinal));
        Assert.Equal(2, Completions(_a).Count);
        Assert.Equal(
            (7UL, WorkCompletionStatus.Success, WorkCompletionOpcode.Receive, 100u),
            Of(Assert.Single(Completions(_b))));
        Assert.Equal(_source.Read(3000, 100), _target.Read(0, 100));
        Assert.Equal(QueuePairState.ReadyToSend, _b.State);
    }

    [Fact]
    public void A_message_without_a_receive_is_dropped_as_a_whole()
    {
        Send(1, 0, 3000);
        _link.Run();
        Receive(7, 0, 4096);
        Send(2, 100, 50);
        _link.Run();
        Assert.Equal(50u, Assert.Single(Completions(_b)).ByteLength);
        Assert.Equal(1, _link.B.Port.Stats.Drops(DropReason.NoReceive));
        Assert.Equal(2, _link.B.Port.Stats.Drops(DropReason.OutOfSequence));
    }

    [Fact]
    public void A_WRITE_with_immediate_takes_a_receive_at_its_end_only()
    {
        Receive(7, 8192, 0);
        Assert.Equal(Errno.Success, _a.PostSend(
            new SendWorkRequest
            {
                Opcode = WorkRequestOpcode.RdmaWriteWithImmediate,
                RemoteAddress = _targetRegion.Iova + 16,
                RKey = _targetRegion.Key,
                Immediate = 0xAB,
            },
            new Sge(_sourceRegion.Iova, 1500, _sourceRegion.Key)));
        _link.Run();
        WorkCompletion completion = Assert.Single(Completions(_b));
        Assert.Equal((0xABu, 1500u), (completion.Immediate, completion.ByteLength));
        Assert.Equal(_source.Read(0, 1500), _target.Read(16, 1500));
    }

    [Theory]
    [InlineData("no right of the queue pair")]
    [InlineData("wrong key")]
    [InlineData("outside")]
    public void A_WRITE_that_is_not_granted_disappears(string why)
    {
        (QueuePair a, QueuePair b) = Connect(mayWrite: why != "no right of the queue pair");
        Assert.Equal(Errno.Success, a.PostSend(
            new SendWorkRequest
            {
                Opcode = WorkRequestOpcode.RdmaWrite,
                Flags = SendFlags.Signaled,
                RemoteAddress = _targetRegion.Iova + (why == "outside" ? 1u << 16 : 0),
                RKey = why == "wrong key" ? 0x4400 : _targetRegion.Key,
            },
            new Sge(_sourceRegion.Iova, 2000, _sourceRegion.Key)));
        _link.Run();
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(Completions(a)).Status);
        Assert.All(_target.Read(0, 1 << 16), x => Assert.Equal(0, x));
        Assert.Equal(QueuePairState.ReadyToSend, b.State);
        Assert.Equal(1, _link.B.Port.Stats.Drops(DropReason.NotAllowed));
    }

    [Fact]
    public void A_receive_that_is_too_small_is_reused_by_the_next_message()
    {
        Receive(7, 0, 100);
        Send(1, 0, 200);
        Send(2, 0, 100);
        _link.Run();
        Assert.Equal(
            (7UL, WorkCompletionStatus.Success, WorkCompletionOpcode.Receive, 100u),
            Of(Assert.Single(Completions(_b))));
    }

    [Fact]
    public void A_receive_of_a_shared_queue_ends_with_the_message_that_broke_it()
    {
        SharedReceiveQueue shared = _link.B.CreateSharedReceives();
        (QueuePair a, QueuePair b) = Connect(shared);
        shared.PostReceive(new ReceiveWorkRequest(7), new Sge(_targetRegion.Iova, 100, _targetRegion.Key));
        shared.PostReceive(new ReceiveWorkRequest(8), new Sge(_targetRegion.Iova, 100, _targetRegion.Key));
        Send(1, 0, 200, a);
        Send(2, 0, 100, a);
        _link.Run();
        Assert.Equal(
            [(7UL, WorkCompletionStatus.LocalLengthError), (8UL, WorkCompletionStatus.Success)],
            Completions(b).Select(c => (c.WrId, c.Status)));
    }

    [Theory]
    [InlineData(WorkRequestOpcode.RdmaRead)]
    [InlineData(WorkRequestOpcode.AtomicFetchAdd)]
    [InlineData(WorkRequestOpcode.Flush)]
    [InlineData(WorkRequestOpcode.SendWithInvalidate)]
    public void What_needs_an_answer_cannot_be_posted(WorkRequestOpcode opcode) => Assert.Equal(
        Errno.EINVAL,
        _a.PostSend(
            new SendWorkRequest { Opcode = opcode },
            opcode == WorkRequestOpcode.Flush ? [] : [new Sge(_sourceRegion.Iova, 8, _sourceRegion.Key)]));

    [Fact]
    public void ROCE_66_A_packet_of_another_transport_is_dropped()
    {
        IcrcFlow flow = new(_link.A.Gid, _link.B.Gid, 4791, 4791);
        byte[] packet = new RawPacket(Opcode.RcSendOnly, 0xA00000) { DestQp = _b.QpNumber }.Build(flow);
        _link.B.Port.HandleDatagrams(_link.A.Gid, 4791, packet, packet.Length, 0, _link.Now);
        Assert.Equal(1, _link.B.Port.Stats.Drops(DropReason.WrongTransport));
    }

    [Fact]
    public void A_bad_piece_of_memory_stops_the_sends_and_not_the_receives()
    {
        Receive(7, 0, 100);
        Assert.Equal(Errno.Success, _a.PostSend(
            new SendWorkRequest { WrId = 1, Opcode = WorkRequestOpcode.Send }, new Sge(0, 8, 0x9900)));
        Send(2, 0, 8);
        _link.Run();
        Assert.Equal(QueuePairState.SendQueueError, _a.State);
        Send(3, 0, 8);
        _link.Run();
        Assert.Equal(
            [
                (1UL, WorkCompletionStatus.LocalProtectionError),
                (2UL, WorkCompletionStatus.WorkRequestFlushed),
                (3UL, WorkCompletionStatus.WorkRequestFlushed),
            ],
            Completions(_a).Select(c => (c.WrId, c.Status)));

        // Receives went on, and so do sends after a modify.
        Assert.Equal(Errno.Success, _a.PostReceive(
            new ReceiveWorkRequest(9), new Sge(_sourceRegion.Iova + 4096, 64, _sourceRegion.Key)));
        Assert.Equal(Errno.Success, _b.PostSendInline(
            new SendWorkRequest { Opcode = WorkRequestOpcode.Send }, [1, 2, 3]));
        _link.Run();
        Assert.Equal(9UL, Assert.Single(Completions(_a)).WrId);
        Assert.Equal(Errno.Success, _a.Modify(
            new QueuePairAttributes { State = QueuePairState.ReadyToSend }, QueuePairAttributeMask.State));
        Send(4, 0, 8);
        _link.Run();
        Assert.Equal((4UL, WorkCompletionStatus.Success), Status(Assert.Single(Completions(_a))));
        Assert.Equal(7UL, Assert.Single(Completions(_b)).WrId);
    }

    [Fact]
    public void ROCE_57_SQD_finishes_the_message_that_was_begun()
    {
        byte[] buffer = new byte[Mtu + 100];
        Receive(7, 0, 4096);
        Send(1, 0, 3000);
        Send(2, 0, 8);
        Assert.True(_link.A.Port.PollTransmit(_link.Now, buffer, out _));
        Assert.Equal(Errno.Success, _a.Modify(
            new QueuePairAttributes { State = QueuePairState.SendQueueDrained }, QueuePairAttributeMask.State));
        Assert.Empty(_link.A.PollEvents());
        _link.Run();
        Assert.Equal(1UL, Assert.Single(Completions(_a)).WrId);
        Assert.Equal(AsyncEventType.SendQueueDrained, Assert.Single(_link.A.PollEvents()).Type);
        Assert.Equal(Errno.Success, _a.Modify(
            new QueuePairAttributes { State = QueuePairState.ReadyToSend }, QueuePairAttributeMask.State));
        _link.Run();
        Assert.Equal(2UL, Assert.Single(Completions(_a)).WrId);
    }

    private static (ulong, WorkCompletionStatus, WorkCompletionOpcode, uint) Of(WorkCompletion c) =>
        (c.WrId, c.Status, c.Opcode, c.ByteLength);

    private static (ulong, WorkCompletionStatus) Status(WorkCompletion c) => (c.WrId, c.Status);
}
