using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// Completions of a queue pair that is reset or destroyed, taken out of a queue that others complete into as well.
/// </summary>
public class CompletionDiscardTests
{
    private static readonly SendWorkRequest s_write =
        new() { Opcode = WorkRequestOpcode.RdmaWrite, Flags = SendFlags.Signaled };

    private readonly TestLink _link = new();
    private readonly CompletionQueue _queue = TestNode.CreateCompletionQueue(8);
    private readonly QueuePair[] _pairs;

    public CompletionDiscardTests() => _pairs = [Connect(), Connect()];

    [Theory]
    [InlineData(0)]
    [InlineData(3)] // the ring does not begin at 0 any more, and ends behind its end
    public void Those_of_one_queue_pair_are_forgotten_and_those_of_others_stay_in_order(int before)
    {
        for (int i = 0; i < before; i++)
        {
            Complete(0, 99);
        }

        Assert.Equal(before, TestNode.Poll(_queue).Count);
        foreach ((int pair, ulong id) in ((int, ulong)[])[(0, 1), (1, 2), (0, 3), (0, 4), (1, 5), (1, 6), (0, 7)])
        {
            Complete(pair, id);
        }

        _queue.Discard(_pairs[0].QpNumber);
        Assert.Equal(3, _queue.Count);
        for (ulong id = 8; id < 13; id++)
        {
            Complete(1, id); // there is room where they were
        }

        Assert.False(_queue.IsOverflowed);
        Assert.Equal([2ul, 5, 6, 8, 9, 10, 11, 12], TestNode.Poll(_queue).Select(c => c.WrId));
        Assert.Empty(TestNode.Poll(_queue));
    }

    [Fact]
    public void A_number_that_nothing_completed_for_changes_nothing()
    {
        Complete(0, 1);
        Complete(1, 2);
        _queue.Discard(0xABCDEF);
        Assert.Equal([1ul, 2], TestNode.Poll(_queue).Select(c => c.WrId));
        _queue.Discard(_pairs[0].QpNumber);
        Assert.Empty(TestNode.Poll(_queue));
    }

    // A slot is freed by the completion that is polled; one that nobody can poll any more frees it as it goes.
    [Fact]
    public void Requests_whose_completions_are_forgotten_leave_their_queue()
    {
        QueuePair pair = Connect(new QueuePairCapabilities { MaxSendWr = 2 });
        for (int round = 0; round < 2; round++)
        {
            for (int i = 0; i < 2; i++)
            {
                Assert.Equal(Errno.Success, pair.PostSend(s_write, []));
                _link.Run();
            }

            Assert.Equal(Errno.ENOMEM, pair.PostSend(s_write, []));
            _queue.Discard(pair.QpNumber);
        }
    }

    private void Complete(int pair, ulong id)
    {
        Assert.Equal(Errno.Success, _pairs[pair].PostSend(s_write with { WrId = id }, []));
        _link.Run();
    }

    private QueuePair Connect(QueuePairCapabilities? capabilities = null)
    {
        QueuePair a = _link.A.CreatePair(_queue, capabilities), b = _link.B.CreatePair();
        Join(a, b);
        return a;
    }

    private void Join(QueuePair a, QueuePair b)
    {
        QueuePairAttributes attributes = new Connection().Attributes;
        new Connection
        {
            Attributes = attributes with { AddressVector = new AddressVector(_link.B.Gid), DestQpNumber = b.QpNumber },
        }.Apply(a);
        new Connection
        {
            Attributes = attributes with
            {
                AddressVector = new AddressVector(_link.A.Gid),
                DestQpNumber = a.QpNumber,
                SqPsn = attributes.RqPsn,
                RqPsn = attributes.SqPsn,
            },
        }.Apply(b);
    }
}
