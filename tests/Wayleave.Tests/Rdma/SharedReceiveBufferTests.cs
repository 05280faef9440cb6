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
    private const int LongMessageBytes = 256 << 10; // several turns
    private const int Depth = 32;

    private const int ProbeAfterUs = 2000;
    private const int ProbeFloorUs = 100;
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

    // A receiver that is not running finds in its socket what was sent before, and nothing is sent on top of that: a
    // probe keeps its charges. The buffer has room for one window and a quarter.
    [Theory]
    [InlineData(1)]
    [InlineData(10)]
    [InlineData(50)]
    public void A_receiver_that_does_not_run_for_a_while_loses_nothing(int pauseMilliseconds)
    {
        World world = new(1, lossPerMille: 0, ProbeAfterUs);
        RunWithPauses(world, pauseMilliseconds);

        Assert.True(world.Dropped == 0 && world.Retransmits == 0, world.ToString());
        Assert.True(pauseMilliseconds == 1 || world.Probes > 0, world.ToString());
        Assert.True(world.Completed > 0, world.ToString());
    }

    [Fact]
    public void Probes_that_take_their_charges_back_send_again_what_is_still_in_the_socket()
    {
        World world = new(1, lossPerMille: 0, ProbeAfterUs, new ResponderDefences { ProbesKeepCharges = false });
        RunWithPauses(world, pauseMilliseconds: 10);

        Assert.True(world.Retransmits > 0, world.ToString());
    }

    [Fact]
    public void Many_queue_pairs_to_a_receiver_that_does_not_run_ask_a_few_at_a_time()
    {
        World world = new(1, lossPerMille: 0, ProbeAfterUs, pairsPerHost: 200);
        world.Run(1000);
        world.Pause(30_000);
        Assert.True(world.Probes is > 0 and <= 2 * 3 + 16, world.ToString()); // after 2, 6 and 14 ms two, then more
        world.Run(RunUs);
        Assert.True(world.Dropped == 0 && world.Retransmits == 0, world.ToString());
    }

    // One of several has often sent a part of a message, asked nothing, and waits for its turn while the others are
    // answered: its silence is no loss, however short a round trip is.
    [Theory]
    [InlineData(8, MessageBytes)]
    [InlineData(32, MessageBytes)]
    [InlineData(200, MessageBytes)]
    [InlineData(8, LongMessageBytes)]
    [InlineData(200, LongMessageBytes)]
    public void Many_queue_pairs_to_a_receiver_that_loses_nothing_ask_nothing(int pairs, int messageBytes)
    {
        World world = new(1, 0, ProbeAfterUs, null, pairs, ProbeFloorUs, messageBytes);
        world.Run(RunUs / 5);

        Assert.True(world.Dropped == 0 && world.Probes == 0, world.ToString());
        Assert.True(world.BytesPerUs > 6000, world.ToString());
    }

    [Fact]
    public void Queue_pairs_that_take_a_turn_of_the_others_for_a_silence_ask_for_nothing()
    {
        ResponderDefences defences = new() { WaitsFromQuestions = false };
        World world = new(1, 0, ProbeAfterUs, defences, pairsPerHost: 200, ProbeFloorUs, LongMessageBytes);
        world.Run(RunUs / 5);

        Assert.True(world.Dropped == 0 && world.Probes > 100, world.ToString());
    }

    // Each goes back for itself, and is asked for itself when its last packets are lost: what the others sent later,
    // and got an answer to, says that it is no pause of the receiver.
    [Theory]
    [InlineData(8, 10)]
    [InlineData(32, 10)]
    public void Many_queue_pairs_on_a_link_that_loses_packets_carry_four_fifths_of_what_going_back_can(
        int pairs, int lossPerMille)
    {
        World clean = new(1, 0, ProbeAfterUs, pairsPerHost: pairs, probeFloorUs: ProbeFloorUs);
        World lossy = new(1, lossPerMille, ProbeAfterUs, pairsPerHost: pairs, probeFloorUs: ProbeFloorUs);
        clean.Run(RunUs);
        lossy.Run(RunUs);

        double window = WindowBytes / 4112.0;
        double bound = clean.BytesPerUs / (1 + (lossPerMille / 1000.0 * window));
        Assert.True(clean.BytesPerUs > 6000, clean.ToString());
        Assert.True(lossy.BytesPerUs > 0.8 * bound, $"{lossy}; going back reaches {bound:F0}");
    }

    private static void RunWithPauses(World world, int pauseMilliseconds)
    {
        for (int i = 1; i <= 5; i++)
        {
            world.Run(i * 100_000 + 3001);
            world.Pause(pauseMilliseconds * 1000);
        }

        world.Run(700_000);
    }

    private sealed class World
    {
        private readonly TestNode _target = new("10.77.0.1", 1);
        private readonly List<TestNode> _hosts = [];
        private readonly List<List<QueuePair>> _pairs = []; // of each host, posted to in turn
        private readonly List<MemoryRegion> _local = [];
        private readonly MemoryRegion _remote;
        private readonly int[] _posted;
        private readonly long[] _completed;
        private readonly int[] _busyUntil;
        private readonly Queue<(int Host, byte[] Bytes, int SegmentBytes)> _socket = [];
        private readonly byte[] _buffer = GC.AllocateArray<byte>(65536, pinned: true);
        private readonly Random _random = new(7);
        private readonly int _lossPerMille;
        private readonly int _messageBytes;
        private readonly int _pairsPerHost;
        private int _nextPair;
        private int _socketBytes;
        private int _now;

        public World(
            int hosts,
            int lossPerMille,
            int probeAfterUs,
            ResponderDefences? defences = null,
            int pairsPerHost = 1,
            int? probeFloorUs = null,
            int messageBytes = MessageBytes)
        {
            _messageBytes = messageBytes;
            _lossPerMille = lossPerMille;
            _pairsPerHost = pairsPerHost;
            TestMemory target = _target.Allocate(messageBytes);
            _remote = _target.Register(target);
            for (int i = 0; i < hosts; i++)
            {
                TestNode host = new($"10.77.0.{i + 2}", (ulong)i + 2, o => o with
                {
                    ProbeAfter = probeAfterUs == 0 ? null : TimeSpan.FromMicroseconds(probeAfterUs),
                    ProbeFloor = probeFloorUs is { } us ? TimeSpan.FromMicroseconds(us) : null,
                    Defences = defences ?? ResponderDefences.All,
                });
                CompletionQueue completions = TestNode.CreateCompletionQueue(2 * Depth);
                List<QueuePair> pairs = [];
                for (int j = 0; j < pairsPerHost; j++)
                {
                    QueuePair a = host.CreatePair(completions, new() { MaxSendWr = Depth });
                    QueuePair b = _target.CreatePair(TestNode.CreateCompletionQueue());
                    Connect(a, _target.Gid, b.QpNumber, isSender: true);
                    Connect(b, host.Gid, a.QpNumber, isSender: false);
                    pairs.Add(a);
                }

                _hosts.Add(host);
                _pairs.Add(pairs);
                _local.Add(host.Register(host.Allocate(messageBytes)));
            }

            _posted = new int[hosts];
            _completed = new long[hosts];
            _busyUntil = new int[hosts + 1];
        }

        public int Dropped { get; private set; }

        public long Completed => _completed.Sum();

        public long Retransmits => _hosts.Sum(h => h.Port.Stats.Retransmits);

        public long Probes => _hosts.Sum(h => h.Port.Stats.Probes);

        public long Least => _completed.Min();

        public double BytesPerUs => (double)Completed * _messageBytes / _now;

        private TimeSpan Now => TimeSpan.FromSeconds(1) + TimeSpan.FromMicroseconds(_now);

        public override string ToString() =>
            $"{BytesPerUs:F0} bytes/us, {Dropped} super-packets dropped, "
            + $"{Retransmits} packets again, {_hosts.Sum(h => h.Port.Stats.Timeouts)} "
            + $"time-outs, {Probes} probes, least {Least} most {_completed.Max()}";

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

        /// <summary>The receiver does not run.</summary>
        public void Pause(int microseconds)
        {
            _busyUntil[_hosts.Count] = _now + microseconds;
            Run(_now + microseconds);
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
            List<QueuePair> pairs = _pairs[index];
            int done = TestNode.Poll(pairs[0].SendCompletionQueue).Count;
            _completed[index] += done;
            _posted[index] -= done;
            while (_posted[index] < Depth)
            {
                Assert.Equal(Errno.Success, pairs[_nextPair++ % _pairsPerHost].PostSend(
                    new SendWorkRequest
                    {
                        Opcode = WorkRequestOpcode.RdmaWrite,
                        Flags = SendFlags.Signaled,
                        RemoteAddress = _remote.Iova,
                        RKey = _remote.Key,
                    },
                    new Sge(_local[index].Iova, (uint)_messageBytes, _local[index].Key)));
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
