using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// A host's RDMA device with one connected queue pair and one region over the host's lent buffer. What it sends goes to
/// its peer packet by packet, so that anything can happen between two.
/// </summary>
internal sealed class RdmaNode
{
    private const ulong Iova = 0x1000_0000;
    private const uint FirstPsn = 0xFFFFFE; // wraps within the first message

    private const QueuePairAttributeMask ToInit = QueuePairAttributeMask.State
        | QueuePairAttributeMask.PKeyIndex | QueuePairAttributeMask.Port | QueuePairAttributeMask.AccessFlags;

    private const QueuePairAttributeMask ToReadyToReceive = QueuePairAttributeMask.State
        | QueuePairAttributeMask.AddressVector | QueuePairAttributeMask.PathMtu
        | QueuePairAttributeMask.DestQpNumber | QueuePairAttributeMask.RqPsn
        | QueuePairAttributeMask.MaxDestRdAtomic | QueuePairAttributeMask.MinRnrTimer;

    private const QueuePairAttributeMask ToReadyToSend = QueuePairAttributeMask.State
        | QueuePairAttributeMask.Timeout | QueuePairAttributeMask.RetryCount | QueuePairAttributeMask.RnrRetry
        | QueuePairAttributeMask.SqPsn | QueuePairAttributeMask.MaxRdAtomic;

    private readonly World _world;
    private readonly RdmaDevice _device;
    private readonly QueuePair _pair;
    private readonly CompletionQueue _completions;
    private readonly Queue<byte[]> _arrived = [];
    private readonly byte[] _buffer = new byte[65536];
    private RdmaNode? _peer;
    private bool _poked;

    /// <param name="world">The host; its lent buffer is what the region covers.</param>
    /// <param name="address">IPv4, in host byte order.</param>
    /// <param name="seed">Of keys and numbers.</param>
    /// <param name="defences">Those of the responder.</param>
    public RdmaNode(World world, uint address, ulong seed, ResponderDefences defences)
    {
        _world = world;
        Gid gid = Gid.FromIPv4(address);
        RdmaDeviceOptions options = new() { Gid = gid, Defences = defences };
        PciFunction function = new("0000:03:00.0", "rdma0");
        _device = new RdmaDevice(world.Host, world.Fabric, function, options, new SeededKeys(seed));
        _device.Port.TryEnter(); // one driver, the explorer
        ProtectionDomain domain = _device.CreateProtectionDomain();
        World.Require(Errno.Success, RdmaDevice.TryCreateCompletionQueue(depth: 16, out CompletionQueue? completions));
        _completions = completions!;
        QueuePairCapabilities small = new() { MaxSendWr = 4, MaxReceiveWr = 4 };
        World.Require(
            Errno.Success,
            _device.TryCreateQueuePair(domain, _completions, _completions, small, out QueuePair? pair));
        _pair = pair!;
        Region = Register(domain);
        Service = new Service($"rdma at {gid}", HasWork, Work);
    }

    public MemoryRegion Region { get; }

    public Service Service { get; }

    /// <summary>Whether there is work now; if not, the next thing that happens is a timer.</summary>
    public bool IsBusy => HasWork();

    public TimeSpan? NextDeadline => _device.Port.NextDeadline;

    public void ConnectTo(RdmaNode peer)
    {
        _peer = peer;
        QueuePairAttributes attributes = new()
        {
            State = QueuePairState.Init,
            AccessFlags = AccessFlags.RemoteWrite,
            AddressVector = new AddressVector(peer._device.Options.Gid),
            DestQpNumber = peer._pair.QpNumber,
            PathMtu = PathMtu.Mtu256,
            RqPsn = FirstPsn,
            SqPsn = FirstPsn,
            MaxRdAtomic = 1,
            MaxDestRdAtomic = 1,
            MinRnrTimer = 12,
            Timeout = 14,
            RetryCount = 7,
            RnrRetry = 7,
        };
        Modify(attributes, ToInit);
        Modify(attributes with { State = QueuePairState.ReadyToReceive }, ToReadyToReceive);
        Modify(attributes with { State = QueuePairState.ReadyToSend }, ToReadyToSend);
    }

    /// <summary>WRITEs the whole buffer to the peer's.</summary>
    public void PostWrite(ulong id)
    {
        SendWorkRequest request = new()
        {
            WrId = id,
            Opcode = WorkRequestOpcode.RdmaWrite,
            Flags = SendFlags.Signaled,
            RemoteAddress = Iova,
            RKey = _peer!.Region.Key,
        };
        World.Require(Errno.Success, _pair.PostSend(request, new Sge(Iova, (uint)_world.BufferBytes, Region.Key)));
        _poked = true;
    }

    public bool HasCompletion => _completions.Count > 0;

    public WorkCompletionStatus PollCompletion()
    {
        Span<WorkCompletion> one = new WorkCompletion[1];
        _completions.Poll(one);
        return one[0].Status;
    }

    private MemoryRegion Register(ProtectionDomain domain)
    {
        SharedBuffer buffer = _world.Lent.Shared;
        const AccessFlags Access = AccessFlags.LocalWrite | AccessFlags.RemoteWrite;
        MemoryRegionRequest request = new(0, (ulong)_world.BufferBytes, Iova, Access, ImporterKind.Dynamic);
        using (_world.Host.Enter())
        {
            AcquireTicket ticket = new(_world.Host, "register");
            buffer.Reservation.TryLock(ticket);
            World.Require(
                Errno.Success,
                _device.RegisterLocked(ticket, domain, buffer, request, out MemoryRegion? region, out _));
            buffer.Reservation.Unlock(ticket);
            return region!;
        }
    }

    private void Modify(QueuePairAttributes attributes, QueuePairAttributeMask mask) =>
        World.Require(Errno.Success, _pair.Modify(attributes, mask));

    private bool HasWork() =>
        _poked || _arrived.Count > 0 || _device.Port.HasDoorbell || _device.Port.NextDeadline <= _world.Clock.Now;

    // One packet in, or the timers; then everything out.
    private void Work()
    {
        _poked = false;
        TimeSpan now = _world.Clock.Now;
        if (_arrived.TryDequeue(out byte[]? datagram))
        {
            _device.Port.HandleDatagrams(_peer!._device.Options.Gid, 4791, datagram, datagram.Length, 0, now);
        }

        _device.Port.HandleTimeout(now);
        while (_device.Port.PollTransmit(now, _buffer, out Transmit transmit))
        {
            for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
            {
                int length = Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at);
                _peer!._arrived.Enqueue(_buffer.AsSpan(at, length).ToArray());
            }
        }

        while (_device.Port.PollFault(out MemoryRegion? region))
        {
            using (_world.Host.Enter())
            {
                RegionRemap.Start(region);
            }
        }
    }

    private sealed class SeededKeys(ulong seed) : IKeySource
    {
        private readonly SplitMix64 _random = new(seed);

        public uint NextUInt32() => (uint)(_random.NextUInt64() >> 32);
    }
}
