using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Faults that change while a port runs, and their text.</summary>
public class FaultChangeTests
{
    [Theory]
    [InlineData("", "")]
    [InlineData("loss=1%", "loss=1%")]
    [InlineData("drop=0.5%,path=in", "path=in,loss=0.5%")]
    [InlineData(
        "hostile,seed=9",
        "seed=9,loss=5%,duplicate=5%,reorder=5%,rnr=33.3%,rnr-burst=2,no-credits,map-latency=2000us,late=200us")]
    [InlineData("delay=1ms,hold=1s,path=out", "path=out,hold=1000000us,delay=1000us")]
    [InlineData("corrupt=100%,revoke-at=7,fail-at=8,die-after=9", "corrupt=100%,revoke-at=7,fail-at=8,die-after=9")]
    public void The_text_of_faults_is_read_back_as_the_same_faults(string text, string shortest)
    {
        FaultOptions faults = new() { Directions = FaultDirections.Both };
        if (text.Length > 0)
        {
            Assert.True(FaultOptions.TryParse(text, out faults, out string problem), problem);
        }

        Assert.Equal(shortest, faults.ToText());
        if (shortest.Length > 0)
        {
            Assert.True(FaultOptions.TryParse(shortest, out FaultOptions again, out _));
            Assert.Equal(faults, again);
        }
    }

    [Fact]
    public void A_port_that_died_of_its_faults_lives_without_them()
    {
        TestLink link = new(o => o, o => o with { Faults = new FaultOptions { DeathAfterPackets = 0 } });
        (QueuePair a, _) = link.Connect();
        PostWrite(link, a);
        link.RunFor(TimeSpan.FromMilliseconds(5));
        Assert.Empty(TestNode.Poll(a.SendCompletionQueue));
        WithToken(link.B, port => port.ChangeFaults(null));
        link.RunFor(TimeSpan.FromSeconds(2));
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(a.SendCompletionQueue)).Status);
        WithToken(link.B, port => Assert.Null(port.Faults));
    }

    [Fact]
    public void Faults_that_come_later_hit_what_comes_later()
    {
        TestLink link = new(o => o, o => o);
        (QueuePair a, _) = link.Connect();
        PostWrite(link, a);
        link.RunFor(TimeSpan.FromMilliseconds(5));
        Assert.Single(TestNode.Poll(a.SendCompletionQueue));
        WithToken(link.B, port => port.ChangeFaults(new FaultOptions { LossPerMille = 1000 }));
        PostWrite(link, a);
        link.RunFor(TimeSpan.FromSeconds(100));
        Assert.Equal(
            WorkCompletionStatus.RetryExceeded, Assert.Single(TestNode.Poll(a.SendCompletionQueue)).Status);
    }

    [Fact]
    public void Completions_that_old_faults_keep_become_visible_when_the_faults_change()
    {
        FaultOptions late = new() { CompletionDelay = TimeSpan.FromSeconds(30) };
        TestLink link = new(o => o with { Faults = late }, o => o);
        (QueuePair a, _) = link.Connect();
        PostWrite(link, a);
        link.RunFor(TimeSpan.FromMilliseconds(5));
        Assert.Empty(TestNode.Poll(a.SendCompletionQueue));
        WithToken(link.A, port => port.ChangeFaults(new FaultOptions()));
        Assert.Single(TestNode.Poll(a.SendCompletionQueue));
    }

    [Fact]
    public void The_next_messages_find_no_receive_and_then_they_do()
    {
        TestLink link = new(o => o, o => o);
        (QueuePair a, QueuePair b) = link.Connect();
        TestMemory source = link.A.Allocate(4096), target = link.B.Allocate(4096);
        MemoryRegion from = link.A.Register(source), to = link.B.Register(target);
        WithToken(link.B, port => port.RefuseNext(2));
        for (uint i = 0; i < 3; i++)
        {
            Assert.Equal(
                Errno.Success, b.PostReceive(new ReceiveWorkRequest(i), [new Sge(to.Iova, 64, to.Key)]));
            SendWorkRequest send = new() { Opcode = WorkRequestOpcode.Send, Flags = SendFlags.Signaled };
            Assert.Equal(Errno.Success, a.PostSend(send, new Sge(from.Iova, 64, from.Key)));
        }

        link.RunFor(TimeSpan.FromSeconds(2));
        Assert.Equal(3, TestNode.Poll(a.SendCompletionQueue).Count(c => c.Status == WorkCompletionStatus.Success));
        Assert.Equal(2, link.B.Port.Stats.RnrNaksSent);
    }

    [Fact]
    public void Faults_that_cannot_be_change_nothing()
    {
        TestLink link = new(o => o, o => o);
        WithToken(link.B, port =>
        {
            Assert.Throws<ArgumentException>(() => port.ChangeFaults(new FaultOptions { LossPerMille = 1001 }));
            Assert.Null(port.Faults);
        });
    }

    private static void PostWrite(TestLink link, QueuePair pair)
    {
        TestMemory source = link.A.Allocate(4096), target = link.B.Allocate(4096);
        MemoryRegion from = link.A.Register(source), to = link.B.Register(target);
        SendWorkRequest write = new() { Flags = SendFlags.Signaled, RemoteAddress = to.Iova, RKey = to.Key };
        Assert.Equal(Errno.Success, pair.PostSend(write, new Sge(from.Iova, 64, from.Key)));
    }

    // The link drives both ports, and has their tokens.
    private static void WithToken(TestNode node, Action<RdmaPort> action) => action(node.Port);
}
