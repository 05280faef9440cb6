using System.Text;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>The transition table of queue pairs, and what modify makes of it.</summary>
public class QueuePairStateTests
{
    [Fact]
    public void The_transition_table_is_the_reviewed_one()
    {
        StringBuilder text = new();
        foreach (QueuePairType type in Enum.GetValues<QueuePairType>())
        {
            text.AppendLine($"{type}");
            foreach (QueuePairState from in Enum.GetValues<QueuePairState>())
            {
                foreach (QueuePairState to in Enum.GetValues<QueuePairState>())
                {
                    bool exists = QueuePairTransitions.TryGet(
                        from, to, type, out QueuePairAttributeMask required, out QueuePairAttributeMask optional);
                    text.AppendLine(exists
                        ? $"    {from} -> {to}: needs {required}; allows {optional}"
                        : $"    {from} -> {to}: -");
                }
            }
        }

        Snapshot.Match(text.ToString(), "QueuePairTransitions");
    }

    [Fact]
    public void ROCE_56_A_modify_without_one_of_the_required_attributes_is_refused_and_changes_nothing()
    {
        (QueuePairState From, QueuePairState To, QueuePairAttributeMask Mask)[] steps =
        [
            (QueuePairState.Reset, QueuePairState.Init, Connection.ToInit),
            (QueuePairState.Init, QueuePairState.ReadyToReceive, Connection.ToReadyToReceive),
            (QueuePairState.ReadyToReceive, QueuePairState.ReadyToSend, Connection.ToReadyToSend),
        ];
        TestLink link = new();
        QueuePairAttributes attributes = new Connection().Attributes with
        {
            AddressVector = new AddressVector(link.B.Gid),
            DestQpNumber = 77,
        };
        foreach ((QueuePairState from, QueuePairState to, QueuePairAttributeMask mask) in steps)
        {
            foreach (QueuePairAttributeMask bit in Enum.GetValues<QueuePairAttributeMask>())
            {
                if (bit is QueuePairAttributeMask.None or QueuePairAttributeMask.State || (mask & bit) == 0)
                {
                    continue;
                }

                QueuePair pair = link.A.CreatePair();
                new Connection { Attributes = attributes }.Apply(pair, from);
                Assert.Equal(Errno.EINVAL, pair.Modify(attributes with { State = to }, mask & ~bit));
                Assert.Equal(from, pair.State);
                Assert.Equal(
                    Errno.EINVAL, pair.Modify(attributes with { State = to }, mask | QueuePairAttributeMask.QKey));
                Assert.Equal(from, pair.State);
                Assert.Equal(Errno.Success, pair.Modify(attributes with { State = to }, mask));
                Assert.Equal(to, pair.State);
            }
        }
    }

    [Theory]
    [InlineData(QueuePairAttributeMask.AccessFlags)]
    [InlineData(QueuePairAttributeMask.Port)]
    [InlineData(QueuePairAttributeMask.PKeyIndex)]
    public void A_value_out_of_range_is_refused(QueuePairAttributeMask bit)
    {
        TestLink link = new();
        QueuePair pair = link.A.CreatePair();
        QueuePairAttributes bad = new()
        {
            State = QueuePairState.Init,
            AccessFlags = bit == QueuePairAttributeMask.AccessFlags ? AccessFlags.OnDemand : AccessFlags.None,
            Port = bit == QueuePairAttributeMask.Port ? 2 : 1,
            PKeyIndex = bit == QueuePairAttributeMask.PKeyIndex ? 1 : 0,
        };
        Assert.Equal(Errno.EINVAL, pair.Modify(bad, Connection.ToInit));
        Assert.Equal(QueuePairState.Reset, pair.State);
    }

    [Fact]
    public void Posting_follows_the_table_of_states()
    {
        TestLink link = new();
        SendWorkRequest send = new() { Opcode = WorkRequestOpcode.Send, Flags = SendFlags.Signaled };
        QueuePairAttributes attributes = new Connection().Attributes with
        {
            AddressVector = new AddressVector(link.B.Gid),
            DestQpNumber = 77,
        };

        QueuePair reset = link.A.CreatePair();
        Assert.Equal(Errno.EINVAL, reset.PostSendInline(send, []));
        Assert.Equal(Errno.EINVAL, reset.PostReceive(new ReceiveWorkRequest(1), []));

        foreach (QueuePairState state in new[] { QueuePairState.Init, QueuePairState.ReadyToReceive })
        {
            QueuePair pair = link.A.CreatePair();
            new Connection { Attributes = attributes }.Apply(pair, state);
            Assert.Equal(Errno.EINVAL, pair.PostSendInline(send, []));
            Assert.Equal(Errno.Success, pair.PostReceive(new ReceiveWorkRequest(1), []));
        }

        QueuePair ready = link.A.CreatePair();
        new Connection { Attributes = attributes }.Apply(ready);
        Assert.Equal(Errno.Success, ready.PostSendInline(send, []));
        Assert.Equal(Errno.Success, ready.PostReceive(new ReceiveWorkRequest(1), []));
    }
}
