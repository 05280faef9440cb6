using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Vectors;

/// <summary>
/// One side of a description as a real RDMA device with its regions and its queue pair, and a clock that stands still
/// until it is told. Packets go in and out one at a time, so that a capture's order decides what the machine knows when
/// it sends.
/// </summary>
internal sealed class ReplayMachine
{
    private readonly HostContext _host;
    private readonly RdmaDevice _device;
    private readonly CompletionQueue _completions;
    private readonly QueuePair _pair;
    private readonly ProtectionDomain _domain;
    private readonly ushort _sourcePort;
    private readonly ReplayKeys _keys = new();
    private readonly VectorSide _side;
    private readonly List<ReplayMemory> _memories = [];
    private readonly byte[] _buffer = new byte[ushort.MaxValue];
    private readonly List<WorkCompletion> _polled = [];

    /// <exception cref="FormatException">The description asks for something that verbs refuse.</exception>
    public ReplayMachine(VectorSide side, ushort sourcePort, PeerProfile profile)
    {
        (_side, _sourcePort) = (side, sourcePort);
        LocalGid = ParseGid(side.Qp.SgidIp);
        PeerGid = ParseGid(side.Qp.DgidIp);
        if (LocalGid.IsIPv4 != PeerGid.IsIPv4)
        {
            throw new FormatException($"{LocalGid} and {PeerGid} are of different address families");
        }

        Flow = new IcrcFlow(LocalGid, PeerGid, sourcePort, FrameHeader.RocePort);
        _host = new HostContext(new VirtualClock());
        PciFabric fabric = new();
        RdmaDeviceOptions options = new()
        {
            Gid = LocalGid,
            UdpPort = FrameHeader.RocePort,
            SuperPacketSegments = 1,

            // The peer's socket is not what limits a replay.
            WindowBytes = 1 << 30,
            ReadRequestBytes = 1 << 30,
        };
        _device = new RdmaDevice(_host, fabric, new PciFunction("0000:01:00.0", "replay"), options, _keys);
        if (!_device.Port.TryEnter())
        {
            throw new InvalidOperationException("the token of a new port is taken");
        }

        ProtectionDomain domain = _domain = _device.CreateProtectionDomain();
        foreach (VectorRegion region in side.Mrs)
        {
            Register(domain, fabric, region);
        }

        Errno errno = RdmaDevice.TryCreateCompletionQueue(CompletionsMax(side), out CompletionQueue? completions);
        Require(errno, "a completion queue");
        _completions = completions!;
        QueuePairRequest request = new(domain, _completions, _completions, Capabilities(side.Qp.Cap))
        {
            Type = Needed(VerbsNames.QueuePairTypeOf(side.Qp.Type), "type"),
            Number = side.Qp.Qpn,
        };
        errno = _device.TryCreateQueuePair(request, out QueuePair? pair);
        Require(errno, "the queue pair");
        _pair = pair!;
        if (side.Qp.State != "RESET")
        {
            Connect(side.Qp, profile);
        }
    }

    public RdmaDevice Device => _device;

    public QueuePair Pair => _pair;

    public Gid LocalGid { get; }

    public Gid PeerGid { get; }

    /// <summary>Checksum state of the packets that leave here.</summary>
    public IcrcFlow Flow { get; }

    /// <summary>Time since the first post. Moves by <see cref="AdvanceTo"/> only.</summary>
    public TimeSpan Now { get; private set; }

    /// <summary>When a timer is due; null when none runs.</summary>
    public TimeSpan? NextDeadline => _device.Port.NextDeadline;

    public QueuePairState State => _pair.State;

    /// <summary>Everything polled so far, in order.</summary>
    public IReadOnlyList<WorkCompletion> Completions => _polled;

    /// <summary>Moves the clock, never backwards, and lets the timers act that are due by then.</summary>
    public void AdvanceTo(TimeSpan time)
    {
        Now = time > Now ? time : Now;
        _device.Port.HandleTimeout(Now);
    }

    /// <summary>The device draws these next where it needs something random.</summary>
    public void Draw(params ReadOnlySpan<uint> numbers) => _keys.Add(numbers);

    /// <summary>Changes registered memory, as an application does; nothing where none is.</summary>
    public void Write(ulong va, ReadOnlySpan<byte> bytes)
    {
        foreach (ReplayMemory memory in _memories)
        {
            if (memory.TryWrite(va, bytes))
            {
                return;
            }
        }
    }

    /// <param name="packet">Where it came from, and when.</param>
    /// <param name="bytes">BTH to ICRC.</param>
    public void Feed(CapturedPacket packet, ReadOnlySpan<byte> bytes) => _device.Port.HandleDatagrams(
        packet.Header.Source,
        packet.Header.SourcePort,
        bytes,
        bytes.Length,
        packet.Header.TrafficClass,
        Now,
        packet.Header.Identification);

    /// <summary>The next packet to send, valid until the next call; false when there is none now.</summary>
    public bool TryTransmit(out ReadOnlySpan<byte> packet, out Transmit transmit)
    {
        bool has = _device.Port.PollTransmit(Now, _buffer, out transmit);
        packet = has ? _buffer.AsSpan(0, transmit.LengthBytes) : default;
        return has;
    }

    public Errno Post(VectorWorkRequest request)
    {
        WorkRequestOpcode opcode = Needed(VerbsNames.RequestOpcode(request.Opcode), request.Opcode);
        SendFlags flags = Needed(VerbsNames.SendFlagsOf(request.Flags), "flags");
        SendWorkRequest made = new()
        {
            WrId = request.WrId,
            Opcode = opcode,
            Flags = flags & ~SendFlags.Inline,
            Immediate = (uint)(request.Imm?.Value ?? 0),
            RemoteAddress = request.RemoteAddr?.Value ?? 0,
            RKey = (uint)(request.RKey?.Value ?? 0),
            CompareAdd = (opcode == WorkRequestOpcode.AtomicFetchAdd ? request.SwapOrAdd : request.Compare)?.Value ?? 0,
            Swap = opcode == WorkRequestOpcode.AtomicCompareSwap ? request.SwapOrAdd?.Value ?? 0 : 0,
            AddressHandle = request.Ah is { } ah ? HandleOf(ah) : null,
            RemoteQpNumber = request.Ah?.RemoteQpn ?? 0,
            RemoteQKey = (uint)(request.Ah?.RemoteQKey.Value ?? 0),
        };
        return (flags & SendFlags.Inline) != 0
            ? _pair.PostSendInline(made, InlineData(request))
            : _pair.PostSend(made, Sges(request.Sge));
    }

    public Errno Post(VectorReceive receive) =>
        _pair.PostReceive(new ReceiveWorkRequest(receive.WrId), Sges(receive.Sge));

    /// <summary>Takes new completions out of the queue; returns how many.</summary>
    public int PollCompletions()
    {
        Span<WorkCompletion> completions = new WorkCompletion[16];
        int total = 0;
        int count;
        while ((count = _completions.Poll(completions)) > 0)
        {
            _polled.AddRange(completions[..count]);
            total += count;
        }

        return total;
    }

    /// <summary>What registered memory holds; false when the range is in no region.</summary>
    public bool TryRead(ulong va, int lengthBytes, out ReadOnlySpan<byte> bytes)
    {
        bytes = default;
        foreach (ReplayMemory memory in _memories)
        {
            if (memory.TryGet(va, lengthBytes, out bytes))
            {
                return true;
            }
        }

        return false;
    }

    private static Sge[] Sges(IEnumerable<VectorSge> sges) =>
        [.. sges.Select(s => new Sge(s.Va.Value, s.Length, (uint)s.LKey.Value))];

    private byte[] InlineData(VectorWorkRequest request)
    {
        List<byte> data = [];
        foreach (VectorSge sge in request.Sge)
        {
            if (!TryRead(sge.Va.Value, (int)sge.Length, out ReadOnlySpan<byte> bytes))
            {
                throw new FormatException($"work request {request.Index}: its inline data at {sge.Va} is in no region");
            }

            data.AddRange(bytes);
        }

        return [.. data];
    }

    private void Register(ProtectionDomain domain, PciFabric fabric, VectorRegion region)
    {
        AccessFlags access = Needed(VerbsNames.AccessOf(region.Access), "access");
        using (_host.Enter())
        {
            ReplayMemory memory = MemoryOf(fabric, region);
            ulong offset = memory.BufferOffset + (region.Va.Value >= memory.Va ? region.Va.Value - memory.Va : 0);
            AcquireTicket ticket = new(_host, "replay");
            memory.Buffer.Reservation.TryLock(ticket); // nobody else knows the buffer
            MemoryRegionRequest request = new(
                offset, region.Length, region.Va.Value, access, ImporterKind.Pinned, (uint)region.LKey.Value);
            Errno errno = _device.RegisterLocked(ticket, domain, memory.Buffer, request, out _, out Fence? wait);
            memory.Buffer.Reservation.Unlock(ticket);
            Require(wait is null ? errno : Errno.EBUSY, $"region {region.Name}");
        }
    }

    private ReplayMemory MemoryOf(PciFabric fabric, VectorRegion region)
    {
        if (region.InitialContent.Rule == "same_as")
        {
            return _memories.Find(m => m.Name == region.InitialContent.Mr)
                ?? throw new FormatException(
                    $"region {region.Name} is to be \"{region.InitialContent.Mr}\", which is no region before it");
        }

        ReplayMemory memory = new(_host, fabric, region);
        _memories.Add(memory);
        return memory;
    }

    // A capture shows the IP header, so the whole ICRC is checked.
    private AddressVector AddressOf(Gid peer) => new(peer, FrameHeader.RocePort, IcrcMode.Full, _sourcePort);

    private AddressHandle HandleOf(VectorAddressHandle ah)
    {
        Errno errno = _device.TryCreateAddressHandle(
            _domain, AddressOf(ParseGid(ah.DgidIp)), out AddressHandle? handle);
        Require(errno, "an address handle");
        return handle!;
    }

    private void Connect(VectorQueuePair qp, PeerProfile profile)
    {
        QueuePairAttributes attributes = new()
        {
            State = QueuePairState.Init,
            SqPsn = Needed(qp.SqPsn, "sq_psn"),
        };
        if (_pair.Type == QueuePairType.UnreliableDatagram)
        {
            attributes = attributes with { QKey = (uint)Needed(qp.QKey, "qkey").Value, Profile = profile };
        }
        else
        {
            attributes = attributes with
            {
                AccessFlags = Needed(VerbsNames.AccessOf(qp.AccessFlags ?? []), "access_flags"),
                AddressVector = AddressOf(PeerGid),
                Profile = profile,
                PathMtu = Mtu(Needed(qp.PathMtu, "path_mtu")),
                DestQpNumber = Needed(qp.DestQpn, "dest_qpn"),
                RqPsn = Needed(qp.RqPsn, "rq_psn"),
            };
        }

        if (_pair.Type == QueuePairType.ReliableConnection)
        {
            attributes = attributes with
            {
                MaxRdAtomic = Needed(qp.MaxRdAtomic, "max_rd_atomic"),
                MaxDestRdAtomic = Needed(qp.MaxDestRdAtomic, "max_dest_rd_atomic"),
                MinRnrTimer = Needed(qp.MinRnrTimerCode, "min_rnr_timer_code"),
                Timeout = Needed(qp.TimeoutCode, "timeout_code"),
                RetryCount = Needed(qp.RetryCnt, "retry_cnt"),
                RnrRetry = Needed(qp.RnrRetry, "rnr_retry"),
            };
        }

        Step(attributes);
        Step(attributes with { State = QueuePairState.ReadyToReceive });
        Step(attributes with { State = QueuePairState.ReadyToSend });
    }

    // Every step sets exactly what it needs, as a program does that follows the manual.
    private void Step(QueuePairAttributes attributes)
    {
        QueuePairTransitions.TryGet(
            _pair.State, attributes.State, _pair.Type, out QueuePairAttributeMask required, out _);
        Errno errno = _pair.Modify(attributes, required | QueuePairAttributeMask.State);
        Require(errno, $"the queue pair's step to {VerbsNames.Of(attributes.State)}");
    }

    private static T Needed<T>(T? value, string name)
        where T : struct => value ?? throw new FormatException($"{name} of the description is null or unknown");

    private static void Require(Errno errno, string what)
    {
        if (errno != Errno.Success)
        {
            throw new FormatException($"{what} of the description is refused with {errno}");
        }
    }

    private static Gid ParseGid(string text) =>
        Gid.TryParse(text, out Gid gid) ? gid : throw new FormatException($"\"{text}\" is not an IP address");

    private static PathMtu Mtu(int bytes) => bytes switch
    {
        256 => PathMtu.Mtu256,
        512 => PathMtu.Mtu512,
        1024 => PathMtu.Mtu1024,
        2048 => PathMtu.Mtu2048,
        4096 => PathMtu.Mtu4096,
        _ => throw new FormatException($"a path MTU of {bytes} bytes does not exist"),
    };

    private static QueuePairCapabilities Capabilities(VectorCapabilities cap) => new()
    {
        MaxSendWr = cap.MaxSendWr,
        MaxReceiveWr = cap.MaxRecvWr,
        MaxSendSge = cap.MaxSendSge,
        MaxReceiveSge = cap.MaxRecvSge,
        MaxInlineData = cap.MaxInlineData,
    };

    private static int CompletionsMax(VectorSide side) => Math.Max(16, side.WorkRequests.Count + side.Recv.Count);

    // Keys and numbers are given; only what is not asked for would come from here.
    private sealed class ReplayKeys : IKeySource
    {
        private readonly SplitMix64 _random = new(seed: 1);
        private readonly Queue<uint> _wanted = [];

        public void Add(ReadOnlySpan<uint> numbers)
        {
            foreach (uint number in numbers)
            {
                _wanted.Enqueue(number);
            }
        }

        public uint NextUInt32() => _wanted.TryDequeue(out uint number) ? number : (uint)_random.NextUInt64();
    }
}
