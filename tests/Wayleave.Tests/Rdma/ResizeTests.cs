using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Queues whose size is changed while work waits in them: ibv_resize_cq(3), ibv_modify_srq(3).</summary>
public class ResizeTests
{
    private static readonly SendWorkRequest s_write =
        new() { Opcode = WorkRequestOpcode.RdmaWrite, Flags = SendFlags.Signaled };

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    [InlineData(CompletionQueue.DepthMax + 1)]
    public void A_completion_queue_of_no_possible_size_is_refused(int depth)
    {
        CompletionQueue queue = TestNode.CreateCompletionQueue(16);
        Assert.Equal(Errno.EINVAL, queue.TryResize(depth));
        Assert.Equal(16, queue.Depth);
    }

    [Theory]
    [InlineData(4)]
    [InlineData(64)]
    public void Completions_that_wait_keep_their_order_when_their_queue_grows_or_shrinks(int depth)
    {
        (TestLink link, QueuePair pair, CompletionQueue queue) = Connect(8);
        Complete(link, pair, 0, 3);
        Assert.Equal([0ul, 1, 2], TestNode.Poll(queue).Select(c => c.WrId)); // the ring does not begin at 0 any more
        Complete(link, pair, 3, 4);
        Assert.Equal(Errno.Success, queue.TryResize(depth));
        Assert.Equal(depth, queue.Depth);
        Assert.Equal(4, queue.Count);
        Assert.Equal([3ul, 4, 5, 6], TestNode.Poll(queue).Select(c => c.WrId));
        Complete(link, pair, 7, 4);
        Assert.Equal([7ul, 8, 9, 10], TestNode.Poll(queue).Select(c => c.WrId));
    }

    [Fact]
    public void A_completion_queue_does_not_become_smaller_than_what_waits_in_it()
    {
        (TestLink link, QueuePair pair, CompletionQueue queue) = Connect(8);
        Complete(link, pair, 0, 5);
        Assert.Equal(Errno.EINVAL, queue.TryResize(4));
        Assert.Equal((8, 5), (queue.Depth, queue.Count));
        Assert.Equal(Errno.Success, queue.TryResize(5));
        Assert.Equal(5, TestNode.Poll(queue).Count);
    }

    [Fact]
    public void A_completion_queue_overflows_at_its_new_size()
    {
        (TestLink link, QueuePair pair, CompletionQueue queue) = Connect(8);
        Assert.Equal(Errno.Success, queue.TryResize(2));
        Complete(link, pair, 0, 3);
        Assert.True(queue.IsOverflowed);
        Assert.Equal(QueuePairState.Error, pair.State);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    [InlineData(RdmaDevice.MaxSharedReceives + 1)]
    public void A_shared_receive_queue_of_no_possible_size_is_refused(int maxWr)
    {
        SharedReceiveQueue queue = new TestLink().B.CreateSharedReceives();
        Assert.Equal(Errno.EINVAL, queue.TryResize(maxWr));
        Assert.Equal(16, queue.MaxWr);
    }

    [Fact]
    public void A_shared_receive_queue_does_not_become_smaller_than_its_limit()
    {
        SharedReceiveQueue queue = new TestLink().B.CreateSharedReceives();
        Assert.Equal(Errno.Success, queue.SetLimit(9));
        Assert.Equal(Errno.EINVAL, queue.TryResize(8));
        Assert.Equal(Errno.Success, queue.TryResize(32));
        Assert.Equal((32, 9), (queue.MaxWr, queue.Limit));
    }

    [Fact]
    public void A_shared_receive_queue_does_not_become_smaller_than_what_waits_in_it()
    {
        SharedReceiveQueue queue = new TestLink().B.CreateSharedReceives();
        PostReceives(queue, 0, 5);
        Assert.Equal(Errno.EINVAL, queue.TryResize(4));
        Assert.Equal((16, 5), (queue.MaxWr, queue.Count));
    }

    [Fact]
    public void Receives_that_wait_keep_their_order_and_memory_when_their_shared_queue_is_resized()
    {
        TestLink link = new();
        SharedReceiveQueue queue = link.B.CreateSharedReceives(maxWr: 8);
        MemoryRegion region = link.B.Register(link.B.Allocate(1 << 16));
        CompletionQueue completions = TestNode.CreateCompletionQueue();
        QueuePair a = link.A.CreatePair();
        QueuePair b = link.B.CreatePair(QueuePairType.ReliableConnection, completions, queue);
        Join(link, a, b);
        PostReceives(queue, 0, 8, region);
        for (int i = 0; i < 6; i++)
        {
            Send(link, a);
        }

        PostReceives(queue, 8, 4, region); // the ring has gone round
        Assert.Equal(Errno.Success, queue.TryResize(32));
        PostReceives(queue, 12, 26, region);
        Assert.Equal(Errno.ENOMEM, queue.PostReceive(new ReceiveWorkRequest(99), new Sge(region.Iova, 8, region.Key)));
        for (int i = 6; i < 38; i++)
        {
            Send(link, a);
        }

        List<WorkCompletion> received = TestNode.Poll(completions);
        Assert.Equal(Enumerable.Range(0, 38).Select(i => (ulong)i), received.Select(c => c.WrId));
        Assert.All(received, c => Assert.Equal(WorkCompletionStatus.Success, c.Status));
    }

    [Fact]
    public void A_query_tells_what_all_modifies_since_RESET_have_set()
    {
        TestLink link = new();
        QueuePair a = link.A.CreatePair();
        QueuePair b = link.B.CreatePair();
        Join(link, a, b);
        QueuePairAttributes before = a.Attributes;
        Assert.Equal(Errno.Success, a.Modify(
            new QueuePairAttributes { MinRnrTimer = 9 }, QueuePairAttributeMask.MinRnrTimer));
        Assert.Equal(before with { MinRnrTimer = 9 }, a.Attributes with { CurrentState = before.CurrentState });
        Assert.Equal(b.QpNumber, a.Attributes.DestQpNumber);
        a.Modify(new QueuePairAttributes { State = QueuePairState.Reset }, QueuePairAttributeMask.State);
        Assert.Equal(new QueuePairAttributes(), a.Attributes);
    }

    [Fact]
    public void Tables_of_addresses_and_partition_keys_end_where_the_port_says()
    {
        TestNode node = new TestLink().A;
        PortAttributes port = node.Port.Query();
        Assert.Equal(Errno.Success, node.Port.TryGetGid(0, out Devices.Rdma.Wire.Gid gid));
        Assert.Equal(port.Gid, gid);
        Assert.Equal(Errno.EINVAL, node.Port.TryGetGid(port.GidCount, out _));
        Assert.Equal(Errno.EINVAL, node.Port.TryGetGid(-1, out _));
        Assert.Equal(Errno.Success, node.Port.TryGetPKey(0, out ushort key));
        Assert.Equal(port.PKey, key);
        Assert.Equal(Errno.EINVAL, node.Port.TryGetPKey(DeviceAttributes.Instance.PartitionKeys, out _));
    }

    private static (TestLink Link, QueuePair Pair, CompletionQueue Queue) Connect(int depth)
    {
        TestLink link = new();
        CompletionQueue queue = TestNode.CreateCompletionQueue(depth);
        QueuePair a = link.A.CreatePair(QueuePairType.ReliableConnection, queue);
        Join(link, a, link.B.CreatePair());
        return (link, a, queue);
    }

    private static void Join(TestLink link, QueuePair a, QueuePair b)
    {
        QueuePairAttributes attributes = new Connection().Attributes;
        new Connection
        {
            Attributes = attributes with
            {
                AddressVector = new AddressVector(link.B.Gid),
                DestQpNumber = b.QpNumber,
            },
        }.Apply(a);
        new Connection
        {
            Attributes = attributes with
            {
                AddressVector = new AddressVector(link.A.Gid),
                DestQpNumber = a.QpNumber,
                SqPsn = attributes.RqPsn,
                RqPsn = attributes.SqPsn,
            },
        }.Apply(b);
    }

    private static void Complete(TestLink link, QueuePair pair, ulong first, int count)
    {
        for (ulong i = 0; i < (ulong)count; i++)
        {
            Assert.Equal(Errno.Success, pair.PostSend(s_write with { WrId = first + i }, []));
        }

        link.Run();
    }

    private static void PostReceives(SharedReceiveQueue queue, ulong first, int count, MemoryRegion? region = null)
    {
        for (ulong i = first; i < first + (ulong)count; i++)
        {
            Sge sge = new((region?.Iova ?? 0) + 64 * i, 64, region?.Key ?? 1);
            Assert.Equal(Errno.Success, queue.PostReceive(new ReceiveWorkRequest(i), sge));
        }
    }

    private static void Send(TestLink link, QueuePair pair)
    {
        Assert.Equal(
            Errno.Success, pair.PostSendInline(new SendWorkRequest { Opcode = WorkRequestOpcode.Send }, new byte[8]));
        link.Run();
    }
}
