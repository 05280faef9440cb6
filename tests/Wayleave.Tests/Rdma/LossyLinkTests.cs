using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// F-05: two ports over a link that loses, duplicates, reorders and damages, while the memory of both moves underneath.
/// What every work request did is written down in a model first; at the end the memory equals the model and every
/// request has completed once, in order.
/// </summary>
public class LossyLinkTests
{
    private const int AreaBytes = 1 << 15;
    private const int Pairs = 4;
    private const byte Congested = 3; // CE, RFC 3168

    [Theory]
    [InlineData(0, 0, 0, 0, 10)]
    [InlineData(10, 50, 50, 10, 25)] // ROCE-76 with damage
    [InlineData(100, 0, 0, 0, 15)]
    [InlineData(0, 200, 200, 0, 15)]
    [InlineData(30, 30, 30, 30, 25)]
    public void F_05_Memory_equals_the_model_and_every_request_completes_once(
        int loss, int duplication, int reordering, int corruption, int runs)
    {
        long retransmits = 0, faults = 0, placed = 0, ahead = 0, answered = 0;
        for (int run = 0; run < FuzzRounds.Of(runs); run++)
        {
            ulong seed = (ulong)(run + 1) * 1000003 + (ulong)loss;
            SimulatedLinkOptions options = new()
            {
                LossPerMille = loss,
                DuplicationPerMille = duplication,
                ReorderingPerMille = reordering,
                CorruptionPerMille = corruption,
                Delay = TimeSpan.FromMicroseconds(20),
                Jitter = TimeSpan.FromMicroseconds(5),
            };
            Run played = new(Choices.Seeded(seed), options, ipv6: run % 2 == 1, ResponderDefences.All);
            string outcome = played.Play(work: 40);
            Assert.True(outcome.Length == 0, $"seed {seed}: {outcome}");
            retransmits += played.A.Port.Stats.Retransmits;
            faults += played.A.Port.Stats.Faults + played.B.Port.Stats.Faults;
            placed += played.B.Port.Stats.BytesPlaced;
            ahead += played.A.Port.Stats.SentAhead;
            answered += played.B.Port.Stats.ResponsesSentAhead;
        }

        // The runs were not idle: memory moved under them, and what was lost was sent again.
        Assert.True(
            faults > runs && retransmits > runs && placed > runs * 10_000 && ahead > runs && answered > runs,
            $"{faults} faults, {retransmits} retransmits, {placed} bytes, {ahead} and {answered} sent ahead");
    }

    // Rates so low that every queue pair is held back most of the time: a super-packet of it takes a few milliseconds.
    [Theory]
    [InlineData(0, 10)]
    [InlineData(30, 30)]
    [InlineData(100, 20)]
    public void F_05_Everything_completes_where_congestion_is_controlled(int loss, int runs)
    {
        long probes = 0, notified = 0;
        for (int run = 0; run < FuzzRounds.Of(runs); run++)
        {
            ulong seed = (ulong)(run + 1) * 1000003 + (ulong)loss;
            SimulatedLinkOptions options = new()
            {
                LossPerMille = loss,
                ReorderingPerMille = loss,
                Delay = TimeSpan.FromMicroseconds(20),
                Jitter = TimeSpan.FromMicroseconds(5),
            };
            CongestionOptions congestion = new() { LineRate = 1e8, MinimumRate = 1e6 };
            Run played = new(Choices.Seeded(seed), options, ipv6: true, ResponderDefences.All, congestion);
            string outcome = played.Play(work: 40);
            Assert.True(outcome.Length == 0, $"seed {seed}: {outcome}");
            probes += played.A.Port.Stats.Probes;
            notified += played.A.Port.Stats.NotificationsReceived;
        }

        Assert.True((probes > runs || loss == 0) && notified > runs, $"{probes} probes, {notified} notifications");
    }

    [Fact]
    public void F_05_is_caught_when_duplicates_are_placed_again()
    {
        // Small WRITEs over each other, and copies of packets that come late.
        SimulatedLinkOptions options = new()
        {
            DuplicationPerMille = 300,
            ReorderingPerMille = 300,
            Delay = TimeSpan.FromMicroseconds(20),
        };
        string Play(int seed, ResponderDefences defences) =>
            new Run(Choices.Seeded((ulong)seed), options, ipv6: false, defences) { IsCrowded = true }.Play(work: 40);

        int[] seeds = [.. Enumerable.Range(1, 10)];
        Assert.All(seeds, seed => Assert.Equal(string.Empty, Play(seed, ResponderDefences.All)));
        ResponderDefences broken = new() { RefusesDuplicates = false };
        Assert.Contains(seeds, seed => Play(seed, broken) == "the target differs from the model");
    }

    private sealed class Run
    {
        private readonly TestNode _a;
        private readonly TestNode _b;
        private readonly Choices _choices;
        private readonly SimulatedLink<Gid> _link;
        private readonly byte[] _buffer = new byte[65536];
        private readonly TestMemory _source;
        private readonly TestMemory _target;
        private readonly TestMemory _inbox;
        private readonly TestMemory _library;
        private readonly MemoryRegion _sourceRegion;
        private readonly MemoryRegion _targetRegion;
        private readonly MemoryRegion _inboxRegion;
        private readonly MemoryRegion _libraryRegion;
        private readonly byte[] _sourceModel;
        private readonly byte[] _libraryModel = new byte[AreaBytes];
        private readonly byte[] _targetModel = new byte[Pairs * AreaBytes];
        private readonly byte[] _inboxModel = new byte[Pairs * AreaBytes];
        private readonly QueuePair[] _pairs = new QueuePair[Pairs];
        private readonly QueuePair[] _peers = new QueuePair[Pairs];
        private readonly ulong[] _completed = new ulong[Pairs];
        private readonly ulong[] _posted = new ulong[Pairs];
        private readonly ulong[] _received = new ulong[Pairs];
        private readonly ulong[] _receives = new ulong[Pairs];
        private readonly int[] _inboxAt = new int[Pairs];
        private readonly int[] _readAt = new int[Pairs];
        private readonly bool _marks;
        private TimeSpan _now = TimeSpan.FromSeconds(1);

        public Run(
            Choices choices,
            SimulatedLinkOptions options,
            bool ipv6,
            ResponderDefences defences,
            CongestionOptions? congestion = null)
        {
            _marks = congestion is not null;
            _choices = choices;
            _link = new SimulatedLink<Gid>(choices, options);

            // Small windows and pieces, so that closing and opening is the usual case.
            RdmaDeviceOptions Small(RdmaDeviceOptions o) => o with
            {
                WindowBytes = 24 * 1024,
                ReadRequestBytes = 4096,
                SuperPacketSegments = 8,
                ProbeAfter = ipv6 ? TimeSpan.FromMicroseconds(300) : null,
                ProbeFloor = TimeSpan.FromMicroseconds(50),
                Defences = defences,
                Congestion = congestion,
            };
            _a = new TestNode(ipv6 ? "fd77::1" : "10.77.0.1", 1, Small);
            _b = new TestNode(ipv6 ? "fd77::2" : "10.77.0.2", 2, Small);
            _source = _a.Allocate(2 * Pairs * AreaBytes, pieces: 2);
            _target = _b.Allocate(Pairs * AreaBytes);
            _inbox = _b.Allocate(Pairs * AreaBytes);
            _library = _b.Allocate(AreaBytes, pieces: 4);
            SplitMix64 random = new((ulong)choices.Next(1 << 30));
            _sourceModel = new byte[2 * Pairs * AreaBytes];
            random.Fill(_sourceModel.AsSpan(0, Pairs * AreaBytes));
            _source.Fill(0, _sourceModel);
            random.Fill(_libraryModel);
            _library.Fill(0, _libraryModel);
            _sourceRegion = _a.Register(_source);
            _targetRegion = _b.Register(_target);
            _inboxRegion = _b.Register(_inbox, AccessFlags.LocalWrite);
            _libraryRegion = _b.Register(_library, AccessFlags.RemoteRead);
            for (int i = 0; i < Pairs; i++)
            {
                Connect(i, ipv6 ? IcrcMode.Full : IcrcMode.OwnIdentification);
            }
        }

        /// <summary>Only WRITEs, all to the same few places.</summary>
        public bool IsCrowded { get; init; }

        public TestNode A => _a;

        public TestNode B => _b;

        /// <returns>Empty, or what went wrong.</returns>
        public string Play(int work)
        {
            for (int step = 0; step < work * 12; step++)
            {
                Act(_choices.Next(20), work);
                string problem = CheckCompletions();
                if (problem.Length > 0)
                {
                    return problem;
                }
            }

            _link.Heal();
            for (int step = 0; step < 20_000 && !IsDone; step++)
            {
                Act(19, work);
                string problem = CheckCompletions();
                if (problem.Length > 0)
                {
                    return problem;
                }
            }

            return !IsDone
                ? $"not done long after the last fault: {string.Join(',', _completed)} of {string.Join(',', _posted)}"
                : !_target.Read(0, _targetModel.Length).AsSpan().SequenceEqual(_targetModel)
                    ? "the target differs from the model"
                : !_source.Read(0, _sourceModel.Length).AsSpan().SequenceEqual(_sourceModel)
                    ? "what was read differs from the model"
                : !_inbox.Read(0, _inboxModel.Length).AsSpan().SequenceEqual(_inboxModel)
                    ? "what was received differs from the model"
                : string.Empty;
        }

        private bool IsDone => _completed.SequenceEqual(_posted) && _received.SequenceEqual(_receives);

        private void Act(int choice, int work)
        {
            switch (choice)
            {
                case < 4:
                    int pair = _choices.Next(Pairs);
                    if (_posted[pair] < (ulong)work)
                    {
                        Post(pair);
                    }

                    break;
                case 4:
                    _target.Move();
                    break;
                case 5:
                    _source.Move();
                    break;
                case 6:
                    _inbox.Move();
                    _library.Move();
                    break;
                case < 10:
                    Transmit(_a, _b);
                    break;
                case < 13:
                    Transmit(_b, _a);
                    break;
                case 13:
                    _a.ServeFaults();
                    break;
                case 14:
                    _b.ServeFaults();
                    break;
                default:
                    _a.ServeFaults();
                    _b.ServeFaults();
                    Transmit(_a, _b);
                    Transmit(_b, _a);
                    Advance();
                    break;
            }
        }

        private void Connect(int i, IcrcMode icrc)
        {
            _pairs[i] = _a.CreatePair();
            _peers[i] = _b.CreatePair();
            QueuePairAttributes common = new Connection().Attributes with
            {
                PathMtu = (PathMtu)(1 + _choices.Next(3)),
                MaxRdAtomic = 2,
                MaxDestRdAtomic = 2,
                Timeout = 8, // 1 ms; the floor is lifted below, so that a run is short

                // Heavy loss may use up seven retries honestly; what is tested here is what happens on the way.
                Profile = new PeerProfile
                {
                    RetrySevenIsForever = true,
                    RetransmitFloor = TimeSpan.FromMilliseconds(1),
                    FirstsAhead = _choices.Next(3) * 3,
                },
            };
            uint psn = _choices.Next(2) == 0 ? 0xFFFFF0u : 0x100;
            new Connection
            {
                Attributes = common with
                {
                    AddressVector = new AddressVector(_b.Gid, Icrc: icrc, KeepsSuperPackets: _b.Gid.IsIPv4),
                    DestQpNumber = _peers[i].QpNumber,
                    SqPsn = psn,
                },
            }.Apply(_pairs[i]);
            new Connection
            {
                Attributes = common with
                {
                    AddressVector = new AddressVector(_a.Gid, Icrc: icrc, KeepsSuperPackets: _b.Gid.IsIPv4),
                    DestQpNumber = _pairs[i].QpNumber,
                    SqPsn = common.RqPsn,
                    RqPsn = psn,
                },
            }.Apply(_peers[i]);
        }

        private void Post(int i)
        {
            int length = IsCrowded ? 64 : _choices.Next(3) == 0 ? _choices.Next(12) : _choices.Next(5000);
            int from = _choices.Next(AreaBytes - length) + i * AreaBytes;
            int to = (IsCrowded ? 32 * _choices.Next(4) : _choices.Next(AreaBytes - length)) + i * AreaBytes;
            WorkRequestOpcode opcode = IsCrowded ? WorkRequestOpcode.RdmaWrite : (WorkRequestOpcode)_choices.Next(5);
            SendWorkRequest request = new()
            {
                WrId = _posted[i],
                Opcode = opcode,
                Flags = SendFlags.Signaled,
                RemoteAddress = _targetRegion.Iova + (ulong)to,
                RKey = _targetRegion.Key,
                Immediate = (uint)_posted[i],
            };
            Span<byte> data = _sourceModel.AsSpan(from, length);
            ulong local = _sourceRegion.Iova + (ulong)from;
            switch (opcode)
            {
                case WorkRequestOpcode.RdmaRead:
                    // From what nobody writes: a repeated READ may see a later WRITE, as the specification allows.
                    if (_readAt[i] + length > AreaBytes)
                    {
                        return;
                    }

                    int into = (Pairs + i) * AreaBytes + _readAt[i];
                    int shelf = _choices.Next(AreaBytes - length);
                    _readAt[i] += length;
                    _libraryModel.AsSpan(shelf, length).CopyTo(_sourceModel.AsSpan(into));
                    local = _sourceRegion.Iova + (ulong)into;
                    request = request with
                    {
                        RemoteAddress = _libraryRegion.Iova + (ulong)shelf,
                        RKey = _libraryRegion.Key,
                    };
                    break;
                case WorkRequestOpcode.RdmaWrite:
                    data.CopyTo(_targetModel.AsSpan(to));
                    break;
                case WorkRequestOpcode.RdmaWriteWithImmediate:
                    data.CopyTo(_targetModel.AsSpan(to));
                    PostReceive(i, 0);
                    break;
                default:
                    if (_inboxAt[i] + length > AreaBytes)
                    {
                        return;
                    }

                    data.CopyTo(_inboxModel.AsSpan(i * AreaBytes + _inboxAt[i]));
                    PostReceive(i, length);
                    break;
            }

            Assert.Equal(Errno.Success, _pairs[i].PostSend(request, new Sge(local, (uint)length, _sourceRegion.Key)));
            _posted[i]++;
        }

        private void PostReceive(int i, int length)
        {
            Sge sge = new(_inboxRegion.Iova + (ulong)(i * AreaBytes + _inboxAt[i]), (uint)length, _inboxRegion.Key);
            Assert.Equal(Errno.Success, _peers[i].PostReceive(new ReceiveWorkRequest(_receives[i]++), sge));
            _inboxAt[i] += length;
        }

        private string CheckCompletions()
        {
            for (int i = 0; i < Pairs; i++)
            {
                foreach (WorkCompletion completion in TestNode.Poll(_pairs[i].SendCompletionQueue))
                {
                    if (completion.Status != WorkCompletionStatus.Success || completion.WrId != _completed[i])
                    {
                        return $"pair {i}: {completion}, expected {_completed[i]}";
                    }

                    _completed[i]++;
                }

                foreach (WorkCompletion completion in TestNode.Poll(_peers[i].ReceiveCompletionQueue))
                {
                    if (completion.Status != WorkCompletionStatus.Success || completion.WrId != _received[i])
                    {
                        return $"peer {i}: {completion}, expected {_received[i]}";
                    }

                    _received[i]++;
                }
            }

            return string.Empty;
        }

        private void Transmit(TestNode from, TestNode to)
        {
            while (from.Port.PollTransmit(_now, _buffer, out Transmit transmit))
            {
                _link.SendSegments(
                    _now, from.Gid, to.Gid, _buffer.AsSpan(0, transmit.LengthBytes), transmit.SegmentBytes);
            }
        }

        // To the next thing that happens anywhere.
        private void Advance()
        {
            TimeSpan next = TimeSpan.MaxValue;
            foreach (TimeSpan? deadline in new[] { _link.NextDeadline, _a.Port.NextDeadline, _b.Port.NextDeadline })
            {
                next = deadline is { } d && d < next ? d : next;
            }

            if (next != TimeSpan.MaxValue && next > _now)
            {
                _now = next;
            }

            foreach (TestNode node in new[] { _a, _b })
            {
                while (_link.PollReceive(_now, node.Gid, out Gid source, out ReadOnlyMemory<byte> datagram))
                {
                    byte mark = _marks && _choices.Next(20) == 0 ? Congested : (byte)0;
                    node.Port.HandleDatagrams(source, 4791, datagram.Span, datagram.Length, mark, _now);
                }

                node.Port.HandleTimeout(_now);
            }
        }
    }
}
