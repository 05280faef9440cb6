using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Events of completion queues: where they go, and how many completions share one.</summary>
public class CompletionChannelTests
{
    private static readonly TimeSpan s_period = TimeSpan.FromMicroseconds(50);

    [Fact]
    public void Events_of_several_queues_come_out_of_their_channel_in_order()
    {
        int woken = 0;
        CompletionChannel channel = new(() => woken++);
        (Conversation c, CompletionQueue first) = Start(channel);
        (Conversation d, CompletionQueue second) = Start(channel);
        Arm(second);
        Complete(d);
        Arm(first);
        Complete(c);
        Arm(second);
        Complete(d);
        Assert.Equal(3, woken);
        Assert.Same(second, Take(channel));
        Assert.Same(first, Take(channel));
        Assert.Same(second, Take(channel));
        Assert.False(channel.TryTakeEvent(out _));
        Assert.False(second.TryTakeEvent());
    }

    [Fact]
    public void Completions_share_an_event_up_to_a_count()
    {
        (Conversation c, CompletionQueue queue) = Start();
        queue.SetModeration(new EventModeration(3, s_period));
        Arm(queue);
        Complete(c);
        Complete(c);
        Assert.False(queue.TryTakeEvent());
        Complete(c);
        Assert.True(queue.TryTakeEvent());
        c.Wait(s_period);
        Assert.False(queue.TryTakeEvent());
    }

    [Fact]
    public void Completions_share_an_event_up_to_a_time()
    {
        (Conversation c, CompletionQueue queue) = Start();
        queue.SetModeration(new EventModeration(1000, s_period));
        Arm(queue);
        Complete(c);
        c.Wait(s_period / 2);
        Complete(c);
        Assert.False(queue.TryTakeEvent());
        c.Wait(s_period / 2);
        Assert.True(queue.TryTakeEvent());
        Assert.False(queue.TryTakeEvent());
    }

    [Fact]
    public void A_failed_completion_does_not_wait()
    {
        (Conversation c, CompletionQueue queue) = Start();
        queue.SetModeration(new EventModeration(1000, s_period));
        Arm(queue);
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 8, key: 0x4400);
        c.ExpectNothing();
        Assert.True(queue.TryTakeEvent());
    }

    [Fact]
    public void A_moderation_without_a_count_is_refused()
    {
        (_, CompletionQueue queue) = Start();
        Assert.Throws<ArgumentOutOfRangeException>(() => queue.SetModeration(new EventModeration(0, s_period)));
        Assert.Throws<ArgumentOutOfRangeException>(() => queue.SetModeration(new EventModeration(1, -s_period)));
    }

    private static (Conversation, CompletionQueue) Start(CompletionChannel? channel = null)
    {
        Assert.Equal(Errno.Success, RdmaDevice.TryCreateCompletionQueue(64, out CompletionQueue? queue, channel));
        return (new Conversation(completions: queue), queue!);
    }

    private static void Arm(CompletionQueue queue) => queue.RequestNotify(solicitedOnly: false);

    private static CompletionQueue Take(CompletionChannel channel)
    {
        Assert.True(channel.TryTakeEvent(out CompletionQueue? queue));
        return queue;
    }

    // One send of the queue pair, acknowledged.
    private static void Complete(Conversation c)
    {
        uint psn = c.Pair.OldestUnansweredPsn;
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 8);
        c.Expect($"RC_WRITE_ONLY {psn:x6} A");
        c.SendAck(psn);
    }
}
