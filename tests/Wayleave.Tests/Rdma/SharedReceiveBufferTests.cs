using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// Several hosts write to one socket, whose receive buffer each takes to be its own. Time is counted in microseconds:
/// the receiver takes five for a super-packet, each sender five to make one, and whatever does not fit the buffer is
/// dropped whole, as the kernel does it (udp_rmem_release, skb->truesize).
/// </summary>
public class SharedReceiveBufferTests
{
    private const int BufferBytes = 425_984; // of an unprivileged user
    private const int WindowBytes = BufferBytes / 4 * 3; // what NicHandle takes of it
    private const int TruesizeBytes = 832;
    private const int ServiceUs = 5;
    private const int MessageBytes = 64 << 10;
    private const int Depth = 32;

    private const int ProbeAfterUs = 2000;
    private const int RunUs = 100_000;

    // Each host may have three quarters of the buffer on its way, so two may overflow it. The one whose last packets
    // were dropped, and with them the question, hears nothing and waits for its time-out; those that go on keep the
    // buffer full meanwhile. A smaller window after a loss is no way out: the one that lost is the one that gives way.
    [Theory]
    [InlineData(4)]
    [InlineData(8)]
    public void Hosts_that_overflow_a_receive_buffer_between_them_all_get_on(int hosts)
    {
        World world = new(hosts, lossPerMille: 0, ProbeAfterUs);
        world.Run(RunUs);

        long share = world.Completed / hosts;
        Assert.True(world.Dropped > hosts && world.Least > share / 20, world.ToString());
        Assert.True(world.BytesPerUs > 4500, world.ToString()); // of 6,553 that one host has alone
    }

    [Fact]
    public void Without_probes_hosts_that_overflow_a_receive_buffer_starve_one_another()
    {
        World world = new(hosts: 8, lossPerMille: 0, probeAfterUs: 0);
        world.Run(RunUs);

        Assert.True(world.Least < world.Completed / 8 / 100, world.ToString());
    }

    // Go-back-N with a window of W packets, each lost with probability p, reaches 1/(1 + pW).
    [Theory]
    [InlineData(1)]
    [InlineData(10)]
    public void A_link_that_loses_packets_carries_four_fifths_of_what_going_back_can(int lossPerMille)
    {
        World clean = new(1, 0, ProbeAfterUs), lossy = new(1, lossPerMille, ProbeAfterUs);
        clean.Run(RunUs);
        lossy.Run(RunUs);

        double window = WindowBytes / 4112.0;
        double bound = clean.BytesPerUs / (1 + (lossPerMille / 1000.0 * window));
        Assert.True(clean.BytesPerUs > 6000, clean.ToString());
        Assert.True(lossy.BytesPerUs > 0.8 * bound, $"{lossy}; going back reaches {bound:F0}");
    }

    [Fact]
    public void Without_probes_a_lost_answer_costs_a_time_out_and_the_link_carries_next_to_nothing()
    {
        World world = new(1, lossPerMille: 10, probeAfterUs: 0);
        world.Run(RunUs);

        Assert.True(world.BytesPerUs < 1000, world.ToString());
    }

    private sealed class World
    {
        private readonly TestNode _target = new("10.77.0.1", 1);
        private readonly List<TestNode> _hosts = [];
        private readonly List<QueuePair> _pairs = [];
        private readonly List<MemoryRegion> _local = [];
        private readonly MemoryRegion _remote;
        private readonly int[] _posted;
        private readonly long[] _completed;
        private readonly int[] _busyUntil;
        private readonly Queue<(int Host, byte[] Bytes, int SegmentBytes)> _socket = [];
        private readonly byte[] _buffer = GC.AllocateArray<byte>(65536, pinned: true);
        private readonly Random _random = new(7);
        private readonly int _lossPerMille;
        private int _socketBytes;
        private int _now;

        public World(int hosts, int lossPerMille, int probeAfterUs)
        {
            _lossPerMille = lossPerMille;
            TestMemory target = _target.Allocate(MessageBytes);
            _remote = _target.Register(target);
            for (int i = 0; i < hosts; i++)
            {
                TestNode host = new($"10.77.0.{i + 2}", (ulong)i + 2, o => o with
                {
                    ProbeAfter = probeAfterUs == 0 ? null : TimeSpan.FromMicroseconds(probeAfterUs),
                });
                QueuePair a = host.CreatePair(TestNode.CreateCompletionQueue(), new() { MaxSendWr = Depth });
                QueuePair b = _target.CreatePair(TestNode.CreateCompletionQueue());
                Connect(a, _target.Gid, b.QpNumber, isSender: true);
                Connect(b, host.Gid, a.QpNumber, isSender: false);
                _hosts.Add(host);
                _pairs.Add(a);
                _local.Add(host.Register(host.Allocate(MessageBytes)));
            }

            _posted = new int[hosts];
            _completed = new long[hosts];
            _busyUntil = new int[hosts + 1];
        }

        public int Dropped { get; private set; }

        public long Completed => _completed.Sum();

        public long Least => _completed.Min();

        public double BytesPerUs => (double)Completed * MessageBytes / _now;

        private TimeSpan Now => TimeSpan.FromSeconds(1) + TimeSpan.FromMicroseconds(_now);

        public override string ToString() =>
            $"{BytesPerUs:F0} bytes/us, {Dropped} super-packets dropped, "
            + $"{_hosts.Sum(h => h.Port.Stats.Retransmits)} packets again, {_hosts.Sum(h => h.Port.Stats.Timeouts)} "
            + $"time-outs, {_hosts.Sum(h => h.Port.Stats.Probes)} probes, least {Least} most {_completed.Max()}";

        public void Run(int microseconds)
        {
            for (; _now < microseconds; _now++)
            {
                for (int i = 0; i < _hosts.Count; i++)
                {
                    StepHost(i);
                }

                StepTarget();
            }
        }

        private static void Connect(QueuePair pair, Gid peer, uint number, bool isSender)
        {
            QueuePairAttributes attributes = new Connection().Attributes;
            new Connection
            {
                Attributes = attributes with
                {
                    AddressVector = new AddressVector(
                        peer, Icrc: IcrcMode.OwnIdentification, KeepsSuperPackets: true),
                    PeerWindowBytes = WindowBytes,
                    DestQpNumber = number,
                    PathMtu = PathMtu.Mtu4096,
                    SqPsn = isSender ? attributes.SqPsn : attributes.RqPsn,
                    RqPsn = isSender ? attributes.RqPsn : attributes.SqPsn,
                },
            }.Apply(pair);
        }

        private void StepHost(int index)
        {
            TestNode host = _hosts[index];
            QueuePair pair = _pairs[index];
            int done = TestNode.Poll(pair.SendCompletionQueue).Count;
            _completed[index] += done;
            _posted[index] -= done;
            while (_posted[index] < Depth)
            {
                Assert.Equal(Errno.Success, pair.PostSend(
                    new SendWorkRequest
                    {
                        Opcode = WorkRequestOpcode.RdmaWrite,
                        Flags = SendFlags.Signaled,
                        RemoteAddress = _remote.Iova,
                        RKey = _remote.Key,
                    },
                    new Sge(_local[index].Iova, MessageBytes, _local[index].Key)));
                _posted[index]++;
            }

            host.Port.HandleTimeout(Now);
            if (_busyUntil[index] > _now || !host.Port.PollTransmit(Now, _buffer, out Transmit sent))
            {
                return;
            }

            _busyUntil[index] = _now + ServiceUs;
            byte[] bytes = _buffer[..sent.LengthBytes];
            if (_socketBytes + bytes.Length + TruesizeBytes > BufferBytes)
            {
                Dropped++;
                return;
            }

            _socketBytes += bytes.Length + TruesizeBytes;
            _socket.Enqueue((index, bytes, sent.SegmentBytes));
        }

        private void StepTarget()
        {
            int self = _hosts.Count;
            if (_busyUntil[self] > _now)
            {
                return;
            }

            if (_socket.TryDequeue(out (int Host, byte[] Bytes, int SegmentBytes) arrived))
            {
                _busyUntil[self] = _now + ServiceUs;
                _socketBytes -= arrived.Bytes.Length + TruesizeBytes;
                Deliver(_hosts[arrived.Host], _target, arrived.Bytes, arrived.SegmentBytes);
            }

            while (_target.Port.PollTransmit(Now, _buffer, out Transmit answer))
            {
                TestNode to = _hosts.Single(h => h.Gid == answer.Destination);
                Deliver(_target, to, _buffer[..answer.LengthBytes], answer.SegmentBytes);
            }
        }

        // Lost one by one, as on a path that cuts super-packets up.
        private void Deliver(TestNode from, TestNode to, byte[] bytes, int segmentBytes)
        {
            ushort identification = 0;
            for (int at = 0; at < bytes.Length; at += segmentBytes, identification++)
            {
                int length = Math.Min(segmentBytes, bytes.Length - at);
                if (_random.Next(1000) >= _lossPerMille)
                {
                    to.Port.HandleDatagrams(
                        from.Gid, 4791, bytes.AsSpan(at, length), length, 0, Now, identification);
                }
            }
        }
    }
}
