using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// After a loss a sender asks where its window closes, for a while, and less often before that: what follows a lost
/// question is lost with it. A window of 32 packets, an eighth of which is asked about at a time.
/// </summary>
public class CarefulSenderTests
{
    private const uint Own = Conversation.OwnFirst;
    private const int WindowPackets = 32;
    private const int Careful = 64; // answers

    private readonly Conversation _c = new(options: o => o with
    {
        WindowBytes = WindowPackets * (Conversation.Mtu + o.DatagramChargeBytes + 60),
        AcknowledgeShare = 8,
        SuperPacketSegments = 1,
    });

    private uint _answered = Own;

    [Fact]
    public void Questions_are_fewer_after_a_loss_and_the_last_packet_of_the_window_asks()
    {
        Post();
        List<int> before = Questions();
        Assert.Equal(8, before.Count);
        _c.SendAck(_answered, Aeth.NakPsnSequence);
        List<int> after = Questions();
        Assert.True(after.Count <= 3, string.Join(' ', after));
        Assert.Equal(WindowPackets - 1, after[^1]);
    }

    // What one answer makes room for is asked about at once: when it is lost, nothing else would ask.
    [Fact]
    public void Whoever_is_careful_asks_with_each_packet_that_closes_the_window()
    {
        Post();
        Questions();
        Answer(1);
        Assert.Empty(Questions());
        _c.SendAck(_answered, Aeth.NakPsnSequence);
        Questions();
        Answer(1);
        Assert.Equal([0], Questions());
    }

    [Fact]
    public void After_so_many_answers_it_is_over()
    {
        Post();
        Questions();
        _c.SendAck(_answered, Aeth.NakPsnSequence);
        Questions();
        for (int i = 0; i < Careful; i++)
        {
            Answer(1);
            Questions();
        }

        Answer(WindowPackets);
        Assert.Equal(8, Questions().Count);
    }

    private void Post()
    {
        for (ulong i = 0; i < 4; i++)
        {
            _c.Post(i, WorkRequestOpcode.RdmaWrite, 0, 64 * Conversation.Mtu);
        }
    }

    private void Answer(uint packets)
    {
        _answered += packets;
        _c.SendAck(_answered - 1);
    }

    /// <summary>Which of the packets that leave now ask for an answer.</summary>
    private List<int> Questions()
    {
        List<int> asking = [];
        byte[] buffer = new byte[65536];
        int count = 0;
        while (_c.Node.Port.PollTransmit(_c.Now, buffer, out Transmit transmit))
        {
            for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes, count++)
            {
                int length = Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at);
                Assert.Equal(DropReason.None, PacketView.TryParse(buffer.AsSpan(at, length), out PacketView packet));
                if (packet.AckRequest)
                {
                    asking.Add(count);
                }
            }
        }

        return asking;
    }
}
