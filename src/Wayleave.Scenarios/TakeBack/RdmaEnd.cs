using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.TakeBack;

/// <summary>
/// A NIC with one queue pair, connected to another by a wire that carries packet after packet and loses none.
/// </summary>
internal sealed class RdmaEnd
{
    private const QueuePairAttributeMask ToInit = QueuePairAttributeMask.State
        | QueuePairAttributeMask.PKeyIndex | QueuePairAttributeMask.Port | QueuePairAttributeMask.AccessFlags;

    private const QueuePairAttributeMask ToReadyToReceive = QueuePairAttributeMask.State
        | QueuePairAttributeMask.AddressVector | QueuePairAttributeMask.PathMtu
        | QueuePairAttributeMask.DestQpNumber | QueuePairAttributeMask.RqPsn
        | QueuePairAttributeMask.MaxDestRdAtomic | QueuePairAttributeMask.MinRnrTimer;

    private const QueuePairAttributeMask ToReadyToSend = QueuePairAttributeMask.State
        | QueuePairAttributeMask.Timeout | QueuePairAttributeMask.RetryCount | QueuePairAttributeMask.RnrRetry
        | QueuePairAttributeMask.SqPsn | QueuePairAttributeMask.MaxRdAtomic;

    private readonly HostContext _host;
    private readonly VirtualClock _clock;
    private readonly CompletionQueue _completions;
    private readonly Queue<byte[]> _arrived = [];
    private readonly WorkCompletion[] _one = new WorkCompletion[1];
    private readonly byte[] _buffer = new byte[65536];
    private QueuePair _pair;
    private RdmaEnd? _peer;
    private bool _poked;
    private int _isRemapping;

    public RdmaEnd(
        HostContext host, VirtualClock clock, PciFabric fabric, PciFunction function, uint address, ulong seed)
    {
        (_host, _clock) = (host, clock);
        RdmaDeviceOptions options = new() { Gid = Gid.FromIPv4(address), FaultRnrTimer = 3 };
        Device = new RdmaDevice(host, fabric, function, options, new Keys(seed));
        Device.Port.TryEnter(); // one driver
        Domain = Device.CreateProtectionDomain();
        World.Require(Errno.Success, RdmaDevice.TryCreateCompletionQueue(depth: 64, out CompletionQueue? completions));
        _completions = completions!;
        _pair = CreatePair();
    }

    public RdmaDevice Device { get; }

    public ProtectionDomain Domain { get; }

    /// <summary>Whether the queue pair takes requests.</summary>
    public bool IsConnected => _pair.State == QueuePairState.ReadyToSend;

    public bool HasCompletion => _completions.Count > 0;

    public TimeSpan? NextDeadline => Device.Port.NextDeadline;

    public bool HasWork =>
        _poked || _arrived.Count > 0 || Device.Port.HasDoorbell || Device.Port.NextDeadline <= _clock.Now;

    /// <summary>Faults that are being served.</summary>
    public bool IsRemapping => _isRemapping > 0;

    public static void Connect(RdmaEnd one, RdmaEnd other)
    {
        one.ConnectTo(other);
        other.ConnectTo(one);
    }

    /// <summary>Anew, after an error: packets of the old connection find nobody.</summary>
    public static void Reconnect(RdmaEnd one, RdmaEnd other)
    {
        one.Device.DestroyQueuePair(one._pair);
        other.Device.DestroyQueuePair(other._pair);
        (one._pair, other._pair) = (one.CreatePair(), other.CreatePair());
        Connect(one, other);
    }

    public Errno TryPostWrite(ulong id, MemoryRegion local, ulong localAddress, uint key, ulong address, int length)
    {
        SendWorkRequest request = new()
        {
            WrId = id,
            Opcode = WorkRequestOpcode.RdmaWrite,
            Flags = SendFlags.Signaled,
            RemoteAddress = address,
            RKey = key,
        };
        _poked = true;
        return _pair.PostSend(request, new Sge(localAddress, (uint)length, local.Key));
    }

    public WorkCompletion Poll()
    {
        _completions.Poll(_one);
        return _one[0];
    }

    /// <summary>One packet in, or the timers; then everything out, and faults to whoever serves them.</summary>
    /// <returns>Packets that were taken or sent.</returns>
    public int Work()
    {
        int packets = 0;
        _poked = false;
        TimeSpan now = _clock.Now;
        if (_arrived.TryDequeue(out byte[]? arrived))
        {
            packets++;
            Device.Port.HandleDatagrams(_peer!.Device.Options.Gid, 4791, arrived, arrived.Length, 0, now);
        }

        Device.Port.HandleTimeout(now);
        while (Device.Port.PollTransmit(now, _buffer, out Transmit transmit))
        {
            for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
            {
                packets++;
                int length = Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at);
                _peer!._arrived.Enqueue(_buffer.AsSpan(at, length).ToArray());
            }
        }

        return packets;
    }

    /// <summary>Takes the next region that a packet found without its memory.</summary>
    public bool TryTakeFault(out MemoryRegion? region) => Device.Port.PollFault(out region);

    /// <summary>Serves a fault; it goes on by itself where it has to wait.</summary>
    public void Serve(MemoryRegion region)
    {
        using (_host.Enter())
        {
            _isRemapping++;
            RegionRemap.Start(region, _ => _isRemapping--);
        }
    }

    private void ConnectTo(RdmaEnd peer)
    {
        _peer = peer;
        QueuePairAttributes attributes = new()
        {
            State = QueuePairState.Init,
            AccessFlags = AccessFlags.RemoteWrite | AccessFlags.RemoteRead,
            AddressVector = new AddressVector(peer.Device.Options.Gid),
            DestQpNumber = peer._pair.QpNumber,
            PathMtu = PathMtu.Mtu4096,
            MaxRdAtomic = 1,
            MaxDestRdAtomic = 1,
            MinRnrTimer = 3,
            Timeout = 14,
            RetryCount = 7,
            RnrRetry = 7,
        };
        Modify(attributes, ToInit);
        Modify(attributes with { State = QueuePairState.ReadyToReceive }, ToReadyToReceive);
        Modify(attributes with { State = QueuePairState.ReadyToSend }, ToReadyToSend);
    }

    private QueuePair CreatePair()
    {
        QueuePairCapabilities small = new() { MaxSendWr = 32, MaxReceiveWr = 1 };
        World.Require(
            Errno.Success,
            Device.TryCreateQueuePair(Domain, _completions, _completions, small, out QueuePair? pair));
        return pair!;
    }

    private void Modify(QueuePairAttributes attributes, QueuePairAttributeMask mask) =>
        World.Require(Errno.Success, _pair.Modify(attributes, mask));

    private sealed class Keys(ulong seed) : IKeySource
    {
        private readonly SplitMix64 _random = new(seed);

        public uint NextUInt32() => (uint)(_random.NextUInt64() >> 32);
    }
}
