using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Rates of queue pairs of every transport, and what those of one port leave each other.</summary>
public class PacingTests
{
    private const uint QKey = 0x11223344;
    private const byte Marked = 3;
    private const int Bytes = 1000;

    // A WRITE or datagram of 1000 bytes takes a millisecond at half of that.
    private static readonly CongestionOptions s_slow = new() { LineRate = 2e6, MinimumRate = 1e5 };

    [Theory]
    [InlineData(QueuePairType.ReliableConnection)]
    [InlineData(QueuePairType.UnreliableConnection)]
    [InlineData(QueuePairType.UnreliableDatagram)]
    public void Marked_packets_of_every_transport_slow_down_the_queue_pair_that_sent_them(QueuePairType type)
    {
        Sender s = new(type, s_slow);
        s.Post();
        s.Carry(Marked);
        Assert.Contains("B CNP 000000", s.Link.Log);
        Assert.Equal(s_slow.LineRate / 2, s.A.SendRate);

        s.Post();
        s.Post();
        Assert.Equal(1, s.CountSent());
        s.Link.Advance(TimeSpan.FromMicroseconds(900));
        Assert.Equal(0, s.CountSent());
        s.Link.Advance(TimeSpan.FromMicroseconds(300));
        Assert.Equal(1, s.CountSent());
    }

    [Theory]
    [InlineData(QueuePairType.UnreliableConnection)]
    [InlineData(QueuePairType.UnreliableDatagram)]
    public void Where_congestion_is_not_controlled_marks_change_nothing(QueuePairType type)
    {
        Sender s = new(type, options: null);
        s.Post();
        s.Carry(Marked);
        Assert.DoesNotContain("B CNP 000000", s.Link.Log);
        s.Post();
        s.Post();
        Assert.Equal(2, s.CountSent());
    }

    [Fact]
    public void ROCE_79_A_CNP_for_a_datagram_queue_pair_from_where_nobody_sends_to_is_dropped()
    {
        Sender s = new(QueuePairType.UnreliableDatagram, s_slow);
        Assert.True(Gid.TryParse("10.77.0.9", out Gid stranger));
        s.Notify(s.A, stranger);
        Assert.Equal((s_slow.LineRate, 1), (s.A.SendRate, s.Link.A.Port.Stats.Drops(DropReason.WrongPeer)));
        s.Notify(s.A, s.Link.B.Gid);
        Assert.Equal(s_slow.LineRate / 2, s.A.SendRate);
    }

    [Fact]
    public void One_CNP_in_its_interval_leaves_for_datagrams_too()
    {
        Sender s = new(QueuePairType.UnreliableDatagram, s_slow);
        for (int i = 0; i < 5; i++)
        {
            s.Post();
        }

        s.Carry(Marked);
        Assert.Equal(1, s.Link.B.Port.Stats.NotificationsSent);
        Assert.Equal(5, s.Link.B.Port.Stats.CongestionMarks);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Queue_pairs_of_one_port_share_it_evenly(bool isControlled)
    {
        Crowd crowd = new(isControlled ? new CongestionOptions { LineRate = 1e9 } : null);
        if (isControlled)
        {
            crowd.Pairs.ForEach(crowd.Notify);
        }

        crowd.Run(rounds: 300);
        Assert.True(crowd.Jain > 0.99, crowd.ToString());
    }

    [Fact]
    public void A_queue_pair_that_is_slowed_down_leaves_the_port_to_the_others()
    {
        CongestionOptions options = new() { LineRate = 1e9 };
        Crowd free = new(options), crowd = new(options);
        for (int i = 0; i < 300; i++)
        {
            crowd.Notify(crowd.Pairs[0]); // again and again, so that it does not recover
            crowd.Run(rounds: 1);
            free.Run(rounds: 1);
        }

        Assert.True(crowd.Sent[0] < free.Sent[0] / 4, crowd.ToString());
        Assert.True(crowd.Sent.Skip(1).Min() >= free.Sent.Skip(1).Min(), $"{crowd}, and free {free}");
    }

    private static RawPacket Notification(uint to) => new(Opcode.CongestionNotification, 0)
    {
        DestQp = to,
        BackwardCongestion = true,
        Payload = new byte[16],
    };

    private static void Notify(TestLink link, QueuePair pair, Gid source)
    {
        byte[] packet = Notification(pair.QpNumber).Build(new IcrcFlow(source, link.A.Gid, 4791, 4791));
        link.A.Port.HandleDatagrams(source, 4791, packet, packet.Length, 0, link.Now);
    }

    /// <summary>One queue pair of a transport that sends to another.</summary>
    private sealed class Sender
    {
        private readonly MemoryRegion _source;
        private readonly MemoryRegion _target;
        private readonly AddressHandle? _handle;
        private readonly List<byte[]> _packets = [];
        private readonly QueuePair _b;

        public Sender(QueuePairType type, CongestionOptions? options)
        {
            Link = new TestLink(o => o with { Congestion = options }, o => o with { Congestion = options });
            _source = Link.A.Register(Link.A.Allocate(4096));
            _target = Link.B.Register(Link.B.Allocate(4096));
            bool isDatagram = type == QueuePairType.UnreliableDatagram;
            A = Link.A.CreatePair(type, TestNode.CreateCompletionQueue());
            _b = Link.B.CreatePair(type, TestNode.CreateCompletionQueue());
            Connect(A, Link.B.Gid, _b.QpNumber, isSender: true);
            Connect(_b, Link.A.Gid, A.QpNumber, isSender: false);
            _handle = isDatagram ? Link.A.CreateAddressHandle(Link.B.Gid) : null;
            Link.Filter = (from, packet) =>
            {
                if (ReferenceEquals(from, Link.A))
                {
                    _packets.Add(packet.ToArray());
                    return false;
                }

                return true;
            };
        }

        public TestLink Link { get; }

        public QueuePair A { get; }

        public void Post() => Assert.Equal(
            Errno.Success,
            A.PostSend(
                new SendWorkRequest
                {
                    Opcode = _handle is null ? WorkRequestOpcode.RdmaWrite : WorkRequestOpcode.Send,
                    RemoteAddress = _target.Iova,
                    RKey = _target.Key,
                    AddressHandle = _handle,
                    RemoteQpNumber = _b.QpNumber,
                    RemoteQKey = QKey,
                },
                new Sge(_source.Iova, Bytes, _source.Key)));

        /// <summary>What is sent arrives with that traffic class, and what is answered comes back.</summary>
        public void Carry(byte trafficClass)
        {
            CountSent();
            foreach (byte[] packet in _packets)
            {
                Link.B.Port.HandleDatagrams(Link.A.Gid, 4791, packet, packet.Length, trafficClass, Link.Now);
            }

            _packets.Clear();
            Link.Step(Link.B, Link.A);
        }

        /// <summary>How many packets leave now.</summary>
        public int CountSent()
        {
            int before = _packets.Count;
            Link.Step(Link.A, Link.B);
            return _packets.Count - before;
        }

        public void Notify(QueuePair pair, Gid source) => PacingTests.Notify(Link, pair, source);

        private static void Connect(QueuePair pair, Gid peer, uint number, bool isSender)
        {
            QueuePairAttributes attributes = new Connection().Attributes;
            new Connection
            {
                Attributes = attributes with
                {
                    AccessFlags = AccessFlags.RemoteWrite,
                    AddressVector = new AddressVector(peer),
                    DestQpNumber = number,
                    QKey = QKey,
                    SqPsn = isSender ? attributes.SqPsn : attributes.RqPsn,
                    RqPsn = isSender ? attributes.RqPsn : attributes.SqPsn,
                },
            }.ApplyRequired(pair);
        }
    }

    /// <summary>Four connections of one port, each with more to send than it can.</summary>
    private sealed class Crowd
    {
        private const int Count = 4;
        private const int MessageBytes = 16384;

        private readonly TestLink _link;
        private readonly MemoryRegion _source;
        private readonly MemoryRegion _target;
        private readonly Dictionary<uint, int> _indexOf = [];

        public Crowd(CongestionOptions? options)
        {
            _link = new TestLink(o => o with { Congestion = options });
            _source = _link.A.Register(_link.A.Allocate(MessageBytes));
            _target = _link.B.Register(_link.B.Allocate(MessageBytes));
            for (int i = 0; i < Count; i++)
            {
                (QueuePair a, QueuePair b) = _link.Connect();
                Pairs.Add(a);
                _indexOf.Add(b.QpNumber, i);
            }

            _link.Filter = (from, bytes) =>
            {
                if (ReferenceEquals(from, _link.A)
                    && PacketView.TryParse(bytes.Span, out PacketView packet) == DropReason.None)
                {
                    Sent[_indexOf[packet.DestQp]] += packet.PayloadBytes;
                }

                return true;
            };
        }

        public List<QueuePair> Pairs { get; } = [];

        public long[] Sent { get; } = new long[Count];

        public double Jain => Math.Pow(Sent.Sum(), 2) / (Count * Sent.Sum(s => (double)s * s));

        public override string ToString() => string.Join(' ', Sent);

        public void Notify(QueuePair pair) => PacingTests.Notify(_link, pair, _link.B.Gid);

        /// <summary>Ten microseconds each.</summary>
        public void Run(int rounds)
        {
            for (int i = 0; i < rounds; i++)
            {
                foreach (QueuePair pair in Pairs)
                {
                    TestNode.Poll(pair.SendCompletionQueue);
                    while (pair.PostSend(
                        new SendWorkRequest
                        {
                            Opcode = WorkRequestOpcode.RdmaWrite,
                            Flags = SendFlags.Signaled,
                            RemoteAddress = _target.Iova,
                            RKey = _target.Key,
                        },
                        new Sge(_source.Iova, MessageBytes, _source.Key)) == Errno.Success)
                    {
                    }
                }

                _link.Step(_link.A, _link.B);
                _link.Step(_link.B, _link.A);
                _link.Advance(TimeSpan.FromMicroseconds(10));
            }
        }
    }
}
