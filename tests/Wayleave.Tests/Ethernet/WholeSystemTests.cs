using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Link;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet;

/// <summary>
/// Two hosts on a wire that loses, duplicates, reorders and damages: one sends, the other receives into the memory of
/// its GPU. ARP, TCP, steering, header split, chunks and tokens are those that ship; time is virtual.
/// </summary>
public sealed class WholeSystemTests
{
    private const ushort Port = 5201;
    private const int SentBytes = 300_000;

    [Theory]
    [InlineData(0, 0, 0, 0, 3)]
    [InlineData(10, 0, 0, 0, 6)]
    [InlineData(0, 50, 100, 0, 6)]
    [InlineData(10, 20, 20, 10, 10)]
    public void Every_byte_arrives_in_device_memory_once_and_in_order(
        int loss, int duplication, int reordering, int corruption, int runs)
    {
        long damaged = 0;
        for (int run = 1; run <= runs; run++)
        {
            SimulatedLinkOptions wire = new()
            {
                LossPerMille = loss,
                DuplicationPerMille = duplication,
                ReorderingPerMille = reordering,
                CorruptionPerMille = corruption,
                Delay = TimeSpan.FromMicroseconds(50),
            };
            Pair pair = new(Choices.Seeded((ulong)(run * 7919)), wire);
            byte[] received = pair.Transfer();
            Assert.True(TestFrame.Bytes(SentBytes).AsSpan().SequenceEqual(received), $"seed {run * 7919}");
            Assert.Equal(0, pair.Binding.BytesLinear);
            Assert.Equal(0, pair.Receiver.Nic.Port.Queues[0].Stats.DeviceBytes);
            Assert.Equal((0, 0), (pair.Binding.OutstandingTokens, pair.Attachments));
            damaged += pair.Receiver.Nic.Port.Stats.FramesDropped;
        }

        Assert.Equal(corruption > 0, damaged > 0);
    }

    [Fact]
    public void A_revoke_in_the_middle_of_a_transfer_resets_the_connection_and_nothing_lands_after_the_proof()
    {
        for (int run = 1; run <= 10; run++)
        {
            SimulatedLinkOptions wire = new() { Delay = TimeSpan.FromMicroseconds(50) };
            Pair pair = new(Choices.Seeded((ulong)run), wire) { RevokeAfterBytes = 20_000 * run, ReadsSlowly = true };
            pair.Transfer();
            Assert.Equal(RevokeState.Retired, pair.Revoke!.State);
            Assert.Equal(RetirementGrade.Retired, pair.Revoke.Proof!.Grade);
            Assert.True(pair.MemoryAtRevoke.AsSpan().SequenceEqual(pair.Memory()), $"run {run}: something landed");
            Assert.True(pair.SenderError == Errno.ECONNRESET, $"run {run}: the sender saw {pair.SenderError}");
        }
    }

    private sealed class Node
    {
        private readonly byte[] _buffer = new byte[SuperFrame.BufferBytes];
        private readonly byte[] _piece = new byte[SuperFrame.BufferBytes];

        public Node(HostContext host, PciFabric fabric, int number)
        {
            Number = number;
            MacAddress mac = new(0x02_57_4C_00_00_00 + (ulong)number);
            NicOptions options = new() { Address = mac, HostPoolBytes = 1 << 20, FallbackPoolBytes = 1 << 20 };
            Nic = new NicDevice(host, fabric, new PciFunction($"0000:0{number + 4}:00.0", $"nic{number}"), options);
            Assert.True(Nic.Port.TryEnter());
            Assert.True(InterfaceAddress.TryParse($"10.0.0.{number}/24", out InterfaceAddress own));
            IpHostOptions ip = new() { HardwareAddress = mac, Addresses = [own] };
            Ip = new IpHost(ip, new byte[16], new SplitMix64((ulong)number), Nic.Port);
        }

        public int Number { get; }

        public NicDevice Nic { get; }

        public IpHost Ip { get; }

        /// <summary>One turn; whether anything happened.</summary>
        public bool Turn(SimulatedLink<int> wire, TimeSpan now)
        {
            bool worked = false;
            while (wire.PollReceive(now, Number, out _, out ReadOnlyMemory<byte> frame))
            {
                Nic.Port.HandleFrame(frame.Span, default, now);
                Nic.Port.Deliver(Ip, int.MaxValue, now);
                worked = true;
            }

            Nic.Port.Deliver(Ip, int.MaxValue, now);
            if (Ip.Tcp.NextDeadline is not null || Ip.NextDeadline is not null)
            {
                Ip.HandleTimeout(now);
            }

            SuperFrame super = new(_buffer, Nic.Port.Dma);
            while (Nic.Port.PollTransmit(Ip, now, ref super))
            {
                FrameCutter cutter = new(super.Bytes, super.Link);
                while (cutter.TryNext(_piece, out int length))
                {
                    wire.Send(now, Number, 3 - Number, _piece.AsSpan(0, length));
                }

                worked = true;
            }

            return worked;
        }
    }

    private sealed class Pair
    {
        private const int BufferBytes = 64 * 4096;

        private readonly VirtualClock _clock = new();
        private readonly HostContext _host;
        private readonly GpuDevice _gpu;
        private readonly GpuBuffer _buffer;
        private readonly byte[] _vram = new byte[BufferBytes];
        private readonly SimulatedLink<int> _wire;
        private readonly Node _sender;

        public Pair(Choices choices, SimulatedLinkOptions wire)
        {
            _wire = new SimulatedLink<int>(choices, wire);
            _host = new HostContext(_clock);
            PciFabric fabric = new();
            using (_host.Enter())
            {
                PciFunction function = new("0000:03:00.0", "gpu0");
                _gpu = new GpuDevice(_host, fabric, function, new GpuOptions(), [_vram], [new byte[BufferBytes]]);
                GpuBufferInfo info = new("rx", BufferBytes, StorageKind.Movable);
                Assert.Equal(Errno.Success, _gpu.TryCreate(info, out GpuBuffer? made));
                _buffer = made!;
            }

            _gpu.CopyEngine.Drive(int.MaxValue);
            _sender = new Node(_host, fabric, 1);
            Receiver = new Node(_host, fabric, 2);
            Assert.Equal(Errno.Success, Receiver.Nic.SetSplit(new HeaderSplit(HeaderSplitMode.On, 0)));
            Receiver.Nic.Port.Steering.Change(0, RssChange.Equal(2, 128));
            Receiver.Nic.Port.Steering.InsertRule(FlowRule.ForPort(FlowType.TcpIPv4, Port, 3), out _);
            AcquireTicket ticket;
            using (_host.Enter())
            {
                ticket = new AcquireTicket(_host, "bind");
                _buffer.Shared.Reservation.TryLock(ticket);
            }

            BindRequest request = new() { Queues = [3], Kind = ImporterKind.PinnedRevocable };
            BindOutcome outcome = Receiver.Nic.BindLocked(ticket, _buffer.Shared, request, out MemoryBinding? binding);
            using (_host.Enter())
            {
                _buffer.Shared.Reservation.Unlock(ticket);
            }

            Assert.Equal(Errno.Success, outcome.Errno);
            Binding = binding!;
        }

        public Node Receiver { get; }

        public MemoryBinding Binding { get; }

        public int? RevokeAfterBytes { get; init; }

        public bool ReadsSlowly { get; init; }

        public RevokeOperation? Revoke { get; private set; }

        public byte[] MemoryAtRevoke { get; private set; } = [];

        public Errno SenderError { get; private set; }

        public int Attachments
        {
            get
            {
                using (_host.Enter())
                {
                    return _buffer.Shared.Attachments.Count;
                }
            }
        }

        public byte[] Memory() => [.. _vram];

        /// <summary>Sends, receives, closes; what the reader found in device memory.</summary>
        public byte[] Transfer()
        {
            Assert.Equal(Errno.Success, Receiver.Ip.Tcp.Listen(null, Port, 4, out TcpListener? listener));
            Assert.Equal(Errno.Success, _sender.Ip.Tcp.Connect(
                _clock.Now,
                TestFrame.Address("10.0.0.1"),
                40000,
                TestFrame.Address("10.0.0.2"),
                Port,
                out TcpConnection? client));
            byte[] bytes = TestFrame.Bytes(SentBytes);
            List<byte> received = [];
            TcpConnection? server = null;
            int sent = 0;
            for (int turn = 0; turn < 2_000_000; turn++)
            {
                if (client!.State == TcpState.Established && sent < bytes.Length)
                {
                    sent += client.Send(bytes.AsSpan(sent), out int taken) == Errno.Success ? taken : 0;
                    if (sent == bytes.Length)
                    {
                        client.Shutdown();
                    }
                }

                bool worked = _sender.Turn(_wire, _clock.Now) | Receiver.Turn(_wire, _clock.Now);
                if (server is not null || listener!.TryAccept(out server))
                {
                    worked |= (!ReadsSlowly || turn % 4 == 0) && Read(server!, received);
                    RevokeIfDue();
                    if (server!.IsAtEnd && server.Received.UnreadBytes == 0)
                    {
                        break;
                    }
                }

                if (client.Error != Errno.Success)
                {
                    SenderError = client.Error;
                    break;
                }

                if (!worked)
                {
                    Assert.True(Advance(), "nothing happens any more");
                }
            }

            server?.Received.Close();
            Receiver.Nic.Unbind(Binding);
            return [.. received];
        }

        private bool Read(TcpConnection server, List<byte> received)
        {
            DevmemFragment[] fragments = new DevmemFragment[16];
            if (server.Received.Receive(
                ReceiveFlags.Devmem, 8000, [], fragments, out ReceiveResult result) != Errno.Success)
            {
                return false;
            }

            TokenRange[] tokens = new TokenRange[result.Fragments];
            for (int i = 0; i < result.Fragments; i++)
            {
                received.AddRange(_vram.AsSpan((int)fragments[i].Offset, (int)fragments[i].LengthBytes));
                tokens[i] = new TokenRange(fragments[i].Token, 1);
            }

            Assert.Equal(Errno.Success, server.Received.DontNeed(tokens, out int freed));
            Assert.Equal(result.Fragments, freed);
            server.HandleRead();
            return result.Bytes > 0;
        }

        private void RevokeIfDue()
        {
            if (Revoke is null && Binding.BytesPlaced >= RevokeAfterBytes)
            {
                using (_host.Enter())
                {
                    Revoke = _gpu.Free(_buffer, new RevokePolicy());
                }

                MemoryAtRevoke = Memory();
            }
        }

        private bool Advance()
        {
            TimeSpan? next = _wire.NextDeadline;
            foreach (TimeSpan? deadline in (TimeSpan?[])[_sender.Ip.NextDeadline, Receiver.Ip.NextDeadline])
            {
                next = next is null || deadline < next ? deadline ?? next : next;
            }

            if (next is null)
            {
                return false;
            }

            _clock.AdvanceTo(next.Value > _clock.Now ? next.Value : _clock.Now + TimeSpan.FromTicks(10));
            return true;
        }
    }
}
