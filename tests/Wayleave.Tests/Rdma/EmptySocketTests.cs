using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// A requester asks for more READs while its socket is empty: Linux frees what was read late, up to a quarter of the
/// buffer, and all of it when nothing is left to read (<c>udp_rmem_release</c>). Nothing that was asked for may be
/// dropped, whenever the two ends look.
/// </summary>
public class EmptySocketTests
{
    private const int BufferBytes = 425_984; // of an unprivileged user
    private const int WindowBytes = BufferBytes / 4 * 3;
    private const int EmptyWindowBytes = BufferBytes / 16 * 15; // what a driver takes of it
    private const int Reads = 200;
    private const int ReadBytes = 64 << 10;
    private const int Mtu = 4096;

    [Theory]
    [InlineData(0)]
    [InlineData(7)]
    public void What_is_asked_for_while_the_socket_is_empty_finds_room(int firstsAhead)
    {
        long most = 0;
        for (ulong seed = 1; seed <= (ulong)FuzzRounds.Of(20); seed++)
        {
            World world = new(seed, firstsAhead, ResponderDefences.All);
            world.Run();
            Assert.True(world.Drops == 0 && world.Retransmits == 0, $"seed {seed}: {world.Drops} dropped");
            most = Math.Max(most, world.MostBytes);
        }

        Assert.True(most > WindowBytes, $"never more than {most} bytes, which is no more than at any time");
    }

    [Fact]
    public void Whoever_takes_a_socket_for_empty_for_ever_overflows_it()
    {
        long drops = 0;
        for (ulong seed = 1; seed <= 20 && drops == 0; seed++)
        {
            World world = new(seed, firstsAhead: 7, new ResponderDefences { NoticesArrivals = false });
            world.Run();
            drops = world.Drops;
        }

        Assert.True(drops > 0);
    }

    // Room that an empty socket has makes whoever waited for room look again, though no response has come.
    [Fact]
    public void Who_waits_for_room_asks_when_the_socket_turns_out_to_be_empty()
    {
        World world = new(seed: 1, firstsAhead: 0, ResponderDefences.All);
        Assert.Equal(4, world.Ask());
        world.HandleEmptySocket();
        Assert.Equal(1, world.Ask());
        world.HandleEmptySocket();
        Assert.Equal(0, world.Ask());
    }

    /// <summary>A receive buffer as the kernel counts it.</summary>
    private sealed class Socket
    {
        private const int TruesizeBytes = 832; // of a super-packet, besides its bytes

        private readonly Queue<(byte[] Bytes, int SegmentBytes)> _arrived = [];
        private readonly Queue<(byte[] Bytes, int SegmentBytes)> _reading = [];
        private long _lateBytes; // read, and charged still

        public long ChargedBytes { get; private set; }

        public bool TryArrive(byte[] bytes, int segmentBytes)
        {
            int truesize = bytes.Length + TruesizeBytes;
            if (ChargedBytes != 0 && ChargedBytes + truesize > BufferBytes)
            {
                return false;
            }

            ChargedBytes += truesize;
            _arrived.Enqueue((bytes, segmentBytes));
            return true;
        }

        public bool TryRead(out (byte[] Bytes, int SegmentBytes) read)
        {
            while (_reading.Count == 0 && _arrived.TryDequeue(out (byte[], int) arrived))
            {
                _reading.Enqueue(arrived);
                while (_arrived.TryDequeue(out arrived))
                {
                    _reading.Enqueue(arrived);
                }
            }

            if (!_reading.TryDequeue(out read))
            {
                return false;
            }

            _lateBytes += read.Bytes.Length + TruesizeBytes;
            if (_lateBytes >= BufferBytes / 4 || _reading.Count == 0)
            {
                ChargedBytes -= _lateBytes;
                _lateBytes = 0;
            }

            return true;
        }
    }

    /// <summary>A queue pair that reads, the one it reads from, and the socket of the first.</summary>
    private sealed class World
    {
        private readonly byte[] _buffer = new byte[65536];
        private readonly SplitMix64 _random;
        private readonly TestLink _link;
        private readonly QueuePair _pair;
        private readonly Socket _socket = new();

        public World(ulong seed, int firstsAhead, ResponderDefences defences)
        {
            _random = new SplitMix64(seed);
            _link = new TestLink(o => o with
            {
                Defences = defences,
                ReadWindowBytes = WindowBytes,
                ReadWindowEmptyBytes = EmptyWindowBytes,
            });
            QueuePairAttributes Agree(QueuePairAttributes q) => q with
            {
                AddressVector = q.AddressVector with { KeepsSuperPackets = true },
                PathMtu = PathMtu.Mtu4096,
                Profile = PeerProfile.Default with { FirstsAhead = firstsAhead },
                MaxRdAtomic = 16,
                MaxDestRdAtomic = 16,
            };
            (_pair, _) = _link.Connect(Agree, Agree);
            MemoryRegion source = _link.B.Register(_link.B.Allocate(ReadBytes));
            MemoryRegion target = _link.A.Register(_link.A.Allocate(ReadBytes));
            for (ulong i = 0; i < Reads; i++)
            {
                Assert.Equal(Core.Errno.Success, _pair.PostSend(
                    new SendWorkRequest
                    {
                        WrId = i,
                        Opcode = WorkRequestOpcode.RdmaRead,
                        RemoteAddress = source.Iova,
                        RKey = source.Key,
                    },
                    new Sge(target.Iova, ReadBytes, target.Key)));
            }
        }

        public long Drops { get; private set; }

        public long MostBytes { get; private set; }

        public long Retransmits => _link.A.Port.Stats.Retransmits;

        public void HandleEmptySocket() => _link.A.Port.HandleEmptySocket();

        /// <summary>How many requests leave now.</summary>
        public int Ask()
        {
            long before = _link.A.Port.Stats.PacketsSent;
            _link.Step(_link.A, _link.B);
            return (int)(_link.A.Port.Stats.PacketsSent - before);
        }

        // Either end is not running now and then. The requester looks as PortDriver does, four at a time.
        public void Run()
        {
            Ask();
            for (int idle = 0; _pair.UncompletedSends > 0 && Drops == 0; idle++)
            {
                Assert.True(idle < 100_000, $"{_pair.UncompletedSends} READs were never answered");
                for (int left = _random.Next(12); left > 0; left--)
                {
                    Answer();
                }

                for (int turns = _random.Next(5); turns > 0; turns--)
                {
                    TakeTurn();
                }
            }
        }

        private void Answer()
        {
            if (_link.B.Port.PollTransmit(_link.Now, _buffer, out Transmit sent))
            {
                Drops += _socket.TryArrive(_buffer[..sent.LengthBytes], sent.SegmentBytes) ? 0 : 1;
                MostBytes = Math.Max(MostBytes, _socket.ChargedBytes);
            }
        }

        private void TakeTurn()
        {
            for (int i = 1 + _random.Next(4); i > 0; i--)
            {
                if (!_socket.TryRead(out (byte[] Bytes, int SegmentBytes) read))
                {
                    HandleEmptySocket();
                    break;
                }

                _link.A.Port.HandleDatagrams(_link.B.Gid, 4791, read.Bytes, read.SegmentBytes, 0, _link.Now);
            }

            Ask();
        }
    }
}
