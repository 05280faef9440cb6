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
/// The Middles of a WRITE are taken in runs. Whatever comes between them, nobody can tell that from one packet after
/// the other, which is how a port takes them that has to look for faults on purpose.
/// </summary>
public class WriteRunTests
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
    [InlineData(RegionRevocation.Concurrent, IcrcMode.OwnIdentification, 0)]
    [InlineData(RegionRevocation.Concurrent, IcrcMode.OwnIdentification, 3)]
    [InlineData(RegionRevocation.Quiesce, IcrcMode.OwnIdentification, 0)]
    [InlineData(RegionRevocation.Concurrent, IcrcMode.SolveIdentification, 0)]
    public void Nobody_can_tell_a_run_from_its_packets_one_by_one(
        RegionRevocation revocation, IcrcMode icrc, int firstsAhead)
    {
        long taken = 0;
        HashSet<string> answers = [];
        for (ulong seed = 1; seed <= (ulong)FuzzRounds.Of(150); seed++)
        {
            Stream stream = new(seed) { HasEarly = firstsAhead > 0 };
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
            }

            Assert.True(inRuns.Bytes.AsSpan().SequenceEqual(oneByOne.Bytes), $"seed {seed}: memory differs");
            taken += inRuns.C.Node.Port.PacketsTakenInRuns;
            Assert.Equal(0, oneByOne.C.Node.Port.PacketsTakenInRuns);
        }

        Assert.True(taken > FuzzRounds.Of(1000), $"only {taken} packets came in runs");
        Assert.Superset(new HashSet<string> { "1f", "2c", "60", "61", "62" }, answers);
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

    private static RawPacket Middle(Conversation c, uint psn) => new(Opcode.RcWriteMiddle, psn)
    {
        DestQp = c.Pair.QpNumber,
        Payload = TestMemory.Pattern(Mtu, (byte)psn),
    };

    /// <summary>What a peer sends, and what happens to it and to the memory meanwhile.</summary>
    private sealed class Stream
    {
        private readonly SplitMix64 _random;
        private readonly List<RawPacket> _plan = [];
        private readonly IcrcFlow _flow;
        private int _next;

        public Stream(ulong seed)
        {
            _random = new SplitMix64(seed);
            Conversation like = new(); // numbers and keys follow from its seed
            _flow = new IcrcFlow(like.PeerGid, like.Node.Gid, 4791, 4791);
            Interference = (Interference)_random.Next(4);
            InterferesAt = 1 + _random.Next(60);
            UsesWindow = Interference == Interference.DeallocateWindow || _random.Next(4) == 0;
        }

        public Interference Interference { get; }

        /// <summary>During the placing of which packet that has another behind it.</summary>
        public int InterferesAt { get; }

        public bool UsesWindow { get; }

        /// <summary>Now and then a First comes before its turn, or in the middle of a message.</summary>
        public bool HasEarly { get; init; }

        /// <summary>Numbers of the first and of another queue pair, and a key; known once a side is made.</summary>
        public (uint Qp, uint Other, uint Key, ulong Iova) Names { get; set; }

        public (byte[] Bytes, int SegmentBytes, byte TrafficClass) Next(uint expected)
        {
            if (_random.Next(10) < 7)
            {
                _next = (int)(expected - First);
            }

            while (_plan.Count < _next + 40)
            {
                PlanMessage();
            }

            if (HasEarly && _random.Next(4) == 0)
            {
                RawPacket first = _plan.Skip(_next + 1).First(p => p.Opcode == Opcode.RcWriteFirst);
                first = _random.Next(4) == 0 ? first with { Psn = First + (uint)(_next + _random.Next(5)) } : first;
                byte[] early = first.Build(_flow);
                return (early, early.Length, 0);
            }

            List<byte[]> packets = [];
            for (int left = 1 + _random.Next(16); left > 0; left--)
            {
                RawPacket packet = _plan[_next++];
                int change = _random.Next(160);
                packet = change switch
                {
                    0 => packet with { AckRequest = true },
                    1 => packet with { PKey = 0x7FFF }, // of the same partition
                    2 => packet with { PKey = 0x1234 },
                    3 => packet with { DestQp = Names.Other },
                    4 => packet with { DestQp = 0x5555 },
                    5 => packet with { Solicited = true },
                    6 => packet with { BackwardCongestion = true },
                    7 => packet with { Version = 1 },
                    8 => packet with { Payload = packet.Payload[..^4] },
                    9 => packet with { Pad = 2 },
                    10 => packet with { Opcode = Opcode.RcSendMiddle },
                    11 => packet with { Opcode = Opcode.RcWriteLast },
                    12 => packet with { Opcode = Opcode.UcWriteMiddle },
                    13 => packet with { Payload = [.. packet.Payload, .. new byte[4]] },
                    _ => packet,
                };
                byte[] bytes = packet.Build(_flow, (ushort)(change == 14 ? 5 + packets.Count : packets.Count));
                if (change == 15)
                {
                    bytes[_random.Next(bytes.Length)] ^= (byte)(1 << _random.Next(8));
                }

                if (packets.Count > 0 && bytes.Length > packets[0].Length)
                {
                    _next--;
                    break;
                }

                packets.Add(bytes);
                if (bytes.Length < packets[0].Length)
                {
                    break;
                }

                _next += change switch
                {
                    16 => 1, // one is lost
                    17 => -1, // or comes twice
                    _ => 0,
                };
                _next = Math.Max(_next, 0);
            }

            if (packets.Count > 2 && _random.Next(25) == 0)
            {
                (packets[0], packets[1]) = (packets[1], packets[0]);
            }

            byte trafficClass = (byte)(_random.Next(20) == 0 ? 3 : 0);
            return ([.. packets.SelectMany(p => p)], packets[0].Length, trafficClass);
        }

        private void PlanMessage()
        {
            int count = 2 + _random.Next(24);
            int length = count * Mtu - (_random.Next(2) == 0 ? 0 : 1 + _random.Next(Mtu - 1));
            uint key = _random.Next(40) == 0 ? 0xBAD : Names.Key;
            uint announced = (uint)(_random.Next(60) == 0 ? length - Mtu : length);
            for (int i = 0; i < count; i++)
            {
                byte[] payload = new byte[Math.Min(Mtu, length - i * Mtu)];
                _random.Fill(payload);
                Opcode opcode = i == 0 ? Opcode.RcWriteFirst
                    : i == count - 1 ? Opcode.RcWriteLast
                    : Opcode.RcWriteMiddle;
                _plan.Add(new RawPacket(opcode, First + (uint)_plan.Count)
                {
                    DestQp = Names.Qp,
                    AckRequest = i == count - 1 || _random.Next(30) == 0,
                    Reth = new Reth(Names.Iova + (ulong)(_random.Next(30) * Mtu + _random.Next(3)), key, announced),
                    Payload = payload,
                });
            }
        }
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
            stream.Names = (
                C.Pair.QpNumber, _other.QpNumber, stream.UsesWindow ? _window.Key : C.Region.Key, C.Region.Iova);
        }

        public Conversation C { get; }

        public uint Expected => C.Pair.ResponderProgress.ExpectedPsn;

        public byte[] Bytes => C.Memory.Read(0, Conversation.MemoryBytes);

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
            _events.AddRange(TestNode.Poll(C.Completions).Select(e => e.ToString()));
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
