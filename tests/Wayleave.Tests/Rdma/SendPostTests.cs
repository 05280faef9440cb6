using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Chains of send requests: what is posted when one of them is refused.</summary>
public class SendPostTests
{
    private static SendWorkRequest Write(ulong wrId) => new()
    {
        WrId = wrId,
        Opcode = WorkRequestOpcode.RdmaWrite,
        Flags = SendFlags.Signaled,
        RemoteAddress = 0x2000_0000,
        RKey = 0x1234,
    };

    private static Sge[] Data(Conversation c) => [new Sge(c.Region.Iova, 8, c.Region.Key)];

    [Fact]
    public void A_chain_is_posted_up_to_the_request_that_is_refused()
    {
        Conversation c = new();
        using (SendPost post = c.Pair.BeginSend())
        {
            Assert.Equal(Errno.Success, post.Add(Write(1), Data(c)));
            Assert.Equal(Errno.Success, post.AddInline(Write(2), [1, 2, 3]));
            Assert.Equal(Errno.EINVAL, post.Add(Write(3) with { Opcode = (WorkRequestOpcode)13 }, Data(c)));
            Assert.Equal(2, post.Count);
        }

        c.Expect("RC_WRITE_ONLY b00000 A");
        c.Expect("RC_WRITE_ONLY b00001 A");
        c.ExpectNothing();
    }

    [Fact]
    public void A_chain_is_posted_up_to_the_end_of_the_ring()
    {
        Conversation c = new(capabilities: new QueuePairCapabilities { MaxSendWr = 4 });
        using (SendPost post = c.Pair.BeginSend())
        {
            for (ulong i = 0; i < 4; i++)
            {
                Assert.Equal(Errno.Success, post.Add(Write(i), Data(c)));
            }

            Assert.Equal(Errno.ENOMEM, post.Add(Write(4), Data(c)));
        }

        for (uint i = 0; i < 4; i++)
        {
            c.Expect($"RC_WRITE_ONLY b0000{i} A");
        }
    }

    [Fact]
    public void Nothing_of_a_chain_leaves_before_its_end()
    {
        Conversation c = new();
        SendPost post = c.Pair.BeginSend();
        post.Add(Write(1), Data(c));
        c.ExpectNothing();
        post.Dispose();
        c.Expect("RC_WRITE_ONLY b00000 A");
    }

    [Fact]
    public void An_aborted_chain_leaves_no_trace()
    {
        Conversation c = new();
        using (SendPost post = c.Pair.BeginSend())
        {
            post.Add(Write(1), Data(c));
            post.Abort();
        }

        c.Post(2, WorkRequestOpcode.Send, 0, 4);
        c.Expect("RC_SEND_ONLY b00000 A");
    }

    [Fact]
    public void Nothing_is_posted_before_RTS()
    {
        Conversation c = new(upTo: QueuePairState.ReadyToReceive);
        using SendPost post = c.Pair.BeginSend();
        Assert.Equal(Errno.EINVAL, post.Add(Write(1), Data(c)));
        Assert.Equal(0, post.Count);
    }

    [Theory]
    [InlineData(WorkRequestOpcode.RdmaRead)]
    [InlineData(WorkRequestOpcode.AtomicFetchAdd)]
    [InlineData(WorkRequestOpcode.Flush)]
    [InlineData(WorkRequestOpcode.LocalInvalidate)]
    [InlineData(WorkRequestOpcode.BindWindow)]
    public void What_sends_no_data_cannot_be_inline(WorkRequestOpcode opcode)
    {
        Conversation c = new();
        Assert.Equal(Errno.EINVAL, c.Pair.PostSendInline(Write(1) with { Opcode = opcode }, []));
    }
}
