using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>What a modify from SQD to SQD sets is in force at once, and not only in what a query says.</summary>
public class DrainedChangeTests
{
    private const uint Own = Conversation.OwnFirst;

    private static Conversation Drained(QueuePairAttributes change, QueuePairAttributeMask mask)
    {
        Conversation c = new();
        Step(c, QueuePairState.SendQueueDrained);
        Assert.Equal(
            Errno.Success,
            c.Pair.Modify(
                change with { State = QueuePairState.SendQueueDrained }, mask | QueuePairAttributeMask.State));
        Step(c, QueuePairState.ReadyToSend);
        return c;
    }

    private static void Step(Conversation c, QueuePairState state) =>
        Assert.Equal(
            Errno.Success,
            c.Pair.Modify(new QueuePairAttributes { State = state }, QueuePairAttributeMask.State));

    [Fact]
    public void Another_timeout_counts_from_the_next_request_on()
    {
        Conversation c = Drained(new QueuePairAttributes { Timeout = 18 }, QueuePairAttributeMask.Timeout);
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        c.Expect("RC_SEND_ONLY b00000 A");
        c.Wait(TimeSpan.FromMilliseconds(67.2)); // code 14, which it had
        Assert.Equal(0, c.Node.Port.Stats.Timeouts);
        c.Wait(TimeSpan.FromMilliseconds(1073.8 - 67.2));
        Assert.Equal(1, c.Node.Port.Stats.Timeouts);
    }

    [Fact]
    public void Another_number_of_retries_counts()
    {
        Conversation c = Drained(new QueuePairAttributes { RetryCount = 0 }, QueuePairAttributeMask.RetryCount);
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        c.Expect("RC_SEND_ONLY b00000 A");
        c.Wait(TimeSpan.FromMilliseconds(67.2));
        c.ExpectCompletion(1, WorkCompletionStatus.RetryExceeded);
    }

    [Fact]
    public void A_larger_number_of_retries_counts_from_the_first_request_on()
    {
        Conversation c = Drained(new QueuePairAttributes { RetryCount = 0 }, QueuePairAttributeMask.RetryCount);
        Step(c, QueuePairState.SendQueueDrained);
        QueuePairAttributes change = new() { State = QueuePairState.SendQueueDrained, RetryCount = 7 };
        const QueuePairAttributeMask Mask = QueuePairAttributeMask.State | QueuePairAttributeMask.RetryCount;
        Assert.Equal(Errno.Success, c.Pair.Modify(change, Mask));
        Step(c, QueuePairState.ReadyToSend);
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        c.Expect("RC_SEND_ONLY b00000 A");
        c.Wait(TimeSpan.FromMilliseconds(67.2));
        c.ExpectState(QueuePairState.ReadyToSend);
        c.Expect("RC_SEND_ONLY b00000 A");
    }

    [Fact]
    public void Another_number_of_RNR_retries_counts()
    {
        Conversation c = Drained(new QueuePairAttributes { RnrRetry = 0 }, QueuePairAttributeMask.RnrRetry);
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        c.Expect("RC_SEND_ONLY b00000 A");
        c.SendAck(Own, Aeth.ReceiverNotReady | 1);
        c.ExpectCompletion(1, WorkCompletionStatus.RnrRetryExceeded);
    }

    [Fact]
    public void Another_number_of_own_READs_counts()
    {
        Conversation c = Drained(new QueuePairAttributes { MaxRdAtomic = 1 }, QueuePairAttributeMask.MaxRdAtomic);
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 8);
        c.Post(2, WorkRequestOpcode.RdmaRead, 0, 8);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.ExpectNothing();
    }

    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    [InlineData(128)]
    public void Another_number_of_the_peers_READs_counts(int granted)
    {
        Conversation c = Drained(
            new QueuePairAttributes { MaxDestRdAtomic = granted }, QueuePairAttributeMask.MaxDestRdAtomic);
        for (uint i = 0; i <= granted; i++)
        {
            c.ExpectState(QueuePairState.ReadyToSend);
            c.SendRead(Conversation.First + i, 0, 8);
        }

        for (uint i = 0; i < granted; i++)
        {
            c.Expect($"RC_READ_RESP_ONLY {Conversation.First + i:x6} 1f msn={i + 1}");
        }

        c.Expect($"RC_ACKNOWLEDGE {Conversation.First + granted:x6} 61 msn={granted}");
        c.ExpectState(QueuePairState.Error);
    }

    // What was answered before is still answered again: the peer may have asked for it and heard nothing.
    [Theory]
    [InlineData(1, 1)]
    [InlineData(32, 3)]
    public void What_was_granted_before_is_remembered_as_far_as_there_is_room(int granted, int remembered)
    {
        Conversation c = new();
        for (uint i = 0; i < 3; i++)
        {
            c.SendRead(Conversation.First + i, 0, 8);
            c.Expect($"RC_READ_RESP_ONLY {Conversation.First + i:x6} 1f msn={i + 1}");
        }

        Step(c, QueuePairState.SendQueueDrained);
        Assert.Equal(
            Errno.Success,
            c.Pair.Modify(
                new QueuePairAttributes { State = QueuePairState.SendQueueDrained, MaxDestRdAtomic = granted },
                QueuePairAttributeMask.State | QueuePairAttributeMask.MaxDestRdAtomic));
        for (uint i = 0; i < 3; i++)
        {
            c.SendRead(Conversation.First + i, 0, 8);
            if (i >= 3 - remembered)
            {
                c.Expect($"RC_READ_RESP_ONLY {Conversation.First + i:x6} 1f msn=3");
            }

            c.ExpectNothing();
        }
    }

    // What is on its way out stays there when less is granted, and nothing more is repeated until it has gone.
    [Fact]
    public void Fewer_READs_are_granted_while_more_are_answered_again()
    {
        Conversation c = new();
        for (uint i = 0; i < 3; i++)
        {
            c.SendRead(Conversation.First + 8 * i, 0, 8 * Conversation.Mtu);
        }

        byte[] buffer = new byte[65536];
        while (c.Node.Port.PollTransmit(c.Now, buffer, out _))
        {
            // answered once
        }

        c.SendRead(Conversation.First, 0, 8 * Conversation.Mtu);
        c.SendRead(Conversation.First + 8, 0, 8 * Conversation.Mtu);
        Step(c, QueuePairState.SendQueueDrained);
        Assert.Equal(
            Errno.Success,
            c.Pair.Modify(
                new QueuePairAttributes { State = QueuePairState.SendQueueDrained, MaxDestRdAtomic = 1 },
                QueuePairAttributeMask.State | QueuePairAttributeMask.MaxDestRdAtomic));
        for (int from = 5; from >= 3; from--)
        {
            c.SendRead(
                Conversation.First + 16 + (uint)from,
                (ulong)from * Conversation.Mtu,
                (uint)(8 - from) * Conversation.Mtu);
        }

        int packets = 0;
        while (c.Node.Port.PollTransmit(c.Now, buffer, out Transmit sent))
        {
            packets += (sent.LengthBytes + sent.SegmentBytes - 1) / sent.SegmentBytes;
        }

        Assert.Equal(16, packets);
        c.ExpectState(QueuePairState.SendQueueDrained);
    }

    // An address of the other family has no way there.
    [Fact]
    public void A_path_to_another_address_family_is_refused_and_nothing_changes()
    {
        Conversation c = new(upTo: QueuePairState.Init);
        Assert.True(Gid.TryParse("fd77::1", out Gid other));
        QueuePairAttributes attributes = c.Pair.Attributes with
        {
            State = QueuePairState.ReadyToReceive,
            AddressVector = new AddressVector(other),
            PathMtu = PathMtu.Mtu1024,
            DestQpNumber = 5,
            MinRnrTimer = 12,
        };
        Assert.Equal(Errno.EINVAL, c.Pair.Modify(attributes, Connection.ToReadyToReceive));
        c.ExpectState(QueuePairState.Init);
    }
}
