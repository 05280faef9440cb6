using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;
using MemoryWindow = Wayleave.Devices.Rdma.Verbs.MemoryWindow;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// The Middles of a WRITE or SEND are taken in runs. Whatever comes between them, nobody can tell that from one packet
/// after the other, which is how a port takes them that has to look for faults on purpose.
/// </summary>
public class RequestRunTests
{
    private const int Mtu = Conversation.Mtu;
    private const uint First = Conversation.First;

    private enum Interference
    {
        None,
        Revoke,
        Invalidate,
        DeallocateWindow,
    }

    [Theory]
    [InlineData(RegionRevocation.Concurrent, IcrcMode.OwnIdentification, 0, 0)]
    [InlineData(RegionRevocation.Concurrent, IcrcMode.OwnIdentification, 3, 0)]
    [InlineData(RegionRevocation.Quiesce, IcrcMode.OwnIdentification, 0, 0)]
    [InlineData(RegionRevocation.Concurrent, IcrcMode.SolveIdentification, 0, 0)]
    [InlineData(RegionRevocation.Concurrent, IcrcMode.OwnIdentification, 0, 100)]
    [InlineData(RegionRevocation.Concurrent, IcrcMode.OwnIdentification, 3, 60)]
    [InlineData(RegionRevocation.Quiesce, IcrcMode.OwnIdentification, 0, 100)]
    [InlineData(RegionRevocation.Concurrent, IcrcMode.SolveIdentification, 0, 100)]
    public void Nobody_can_tell_a_run_from_its_packets_one_by_one(
        RegionRevocation revocation, IcrcMode icrc, int firstsAhead, int sendPercent)
    {
        long taken = 0;
        HashSet<WorkCompletionStatus> ends = [];
        HashSet<string> answers = [];
        for (ulong seed = 1; seed <= (ulong)FuzzRounds.Of(150); seed++)
        {
            Stream stream = new(seed, sendPercent) { HasEarly = firstsAhead > 0 };
            Side inRuns = new(stream, revocation, icrc, firstsAhead, faults: null, isCached: seed % 3 == 0);
            Side oneByOne = new(stream, revocation, icrc, firstsAhead, new FaultOptions(), isCached: seed % 3 == 0);
            for (int i = 0; i < 12; i++)
            {
                (byte[] bytes, int segmentBytes, byte trafficClass) = stream.Next(inRuns.Expected);
                inRuns.Take(bytes, segmentBytes, trafficClass);
                oneByOne.Take(bytes, segmentBytes, trafficClass);
                string state = inRuns.Describe();
                Assert.True(
                    oneByOne.Describe() == state, $"seed {seed}, {i}: {oneByOne.Describe()}\nin runs: {state}");
                answers.UnionWith(inRuns.Answers);
                ends.UnionWith(inRuns.Ends);
            }

            Assert.True(inRuns.Bytes.AsSpan().SequenceEqual(oneByOne.Bytes), $"seed {seed}: memory differs");
            taken += inRuns.C.Node.Port.PacketsTakenInRuns;
            Assert.Equal(0, oneByOne.C.Node.Port.PacketsTakenInRuns);
        }

        Assert.True(taken > FuzzRounds.Of(1000), $"only {taken} packets came in runs");
        Assert.Superset(new HashSet<string> { "1f", "2c", "60", "61", sendPercent == 100 ? "63" : "62" }, answers);
        Assert.Superset(
            sendPercent == 0
                ? []
                : new HashSet<WorkCompletionStatus>
                {
                    WorkCompletionStatus.Success,
                    WorkCompletionStatus.LocalLengthError,
                    WorkCompletionStatus.LocalProtectionError,
                },
            ends);
    }

    [Fact]
    public void A_super_packet_of_Middles_is_one_run_and_each_looks_again()
    {
        Action? beforePacket = null;
        Conversation c = new(options: o => o with { CachedBytes = 0, WillWrite = _ => beforePacket?.Invoke() });
        IcrcFlow flow = new(c.PeerGid, c.Node.Gid, 4791, 4791);
        c.Send(new RawPacket(Opcode.RcWriteFirst, First)
        {
            Reth = new Reth(c.Region.Iova, c.Region.Key, 32 * Mtu),
            Payload = new byte[Mtu],
        });
        byte[] run =
            [.. Enumerable.Range(0, 20).SelectMany(i => Middle(c, First + 1 + (uint)i).Build(flow, (ushort)i))];
        int asked = 0;
        beforePacket = () =>
        {
            if (++asked == 7)
            {
                using (c.Node.Host.Enter())
                {
                    RevokeOperation.Start(c.Memory.Buffer, new RevokePolicy());
                }
            }
        };
        c.Node.Port.HandleDatagrams(c.PeerGid, 4791, run, run.Length / 20, 0, c.Now);

        // The seventh was being placed; the eighth was refused and the rest not looked at.
        Assert.Equal(8, c.Node.Port.PacketsTakenInRuns);
        Assert.Equal((8L * Mtu, First + 7), (c.Region.BytesPlaced, c.Region.LastPlacedPsn));
        Assert.Equal((First + 8, (long)Mtu), (c.Region.FirstRejectedPsn, c.Region.BytesRejected));
        Assert.Equal(21, c.Node.Port.Stats.PacketsReceived);
        c.Expect($"RC_ACKNOWLEDGE {First + 8:x6} 62 msn=0");
        c.ExpectState(QueuePairState.Error);
    }

    // Two pieces, whose border is inside the sixth packet: that one goes the long way, and a run on either side of it.
    [Fact]
    public void A_packet_of_a_SEND_that_goes_to_two_places_is_taken_alone()
    {
        Conversation c = new();
        Sge[] pieces =
        [
            new(c.Region.Iova, 5 * Mtu + 100, c.Region.Key), new(c.Region.Iova + 20 * Mtu, 7 * Mtu, c.Region.Key),
        ];
        Assert.Equal(Errno.Success, c.Pair.PostReceive(new ReceiveWorkRequest(1), pieces));
        byte[] sent = TestMemory.Pattern(11 * Mtu, seed: 5);
        byte[] Packet(int i) => sent[(i * Mtu)..((i + 1) * Mtu)];
        c.Send(new RawPacket(Opcode.RcSendFirst, First) { Payload = Packet(0) });
        c.SendMiddles(Opcode.RcSendMiddle, First + 1, [.. Enumerable.Range(1, 9).Select(Packet)]);
        Assert.Equal(8, c.Node.Port.PacketsTakenInRuns);
        c.Send(new RawPacket(Opcode.RcSendLast, First + 10) { Payload = Packet(10) });
        Assert.Equal(sent[..(5 * Mtu + 100)], c.Memory.Read(0, 5 * Mtu + 100));
        Assert.Equal(sent[(5 * Mtu + 100)..], c.Memory.Read(20 * Mtu, 6 * Mtu - 100));
        WorkCompletion completion = Assert.Single(TestNode.Poll(c.Completions));
        Assert.Equal((WorkCompletionStatus.Success, (uint)sent.Length), (completion.Status, completion.ByteLength));
    }

    private static RawPacket Middle(Conversation c, uint psn) => new(Opcode.RcWriteMiddle, psn)
    {
        DestQp = c.Pair.QpNumber,
        Payload = TestMemory.Pattern(Mtu, (byte)psn),
    };

    /// <summary>What a peer sends, and what happens to it and to the memory meanwhile.</summary>
    private sealed class Stream
    {
        private readonly SplitMix64 _random;
        private readonly int _sendPercent;

        public Stream(ulong seed, int sendPercent)
        {
            _random = new SplitMix64(seed);
            _sendPercent = sendPercent;
            Packets = new DisturbedStream(_random, oneIn: 160);
            Interference = (Interference)_random.Next(4);
            InterferesAt = 1 + _random.Next(60);
            UsesWindow = Interference == Interference.DeallocateWindow || _random.Next(4) == 0;
            for (int i = 0; i < 40 && sendPercent > 0; i++)
            {
                PlanReceive();
            }
        }

        public DisturbedStream Packets { get; }

        /// <summary>Where SENDs go; a key that nobody has is marked.</summary>
        public List<(ulong Offset, uint LengthBytes, bool IsBad)[]> Receives { get; } = [];

        public Interference Interference { get; }

        /// <summary>During the placing of which packet that has another behind it.</summary>
        public int InterferesAt { get; }

        public bool UsesWindow { get; }

        /// <summary>Now and then a First comes before its turn, or in the middle of a message.</summary>
        public bool HasEarly { get; init; }

        /// <summary>A key that WRITEs name, and where it begins; known once a side is made.</summary>
        public (uint Key, ulong Iova) Target { get; set; }

        public (byte[] Bytes, int SegmentBytes, byte TrafficClass) Next(uint expected)
        {
            if (_random.Next(10) < 7)
            {
                Packets.Next = (int)(expected - First);
            }

            while (Packets.Plan.Count < Packets.Next + 40)
            {
                PlanMessage();
            }

            return HasEarly && _random.Next(4) == 0 && Early() is { } early ? Packets.Alone(early) : Packets.Take();
        }

        private RawPacket? Early()
        {
            RawPacket? first = Packets.Plan.Skip(Packets.Next + 1).FirstOrDefault(p => p.Opcode == Opcode.RcWriteFirst);
            return first is not null && _random.Next(4) == 0
                ? first with { Psn = First + (uint)(Packets.Next + _random.Next(5)) }
                : first;
        }

        // One to three pieces, of which one may end inside a packet; now and then too short.
        private void PlanReceive()
        {
            int left = _random.Next(12) == 0 ? _random.Next(20 * Mtu) : 26 * Mtu + _random.Next(3);
            List<(ulong, uint, bool)> pieces = [];
            for (int more = _random.Next(3); more >= 0; more--)
            {
                int length = more == 0 ? left
                    : _random.Next(2) == 0 ? Math.Min(left, _random.Next(20) * Mtu)
                    : _random.Next(left + 1);
                pieces.Add(((ulong)(_random.Next(30) * Mtu + _random.Next(3)), (uint)length, _random.Next(90) == 0));
                left -= length;
            }

            Receives.Add([.. pieces]);
        }

        private void PlanMessage()
        {
            int count = 2 + _random.Next(24);
            int length = count * Mtu - (_random.Next(2) == 0 ? 0 : 1 + _random.Next(Mtu - 1));
            uint key = _random.Next(40) == 0 ? 0xBAD : Target.Key;
            uint announced = (uint)(_random.Next(60) == 0 ? length - Mtu : length);
            bool isSend = _random.Next(100) < _sendPercent;
            for (int i = 0; i < count; i++)
            {
                byte[] payload = new byte[Math.Min(Mtu, length - i * Mtu)];
                _random.Fill(payload);
                Packets.Plan.Add(new RawPacket(
                    OpcodeOf(isSend, isFirst: i == 0, isLast: i == count - 1), First + (uint)Packets.Plan.Count)
                {
                    AckRequest = i == count - 1 || _random.Next(30) == 0,
                    Reth = new Reth(Target.Iova + (ulong)(_random.Next(30) * Mtu + _random.Next(3)), key, announced),
                    Payload = payload,
                });
            }
        }

        private static Opcode OpcodeOf(bool isSend, bool isFirst, bool isLast) => (isSend, isFirst, isLast) switch
        {
            (true, true, _) => Opcode.RcSendFirst,
            (true, _, true) => Opcode.RcSendLast,
            (true, _, _) => Opcode.RcSendMiddle,
            (_, true, _) => Opcode.RcWriteFirst,
            (_, _, true) => Opcode.RcWriteLast,
            _ => Opcode.RcWriteMiddle,
        };
    }

    /// <summary>One receiver of the stream.</summary>
    private sealed class Side
    {
        private readonly byte[] _buffer = new byte[65536];
        private readonly Stream _stream;
        private readonly QueuePair _other;
        private readonly MemoryWindow _window;
        private readonly List<string> _events = [];
        private int _asked;

        public Side(
            Stream stream,
            RegionRevocation revocation,
            IcrcMode icrc,
            int firstsAhead,
            FaultOptions? faults,
            bool isCached)
        {
            _stream = stream;
            C = new Conversation(
                a => a with
                {
                    AddressVector = a.AddressVector with { Icrc = icrc },
                    Profile = PeerProfile.Default with { FirstsAhead = firstsAhead },
                },
                o => o with
                {
                    WillWrite = _ => Interfere(),
                    CachedBytes = isCached ? o.CachedBytes : 0,
                    Revocation = revocation,
                    Faults = faults,
                    Congestion = new CongestionOptions(),
                },
                access: AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.WindowBind,
                registration: RegistrationKind.OwnMemory);
            _other = C.Node.CreatePair(C.Completions);
            new Connection
            {
                Attributes = new Connection().Attributes with
                {
                    AddressVector = new AddressVector(C.PeerGid) { Icrc = icrc },
                    DestQpNumber = 0x77,
                    RqPsn = First,
                    SqPsn = Conversation.OwnFirst,
                },
            }.Apply(_other);
            _window = C.Node.AllocateWindow(MemoryWindowType.Type1);
            WindowBind whole = new(
                C.Region.Key, C.Region.Iova, Conversation.MemoryBytes, AccessFlags.RemoteWrite);
            Assert.Equal(Errno.Success, C.Pair.PostBind(_window, whole, 7));
            Drain();
            stream.Packets.Names = (C.Pair.QpNumber, _other.QpNumber);
            stream.Target = (stream.UsesWindow ? _window.Key : C.Region.Key, C.Region.Iova);
            foreach ((ulong Offset, uint LengthBytes, bool IsBad)[] pieces in stream.Receives)
            {
                Sge[] sges = [.. pieces.Select(p =>
                    new Sge(C.Region.Iova + p.Offset, p.LengthBytes, p.IsBad ? 0xBAD : C.Region.Key))];
                Assert.Equal(Errno.Success, C.Pair.PostReceive(new ReceiveWorkRequest(sges[0].Address), sges));
            }
        }

        public Conversation C { get; }

        public uint Expected => C.Pair.ResponderProgress.ExpectedPsn;

        public byte[] Bytes => C.Memory.Read(0, Conversation.MemoryBytes);

        /// <summary>What receives have ended with so far.</summary>
        public HashSet<WorkCompletionStatus> Ends { get; } = [];

        /// <summary>Syndromes so far.</summary>
        public HashSet<string> Answers { get; } = [];

        public void Take(byte[] bytes, int segmentBytes, byte trafficClass)
        {
            C.Node.Port.HandleDatagrams(C.PeerGid, 4791, bytes, segmentBytes, trafficClass, C.Now);
            _events.Add($"urgency {C.Node.Port.Urgency}");
            Drain();
            while (C.Node.Port.PollFault(out MemoryRegion? region))
            {
                _events.Add($"mapped again: {C.Node.Remap(region).Kind}");
            }
        }

        public string Describe()
        {
            _events.AddRange(C.Node.PollEvents().Select(e => e.ToString()));
            foreach (WorkCompletion completion in TestNode.Poll(C.Completions))
            {
                _events.Add(completion.ToString());
                Ends.Add(completion.Status);
            }

            _events.AddRange(C.Node.Trace.Events.Select(e => e.ToString()));
            C.Node.Trace.Events.Clear();
            RdmaStats stats = C.Node.Port.Stats;
            PortCounters counters = C.Node.Port.Links[0].Counters;
            IEnumerable<string> lines =
            [
                string.Join(';', _events),
                string.Join(' ', typeof(RdmaStats).GetProperties().Select(p => $"{p.Name}={p.GetValue(stats)}")),
                string.Join(' ', typeof(PortCounters).GetProperties().Select(p => $"{p.Name}={p.GetValue(counters)}")),
                string.Join(' ', Enum.GetValues<DropReason>().Select(r => $"{r}={stats.Drops(r)}")),
                string.Join(' ', C.Node.Port.GetPeers()),
                string.Join(' ', Enum.GetValues<PeerRoute>().Select(C.Node.Port.Dma.BytesWritten)),
                $"{C.Pair.State} {C.Pair.ResponderProgress} {_other.State} {_other.ResponderProgress}",
                $"{C.Region.State} {C.Region.BytesPlaced} {C.Region.LastPlacedPsn:x} {C.Region.BytesRejected} "
                    + $"{C.Region.FirstRejectedPsn:x} {_window.IsBound}",
            ];
            return string.Join('\n', lines);
        }

        // In the middle of a packet, as another thread would.
        private void Interfere()
        {
            if (++_asked != _stream.InterferesAt)
            {
                return;
            }

            switch (_stream.Interference)
            {
                case Interference.Revoke:
                    using (C.Node.Host.Enter())
                    {
                        RevokeOperation.Start(C.Memory.Buffer, new RevokePolicy());
                    }

                    break;
                case Interference.Invalidate:
                    C.Memory.Invalidate();
                    break;
                case Interference.DeallocateWindow:
                    C.Node.Device.DeallocateWindow(_window);
                    break;
                default:
                    break;
            }
        }

        private void Drain()
        {
            while (C.Node.Port.PollTransmit(C.Now, _buffer, out Transmit transmit))
            {
                for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
                {
                    Span<byte> packet = _buffer.AsSpan(
                        at, Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at));
                    _events.Add(Convert.ToHexString(packet));
                    Assert.Equal(DropReason.None, PacketView.TryParse(packet, out PacketView view));
                    if (view.Opcode == Opcode.RcAcknowledge)
                    {
                        Answers.Add($"{view.Aeth.Syndrome:x2}");
                    }
                }
            }
        }
    }
}
