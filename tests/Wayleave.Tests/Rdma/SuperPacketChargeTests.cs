using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;
using static Wayleave.Tests.Rdma.Conversation;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// What is on its way to a peer's socket is charged as it fills the receive buffer there: a super-packet that arrives
/// in one piece is one buffer of the kernel, and one that was cut up on the way is one for each segment.
/// </summary>
public class SuperPacketChargeTests
{
    private const int HeaderBytes = Bth.Size + Reth.Size + PacketView.IcrcSize;
    private const int NetworkBytes = 28; // IPv4 and UDP
    private const int BufferBytes = 832; // of the kernel, for each piece
    private const int ChargeBytes = 900;
    private const int Messages = 12;
    private const int MessageBytes = 8 * Mtu;

    private readonly byte[] _buffer = GC.AllocateArray<byte>(65536, pinned: true);

    [Theory]
    [InlineData(true, MemoryBytes)]
    [InlineData(true, 100)]
    [InlineData(true, 5 * Mtu + 3)]
    [InlineData(false, MemoryBytes)]
    [InlineData(false, 100)]
    public void Each_super_packet_is_charged_once_or_each_of_its_segments_and_released_when_answered(
        bool keeps, int bytes)
    {
        Conversation c = Talk(keeps, windowBytes: 1 << 20);
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, (uint)bytes);
        List<Transmit> sent = Drain(c);
        int packets = (bytes + Mtu - 1) / Mtu;
        Assert.Equal(packets, sent.Sum(Segments));
        int expected = keeps
            ? bytes + packets * HeaderBytes + sent.Count * ChargeBytes
            : bytes + packets * (HeaderBytes + NetworkBytes + ChargeBytes);
        DestinationWindow window = c.Pair.Peer.Window;
        Assert.Equal(expected, window.InFlightBytes);
        c.SendAck(OwnFirst + (uint)packets - 1, msn: 1);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        Assert.Equal(0, window.InFlightBytes);
    }

    [Fact]
    public void A_part_that_is_answered_takes_its_share_of_the_super_packets_along()
    {
        Conversation c = Talk(keeps: true, windowBytes: 1 << 20);
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, MemoryBytes);
        Assert.Equal(2, Drain(c).Count);
        DestinationWindow window = c.Pair.Peer.Window;
        const int Packets = MemoryBytes / Mtu, Answered = Packets / 2;
        c.SendAck(OwnFirst + Answered - 1);
        Assert.Equal((Packets - Answered) * (Mtu + HeaderBytes) + ChargeBytes, window.InFlightBytes);
        c.SendAck(OwnFirst + Packets - 1, msn: 1);
        Assert.Equal(0, window.InFlightBytes);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void What_is_on_its_way_never_fills_the_buffer_of_the_receiver(bool keeps) =>
        Assert.True(MostInTheSocket(saysThatItKeeps: keeps, keeps, out int windowBytes) <= windowBytes);

    [Fact]
    public void A_path_that_cuts_up_what_was_charged_in_one_piece_is_caught() =>
        Assert.True(MostInTheSocket(saysThatItKeeps: true, keeps: false, out int windowBytes) > windowBytes);

    // Several messages that fill the window, answered one after the other: what the receiver's socket holds at most.
    private int MostInTheSocket(bool saysThatItKeeps, bool keeps, out int windowBytes)
    {
        windowBytes = 3 * MessageBytes;
        Conversation c = Talk(saysThatItKeeps, windowBytes);
        for (uint i = 0; i < Messages; i++)
        {
            c.Post(i, WorkRequestOpcode.RdmaWrite, i % 8 * MessageBytes, MessageBytes);
        }

        Queue<(int Segments, int Cost)> socket = [];
        (int most, int held, uint answered) = (0, 0, 0);
        while (answered < Messages * MessageBytes / Mtu)
        {
            foreach (Transmit transmit in Drain(c))
            {
                int segments = Segments(transmit);
                int cost = keeps
                    ? transmit.LengthBytes + BufferBytes
                    : transmit.LengthBytes + segments * (NetworkBytes + BufferBytes);
                socket.Enqueue((segments, cost));
                held += cost;
                most = Math.Max(most, held);
            }

            Assert.NotEmpty(socket);
            (int taken, int freed) = socket.Dequeue();
            held -= freed;
            answered += (uint)taken;
            c.SendAck(OwnFirst + answered - 1, msn: answered * Mtu / MessageBytes);
        }

        Assert.Equal(0, c.Pair.Peer.Window.InFlightBytes);
        return most;
    }

    private static Conversation Talk(bool keeps, int windowBytes) => new(
        a => a with { AddressVector = a.AddressVector with { KeepsSuperPackets = keeps } },
        o => o with { WindowBytes = windowBytes, DatagramChargeBytes = ChargeBytes });

    private static int Segments(Transmit transmit) =>
        (transmit.LengthBytes + transmit.SegmentBytes - 1) / transmit.SegmentBytes;

    private List<Transmit> Drain(Conversation c)
    {
        List<Transmit> sent = [];
        while (c.Node.Port.PollTransmit(c.Now, _buffer, out Transmit transmit))
        {
            sent.Add(transmit);
        }

        return sent;
    }
}
