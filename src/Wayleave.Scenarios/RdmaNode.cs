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
/// A host's RDMA device with one connected queue pair, and regions over the host's buffers. What it sends goes to its
/// peer packet by packet, so that anything can happen between two.
/// </summary>
internal sealed class RdmaNode
{
    public const ulong Iova = 0x1000_0000; // of every region

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
    private readonly ProtectionDomain _domain;
    private readonly CompletionQueue _completions;
    private readonly Queue<byte[]> _arrived = [];
    private readonly List<MemoryRegion> _regions = [];
    private readonly byte[] _buffer = new byte[65536];
    private QueuePair _pair;
    private RdmaNode? _peer;
    private int _remaps; // under way
    private ulong _posted; // a hash of all requests so far
    private bool _poked;

    /// <param name="world">The host; its lent buffer is what the region covers.</param>
    /// <param name="address">IPv4, in host byte order.</param>
    /// <param name="seed">Of keys and numbers.</param>
    /// <param name="defences">Those of the responder, and of what places READ responses; null for all.</param>
    public RdmaNode(World world, uint address, ulong seed, ResponderDefences? defences = null)
    {
        _world = world;
        Gid gid = Gid.FromIPv4(address);
        RdmaDeviceOptions options = new() { Gid = gid, Defences = defences ?? ResponderDefences.All };
        PciFunction function = new("0000:03:00.0", "rdma0");
        _device = new RdmaDevice(world.Host, world.Fabric, function, options, new SeededKeys(seed));
        _device.Port.TryEnter(); // one driver, the explorer
        _domain = _device.CreateProtectionDomain();
        World.Require(Errno.Success, RdmaDevice.TryCreateCompletionQueue(depth: 16, out CompletionQueue? completions));
        _completions = completions!;
        _pair = CreatePair();
        Region = Register(world.Lent.Shared);
        Service = new Service($"rdma at {gid}", HasWork, Work);
    }

    /// <summary>Over the lent buffer.</summary>
    public MemoryRegion Region { get; }

    public bool IsDead { get; private set; }

    /// <summary>Whether the queue pair takes requests.</summary>
    public bool IsConnected => _pair.State == QueuePairState.ReadyToSend;

    public Service Service { get; }

    /// <summary>Whether there is work now; if not, the next thing that happens is a timer.</summary>
    public bool IsBusy => HasWork();

    public TimeSpan? NextDeadline => IsDead ? null : _device.Port.NextDeadline;

    /// <summary>Connects two nodes to each other.</summary>
    public static void Connect(RdmaNode one, RdmaNode other)
    {
        one.ConnectTo(other);
        other.ConnectTo(one);
    }

    /// <summary>Connects two nodes anew after an error: packets of the old connection find nobody.</summary>
    public static void Reconnect(RdmaNode one, RdmaNode other)
    {
        one._device.DestroyQueuePair(one._pair);
        other._device.DestroyQueuePair(other._pair);
        (one._pair, other._pair) = (one.CreatePair(), other.CreatePair());
        Connect(one, other);
    }

    /// <summary>
    /// Time passes when nothing else can happen: to the next timer of two nodes, while anybody of the world runs.
    /// </summary>
    public static Service Clock(VirtualClock clock, World world, RdmaNode one, RdmaNode other)
    {
        TimeSpan? Next() =>
            one.NextDeadline is { } a && other.NextDeadline is { } b
                ? (a < b ? a : b)
                : one.NextDeadline ?? other.NextDeadline;
        return new Service(
            "clock",
            () => world.IsRunning && !one.IsBusy && !other.IsBusy && !world.CanStep && Next() is not null,
            () => clock.AdvanceTo(Next()!.Value));
    }

    /// <summary>The machine is gone: nothing is sent or answered any more.</summary>
    public void Die() => IsDead = true;

    /// <summary>The connection is taken down: what is queued is flushed.</summary>
    public void Disconnect()
    {
        QueuePairAttributes error = new() { State = QueuePairState.Error };
        World.Require(Errno.Success, _pair.Modify(error, QueuePairAttributeMask.State));
        _poked = true;
    }

    private void ConnectTo(RdmaNode peer)
    {
        _peer = peer;
        QueuePairAttributes attributes = new()
        {
            State = QueuePairState.Init,
            AccessFlags = AccessFlags.RemoteWrite | AccessFlags.RemoteRead,
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

    /// <summary>WRITEs the whole lent buffer to the peer's.</summary>
    public void PostWrite(ulong id) => Post(WorkRequestOpcode.RdmaWrite, id, Region, _peer!.Region.Key);

    /// <summary>WRITEs the whole of a region to the peer's over the lent buffer.</summary>
    public void PostWrite(ulong id, MemoryRegion local) =>
        Post(WorkRequestOpcode.RdmaWrite, id, local, _peer!.Region.Key);

    /// <summary>Moves the whole of a region, to or from the peer's memory under a key.</summary>
    public void Post(WorkRequestOpcode opcode, ulong id, MemoryRegion local, uint remoteKey)
    {
        SendWorkRequest request = new()
        {
            WrId = id,
            Opcode = opcode,
            Flags = SendFlags.Signaled,
            RemoteAddress = Iova,
            RKey = remoteKey,
        };
        World.Require(Errno.Success, _pair.PostSend(request, new Sge(Iova, (uint)_world.BufferBytes, local.Key)));
        _posted = (_posted + (uint)opcode + id + ((ulong)local.Key << 32) + remoteKey) * 0x9E3779B97F4A7C15;
        _poked = true;
    }

    public bool HasCompletion => _completions.Count > 0;

    public WorkCompletionStatus PollCompletion()
    {
        Span<WorkCompletion> one = new WorkCompletion[1];
        _completions.Poll(one);
        return one[0].Status;
    }

    /// <summary>Registers a whole buffer whose bytes are there. Nobody else holds its reservation.</summary>
    /// <param name="buffer">Of this node's host.</param>
    /// <param name="kind">Whether it follows moves.</param>
    /// <param name="key">The number it gets; null for one that nobody can guess.</param>
    public MemoryRegion Register(SharedBuffer buffer, ImporterKind kind = ImporterKind.Dynamic, uint? key = null)
    {
        const AccessFlags Access = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead;
        MemoryRegionRequest request = new(0, (ulong)_world.BufferBytes, Iova, Access, kind, key);
        using (_world.Host.Enter())
        {
            AcquireTicket ticket = new(_world.Host, "register");
            buffer.Reservation.TryLock(ticket);
            World.Require(
                Errno.Success,
                _device.RegisterLocked(ticket, _domain, buffer, request, out MemoryRegion? region, out _));
            buffer.Reservation.Unlock(ticket);
            _regions.Add(region!);
            return region!;
        }
    }

    /// <summary>
    /// Adds what a later step can see of this node from outside: packets under way to it, its regions, how far its
    /// queue pair is. The rest of the queue pair follows from how often the node was served, which the explorer knows.
    /// </summary>
    public void AddTo(ref StateHash hash)
    {
        hash.Add((_poked ? 1UL : 0) + (IsDead ? 2UL : 0) + (_device.Port.HasDoorbell ? 4UL : 0));
        foreach (byte[] datagram in _arrived)
        {
            ulong sum = 0;
            foreach (byte b in datagram)
            {
                sum = (sum * 31) + b;
            }

            hash.Add(sum);
        }

        hash.Add((ulong)_arrived.Count + ((ulong)_completions.Count << 16) + ((ulong)_pair.State << 32));
        (uint expectedPsn, uint msn) = _pair.ResponderProgress;
        hash.Add(expectedPsn + ((ulong)msn << 32));
        hash.Add(_pair.OldestUnansweredPsn + ((ulong)_pair.QpNumber << 32));
        hash.Add((ulong)(NextDeadline?.Ticks ?? -1));
        hash.Add(_posted + ((ulong)_remaps << 56));
        foreach (MemoryRegion region in _regions)
        {
            hash.Add(region.Key + ((ulong)region.State << 32));
            hash.Add(region.Current is { } current ? current.Addresses.Entries[0].Start.Value : 0);
            hash.Add((ulong)region.BytesPlaced + ((ulong)region.BytesRejected << 32));
        }
    }

    /// <summary>Ends a region that nobody is inside of: its key is free.</summary>
    public void Deregister(MemoryRegion region)
    {
        using (_world.Host.Enter())
        {
            AcquireTicket ticket = new(_world.Host, "deregister");
            SharedBuffer buffer = region.Buffer!;
            buffer.Reservation.TryLock(ticket);
            if (_device.DeregisterLocked(ticket, region) is not null)
            {
                throw new InvalidOperationException($"{region} is in use between two steps");
            }

            buffer.Reservation.Unlock(ticket);
        }
    }

    private QueuePair CreatePair()
    {
        QueuePairCapabilities small = new() { MaxSendWr = 4, MaxReceiveWr = 4 };
        World.Require(
            Errno.Success,
            _device.TryCreateQueuePair(_domain, _completions, _completions, small, out QueuePair? pair));
        return pair!;
    }

    private void Modify(QueuePairAttributes attributes, QueuePairAttributeMask mask) =>
        World.Require(Errno.Success, _pair.Modify(attributes, mask));

    private bool HasWork() =>
        !IsDead
        && (_poked || _arrived.Count > 0 || _device.Port.HasDoorbell || _device.Port.NextDeadline <= _world.Clock.Now);

    // One packet in, or the timers; then everything out.
    private void Work()
    {
        _poked = false;
        TimeSpan now = _world.Clock.Now;
        if (_arrived.TryDequeue(out byte[]? arrived))
        {
            Say("takes", arrived);
            _device.Port.HandleDatagrams(_peer!._device.Options.Gid, 4791, arrived, arrived.Length, 0, now);
        }

        _device.Port.HandleTimeout(now);
        while (_device.Port.PollTransmit(now, _buffer, out Transmit transmit))
        {
            for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
            {
                int length = Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at);
                byte[] datagram = _buffer.AsSpan(at, length).ToArray();
                Say("sends", datagram);
                _peer!._arrived.Enqueue(datagram);
            }
        }

        while (_device.Port.PollFault(out MemoryRegion? region))
        {
            using (_world.Host.Enter())
            {
                _remaps++;
                RegionRemap.Start(region, _ => _remaps--);
            }
        }
    }

    private void Say(string verb, byte[] datagram)
    {
        if (_world.Story.IsTold && Bth.TryParse(datagram, out Bth bth))
        {
            _world.Story.Say($"{verb} {OpcodeTraits.NameOf(bth.Opcode)}");
        }
    }

    private sealed class SeededKeys(ulong seed) : IKeySource
    {
        private readonly SplitMix64 _random = new(seed);

        public uint NextUInt32() => (uint)(_random.NextUInt64() >> 32);
    }
}
