using Wayleave.Core.Retirement;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// The Middles of what answers a READ are taken in runs, by the code that takes those of a WRITE or SEND
/// (<see cref="RequestRunTests"/>). Whatever comes between them, and however late, nobody can tell that from one packet
/// after the other, which is how a port takes them that has to look for faults on purpose.
/// </summary>
public class ReadRunTests
{
    private const int Mtu = Conversation.Mtu;
    private const uint First = Conversation.OwnFirst;
    private const int PiecePackets = 16;

    private enum Interference
    {
        None,
        Revoke,
        Invalidate,
    }

    [Theory]
    [InlineData(RegionRevocation.Concurrent, IcrcMode.OwnIdentification, 0)]
    [InlineData(RegionRevocation.Concurrent, IcrcMode.OwnIdentification, 3)]
    [InlineData(RegionRevocation.Quiesce, IcrcMode.OwnIdentification, 3)]
    [InlineData(RegionRevocation.Concurrent, IcrcMode.SolveIdentification, 0)]
    public void Nobody_can_tell_a_run_from_its_packets_one_by_one(
        RegionRevocation revocation, IcrcMode icrc, int firstsAhead)
    {
        long taken = 0, probes = 0, ahead = 0;
        HashSet<WorkCompletionStatus> ends = [];
        for (ulong seed = 1; seed <= (ulong)FuzzRounds.Of(150); seed++)
        {
            Stream stream = new(seed) { HasEarly = firstsAhead > 0 };
            Side inRuns = new(stream, revocation, icrc, firstsAhead, faults: null, isCached: seed % 3 == 0);
            Side oneByOne = new(stream, revocation, icrc, firstsAhead, new FaultOptions(), isCached: seed % 3 == 0);
            for (int i = 0; i < 24; i++)
            {
                (byte[] bytes, int segmentBytes, byte trafficClass, TimeSpan wait) = stream.Next(inRuns.Expected);
                inRuns.Take(bytes, segmentBytes, trafficClass, wait);
                oneByOne.Take(bytes, segmentBytes, trafficClass, wait);
                string state = inRuns.Describe();
                Assert.True(
                    oneByOne.Describe() == state, $"seed {seed}, {i}: {oneByOne.Describe()}\nin runs: {state}");
            }

            Assert.True(inRuns.Bytes.AsSpan().SequenceEqual(oneByOne.Bytes), $"seed {seed}: memory differs");
            taken += inRuns.C.Node.Port.PacketsTakenInRuns;
            probes += inRuns.C.Node.Port.Stats.Probes;
            ahead += stream.Ahead;
            ends.UnionWith(inRuns.Ends);
            Assert.Equal(0, oneByOne.C.Node.Port.PacketsTakenInRuns);
        }

        Assert.True(taken > FuzzRounds.Of(1000), $"only {taken} packets came in runs");
        Assert.True(probes > 0 && ahead > 0 == firstsAhead > 0, $"{probes} probes, {ahead} ahead");
        Assert.Superset(
            new HashSet<WorkCompletionStatus>
            {
                WorkCompletionStatus.Success,
                WorkCompletionStatus.BadResponse,
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
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 32 * Mtu);
        c.Expect($"RC_READ_REQUEST {First:x6} A");
        c.Send(Answer(Opcode.RcReadResponseFirst, First));
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
        c.SendMiddles(
            Opcode.RcReadResponseMiddle,
            First + 1,
            [.. Enumerable.Range(0, 20).Select(_ => TestMemory.Pattern(Mtu, 9))]);

        // The seventh was being placed; the eighth was refused and the rest not looked at.
        Assert.Equal(8, c.Node.Port.PacketsTakenInRuns);
        Assert.Equal(TestMemory.Pattern(Mtu, 9), c.Memory.Read(7 * Mtu, Mtu));
        Assert.Equal(new byte[24 * Mtu], c.Memory.Read(8 * Mtu, 24 * Mtu));
        Assert.Equal(21, c.Node.Port.Stats.PacketsReceived);
        c.ExpectCompletion(1, WorkCompletionStatus.LocalProtectionError);
        c.ExpectState(QueuePairState.Error);
    }

    // What ends a message is asked of nobody: the last packet of a piece, the next piece, a Middle that was not asked.
    [Fact]
    public void A_run_ends_before_the_last_packet_of_a_piece()
    {
        Conversation c = new(options: o => o with { ReadRequestBytes = 4 * Mtu });
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 8 * Mtu);
        c.Expect($"RC_READ_REQUEST {First:x6} A");
        c.Send(Answer(Opcode.RcReadResponseFirst, First));
        c.SendMiddles(Opcode.RcReadResponseMiddle, First + 1, [.. Enumerable.Range(0, 5).Select(_ => new byte[Mtu])]);
        Assert.Equal(2, c.Node.Port.PacketsTakenInRuns);
        c.ExpectCompletion(1, WorkCompletionStatus.BadResponse);
    }

    private static RawPacket Answer(Opcode opcode, uint psn) => new(opcode, psn) { Payload = new byte[Mtu] };

    /// <summary>What a peer answers, and what happens to it and to the memory meanwhile.</summary>
    private sealed class Stream
    {
        private readonly SplitMix64 _random;

        public Stream(ulong seed)
        {
            _random = new SplitMix64(seed);
            Packets = new DisturbedStream(_random, oneIn: 300);
            Interference = (Interference)_random.Next(3);
            InterferesAt = 1 + _random.Next(120);
            for (int i = 0; i < 24; i++)
            {
                int count = 2 + _random.Next(24);
                int length = count * Mtu - (_random.Next(2) == 0 ? 0 : 1 + _random.Next(Mtu - 1));
                Reads.Add(((ulong)(_random.Next(30) * Mtu + _random.Next(3)), (uint)length));
                PlanAnswer(count, length);
            }
        }

        public DisturbedStream Packets { get; }

        /// <summary>Where they go, and how long they are.</summary>
        public List<(ulong Offset, uint LengthBytes)> Reads { get; } = [];

        public Interference Interference { get; }

        /// <summary>During the placing of which packet that has another behind it.</summary>
        public int InterferesAt { get; }

        /// <summary>Now and then a First or Last comes before its turn.</summary>
        public bool HasEarly { get; init; }

        /// <summary>How many did.</summary>
        public int Ahead { get; private set; }

        public (byte[] Bytes, int SegmentBytes, byte TrafficClass, TimeSpan Wait) Next(uint expected)
        {
            if (_random.Next(10) < 8)
            {
                Packets.Next = Math.Min((int)(expected - First), Packets.Plan.Count - 30);
            }

            TimeSpan wait = _random.Next(6) switch
            {
                0 => TimeSpan.FromMicroseconds(_random.Next(1500)),
                1 => TimeSpan.FromMilliseconds(_random.Next(30)),
                _ => TimeSpan.Zero,
            };
            (byte[] bytes, int segmentBytes, byte trafficClass) =
                HasEarly && _random.Next(3) == 0 ? Packets.Alone(Early()) : Packets.Take();
            return (bytes, segmentBytes, trafficClass, wait);
        }

        private RawPacket Early()
        {
            Ahead++;
            RawPacket end = Packets.Plan.Skip(Packets.Next + 1).First(p => p.Opcode != Opcode.RcReadResponseMiddle);
            return _random.Next(8) == 0 ? end with { Psn = First + (uint)(Packets.Next + _random.Next(5)) } : end;
        }

        private void PlanAnswer(int count, int length)
        {
            for (int i = 0; i < count; i++)
            {
                byte[] payload = new byte[Math.Min(Mtu, length - i * Mtu)];
                _random.Fill(payload);
                bool starts = i % PiecePackets == 0, ends = i == count - 1 || i % PiecePackets == PiecePackets - 1;
                Opcode opcode = (starts, ends) switch
                {
                    (true, true) => Opcode.RcReadResponseOnly,
                    (true, false) => Opcode.RcReadResponseFirst,
                    (false, true) => Opcode.RcReadResponseLast,
                    _ => Opcode.RcReadResponseMiddle,
                };
                Packets.Plan.Add(new RawPacket(opcode, First + (uint)Packets.Plan.Count) { Payload = payload });
            }
        }
    }

    /// <summary>One requester.</summary>
    private sealed class Side
    {
        private readonly byte[] _buffer = new byte[65536];
        private readonly Stream _stream;
        private readonly QueuePair _other;
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
                    MaxRdAtomic = 4,
                },
                o => o with
                {
                    WillWrite = _ => Interfere(),
                    CachedBytes = isCached ? o.CachedBytes : 0,
                    ReadRequestBytes = PiecePackets * Mtu,
                    ReadWindowBytes = 48 << 10,
                    ProbeAfter = TimeSpan.FromMilliseconds(1),
                    ProbeFloor = TimeSpan.FromMicroseconds(100),
                    Revocation = revocation,
                    Faults = faults,
                    Congestion = new CongestionOptions(),
                });
            _other = C.Node.CreatePair(C.Completions);
            new Connection
            {
                Attributes = new Connection().Attributes with
                {
                    AddressVector = new AddressVector(C.PeerGid) { Icrc = icrc },
                    DestQpNumber = 0x77,
                    RqPsn = Conversation.First,
                    SqPsn = First,
                },
            }.Apply(_other);
            stream.Packets.Names = (C.Pair.QpNumber, _other.QpNumber);
            foreach ((ulong offset, uint length) in stream.Reads)
            {
                C.Post(offset, WorkRequestOpcode.RdmaRead, offset, length);
            }

            Drain();
        }

        public Conversation C { get; }

        public uint Expected => C.Pair.OldestUnansweredPsn;

        public byte[] Bytes => C.Memory.Read(0, Conversation.MemoryBytes);

        /// <summary>What READs have ended with so far.</summary>
        public HashSet<WorkCompletionStatus> Ends { get; } = [];

        public void Take(byte[] bytes, int segmentBytes, byte trafficClass, TimeSpan wait)
        {
            if (wait > TimeSpan.Zero)
            {
                C.Wait(wait);
                Drain();
            }

            C.Node.Port.HandleDatagrams(C.PeerGid, 4791, bytes, segmentBytes, trafficClass, C.Now);
            _events.Add($"urgency {C.Node.Port.Urgency}");
            Drain();
            while (C.Node.Port.PollFault(out MemoryRegion? region))
            {
                _events.Add($"mapped again: {C.Node.Remap(region).Kind}");
            }

            Drain();
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
                string.Join(' ', Enum.GetValues<Core.Topology.PeerRoute>().Select(C.Node.Port.Dma.BytesWritten)),
                $"{C.Pair.State} {Expected:x} {C.Pair.UncompletedSends} {_other.State} {C.Region.State}",
                $"{C.Node.Port.NextDeadline} {(C.Pair.HasPeer ? C.Pair.Peer.ReadWindow.InFlightBytes : -1)}",
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
                default:
                    break;
            }
        }

        private void Drain()
        {
            while (C.Node.Port.PollTransmit(C.Now, _buffer, out Transmit transmit))
            {
                _events.Add(Convert.ToHexString(_buffer.AsSpan(0, transmit.LengthBytes)));
            }
        }
    }
}
