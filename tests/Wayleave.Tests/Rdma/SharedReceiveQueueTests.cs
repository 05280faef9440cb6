using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Receives that several queue pairs take from.</summary>
public class SharedReceiveQueueTests
{
    private static readonly SendWorkRequest s_send = new() { Opcode = WorkRequestOpcode.Send };

    private sealed class Setting
    {
        public Setting(int pairs = 2, ResponderDefences? defences = null)
        {
            Link = new TestLink(configureB: o => o with { Defences = defences ?? ResponderDefences.All });
            Shared = Link.B.CreateSharedReceives();
            Region = Link.B.Register(Link.B.Allocate(1 << 16));
            Completions = TestNode.CreateCompletionQueue();
            for (int i = 0; i < pairs; i++)
            {
                QueuePair a = Link.A.CreatePair();
                QueuePair b = Link.B.CreatePair(QueuePairType.ReliableConnection, Completions, Shared);
                QueuePairAttributes attributes = new Connection().Attributes;
                new Connection
                {
                    Attributes = attributes with
                    {
                        AddressVector = new AddressVector(Link.B.Gid),
                        DestQpNumber = b.QpNumber,
                    },
                }.Apply(a);
                new Connection
                {
                    Attributes = attributes with
                    {
                        AddressVector = new AddressVector(Link.A.Gid),
                        DestQpNumber = a.QpNumber,
                        SqPsn = attributes.RqPsn,
                        RqPsn = attributes.SqPsn,
                    },
                }.Apply(b);
                A.Add(a);
                B.Add(b);
            }
        }

        public TestLink Link { get; }

        public SharedReceiveQueue Shared { get; }

        public MemoryRegion Region { get; }

        public CompletionQueue Completions { get; }

        public List<QueuePair> A { get; } = [];

        public List<QueuePair> B { get; } = [];

        public void Post(int count, ulong first = 0, uint length = 64)
        {
            for (ulong i = 0; i < (ulong)count; i++)
            {
                Assert.Equal(Errno.Success, Shared.PostReceive(
                    new ReceiveWorkRequest(first + i), new Sge(Region.Iova + 64 * i, length, Region.Key)));
            }
        }

        public void Send(int pair, int length = 8)
        {
            Assert.Equal(Errno.Success, A[pair].PostSendInline(s_send, new byte[length]));
            Link.Run();
        }
    }

    [Fact]
    public void Queue_pairs_take_receives_in_the_order_in_which_messages_come()
    {
        Setting s = new();
        s.Post(4);
        s.Send(1);
        s.Send(0);
        s.Send(1);
        Assert.Equal(
            [(0UL, s.B[1].QpNumber), (1UL, s.B[0].QpNumber), (2UL, s.B[1].QpNumber)],
            TestNode.Poll(s.Completions).Select(c => (c.WrId, c.QpNumber)));
        Assert.Equal(1, s.Shared.Count);
    }

    [Fact]
    public void An_empty_queue_makes_the_peer_wait()
    {
        Setting s = new(1);
        s.Send(0);
        Assert.Contains(s.Link.Log, x => x.Contains(" 2c msn=0", StringComparison.Ordinal));
        s.Post(1, 9);
        s.Link.RunFor(TimeSpan.FromMilliseconds(2));
        Assert.Equal(9UL, Assert.Single(TestNode.Poll(s.Completions)).WrId);
    }

    [Fact]
    public void ROCE_58_The_limit_event_comes_once_when_fewer_are_left()
    {
        Setting s = new(1);
        s.Post(6);
        Assert.Equal(Errno.Success, s.Shared.SetLimit(4));
        s.Send(0);
        s.Send(0);
        Assert.Empty(s.Link.B.PollEvents());
        s.Send(0);
        Assert.Equal(
            new AsyncEvent(AsyncEventType.SharedReceiveQueueLimit, 0, SrqNumber: s.Shared.Number),
            Assert.Single(s.Link.B.PollEvents()));
        Assert.Equal(0, s.Shared.Limit);
        s.Send(0);
        Assert.Empty(s.Link.B.PollEvents());
        Assert.Equal(Errno.Success, s.Shared.SetLimit(4));
        s.Send(0);
        Assert.Single(s.Link.B.PollEvents());
    }

    [Fact]
    public void ROCE_58_A_queue_pair_in_ERR_leaves_the_receives_to_the_others()
    {
        Setting s = new();
        s.Post(4);
        Assert.Equal(Errno.Success, s.B[0].Modify(
            new QueuePairAttributes { State = QueuePairState.Error }, QueuePairAttributeMask.State));
        Assert.Equal(
            new AsyncEvent(AsyncEventType.LastReceiveReached, s.B[0].QpNumber),
            Assert.Single(s.Link.B.PollEvents()));
        Assert.Empty(TestNode.Poll(s.Completions));
        Assert.Equal(4, s.Shared.Count);
        s.Send(1);
        Assert.Equal(0UL, Assert.Single(TestNode.Poll(s.Completions)).WrId);
    }

    [Fact]
    public void ROCE_58_A_receive_that_was_taken_is_flushed_before_the_event()
    {
        Setting s = new(1);
        s.Post(2, length: 4096);
        Assert.Equal(Errno.Success, s.A[0].PostSend(
            s_send, new Sge(TestNode.Iova, 2000, s.Link.A.Register(s.Link.A.Allocate(4096)).Key)));
        int packets = 0;
        s.Link.Filter = (_, _) => packets++ == 0; // First arrives, Last does not
        s.Link.Run();
        Assert.Equal(Errno.Success, s.B[0].Modify(
            new QueuePairAttributes { State = QueuePairState.Error }, QueuePairAttributeMask.State));
        Assert.Equal(WorkCompletionStatus.WorkRequestFlushed, Assert.Single(TestNode.Poll(s.Completions)).Status);
        Assert.Equal(AsyncEventType.LastReceiveReached, Assert.Single(s.Link.B.PollEvents()).Type);
        Assert.Equal(1, s.Shared.Count);
    }

    [Fact]
    public void The_own_receive_queue_of_such_a_queue_pair_takes_nothing()
    {
        Setting s = new(1);
        Assert.Equal(Errno.EINVAL, s.B[0].PostReceive(new ReceiveWorkRequest(1), []));
    }

    [Fact]
    public void A_full_queue_a_long_list_and_a_limit_beyond_it_are_refused()
    {
        Setting s = new(1);
        s.Post(16);
        Assert.Equal(Errno.ENOMEM, s.Shared.PostReceive(new ReceiveWorkRequest(1), []));
        Assert.Equal(Errno.EINVAL, s.Shared.PostReceive(new ReceiveWorkRequest(1), new Sge[3]));
        Assert.Equal(Errno.EINVAL, s.Shared.SetLimit(17));
        Assert.Equal(Errno.EINVAL, s.Shared.SetLimit(-1));
    }

    [Fact]
    public void A_shared_queue_of_another_domain_is_refused()
    {
        TestNode node = new("10.77.0.1", 1);
        CompletionQueue completions = TestNode.CreateCompletionQueue();
        Assert.Equal(Errno.Success, node.Device.TryCreateSharedReceiveQueue(
            node.Device.CreateProtectionDomain(), 4, 1, out SharedReceiveQueue? shared));
        QueuePairRequest request = new(node.Domain, completions, completions, new QueuePairCapabilities())
        {
            SharedReceives = shared,
        };
        Assert.Equal(Errno.EINVAL, node.Device.TryCreateQueuePair(request, out _));
    }

    [Fact]
    public void Every_limit_that_was_set_makes_one_event_in_any_order()
    {
        Exploration exploration = Explorer.Exhaustive(_ => LimitRace(ResponderDefences.All));
        Assert.True(exploration.Runs > 1, $"only {exploration.Runs} orders");
        Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => LimitRace(new ResponderDefences { TakesLimitOnce = false })));
    }

    // The port takes a receive while the application sets a lower limit: the new limit must survive, for it has not
    // been reached.
    private static Scenario LimitRace(ResponderDefences defences)
    {
        Setting s = new(1, defences);
        s.Post(5);
        s.Shared.SetLimit(5);
        return new Scenario(
            [
                Actor.OnThread("port", () => s.Send(0)),
                Actor.OnThread("application", () => s.Shared.SetLimit(2)),
            ],
            () => { },
            AtEnd: () =>
            {
                if (s.Shared.Limit != 2)
                {
                    throw new InvalidOperationException("a limit that was not reached is gone");
                }
            });
    }
}
