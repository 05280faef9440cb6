using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;
using MemoryWindow = Wayleave.Devices.Rdma.Verbs.MemoryWindow;

namespace Wayleave.Tests.Rdma;

/// <summary>Keys from a seed: the same in every run.</summary>
internal sealed class SeededKeys(ulong seed) : IKeySource
{
    private readonly SplitMix64 _random = new(seed);

    public uint NextUInt32() => (uint)(_random.NextUInt64() >> 32);
}

/// <summary>Collects trace events by name.</summary>
internal sealed class TraceLog : ITraceSink
{
    public List<TraceEvent> Events { get; } = [];

    public void Emit(in TraceEvent traceEvent) => Events.Add(traceEvent);
}

/// <summary>
/// Memory that a test owns as an exporter: two places of the same size, each in as many windows as asked, so that it
/// can move.
/// </summary>
internal sealed class TestMemory : IPinningExporter
{
    private readonly HostContext _host;
    private readonly DmaAddressList[] _places = new DmaAddressList[2];
    private readonly byte[][][] _bytes = new byte[2][][];
    private readonly int _pieceBytes;
    private int _pins;

    public TestMemory(
        HostContext host, PciFabric fabric, PciFunction? owner, int sizeBytes, StorageKind storage, int pieces = 1)
    {
        _host = host;
        Storage = storage;
        _pieceBytes = sizeBytes / pieces;
        for (int place = 0; place < 2; place++)
        {
            DeviceRange[] ranges = new DeviceRange[pieces];
            _bytes[place] = new byte[pieces][];
            for (int piece = 0; piece < pieces; piece++)
            {
                byte[] bytes = _bytes[place][piece] = GC.AllocateArray<byte>(_pieceBytes, pinned: true);
                ranges[piece] = fabric.AddWindow(bytes, owner).Range;
            }

            _places[place] = new DmaAddressList(ranges);
        }

        Errno errno = SharedBuffer.TryExport(
            host, new ExportInfo(this, "test memory", (ulong)sizeBytes), out SharedBuffer? buffer);
        Assert.Equal(Errno.Success, errno);
        Buffer = buffer!;
    }

    public string Name => "test memory";

    public StorageKind Storage { get; }

    public SharedBuffer Buffer { get; }

    /// <summary>Which of the two places is the storage now.</summary>
    public int Place { get; set; }

    /// <summary>Maps that are alive, over all attachments.</summary>
    public int Mapped { get; private set; }

    public int Pins => _pins;

    public Errno PinResult { get; set; }

    public Errno MapResult { get; set; }

    /// <summary>What an unmap does besides.</summary>
    public Action? Unmapping { get; set; }

    public byte this[int offset]
    {
        get => At(Place, offset);
        set => At(Place, offset) = value;
    }

    public ref byte At(int place, int offset) => ref _bytes[place][offset / _pieceBytes][offset % _pieceBytes];

    /// <summary>A copy of a range of the present place.</summary>
    public byte[] Read(int offset, int length, int? place = null)
    {
        byte[] copy = new byte[length];
        for (int i = 0; i < length; i++)
        {
            copy[i] = At(place ?? Place, offset + i);
        }

        return copy;
    }

    public void Fill(int offset, ReadOnlySpan<byte> bytes)
    {
        for (int i = 0; i < bytes.Length; i++)
        {
            this[offset + i] = bytes[i];
        }
    }

    /// <summary>byte i is 7*i + seed, as in the captures.</summary>
    public void FillPattern(int offset, int length, byte seed) => Fill(offset, Pattern(length, seed));

    public static byte[] Pattern(int length, byte seed)
    {
        byte[] bytes = new byte[length];
        for (int i = 0; i < length; i++)
        {
            bytes[i] = (byte)(7 * i + seed);
        }

        return bytes;
    }

    /// <summary>What a move begins with: tells the importers, whose fences it has to wait for.</summary>
    public void Invalidate()
    {
        using (_host.Enter())
        {
            AcquireTicket ticket = new(_host, "move");
            Assert.Equal(LockOutcomeKind.Acquired, Buffer.Reservation.TryLock(ticket).Kind);
            Buffer.InvalidateMappings(ticket);
            Buffer.Reservation.Unlock(ticket);
        }
    }

    /// <summary>Whether nobody that was told by <see cref="Invalidate"/> is inside any more.</summary>
    public bool IsIdle()
    {
        using (_host.Enter())
        {
            return Buffer.Reservation.FirstUnsignaled(ReservationUsage.Bookkeep) is null;
        }
    }

    /// <summary>
    /// Moves the storage: invalidates, copies when nobody is inside, and leaves importers to map again.
    /// </summary>
    public void Move()
    {
        using (_host.Enter())
        {
            AcquireTicket ticket = new(_host, "move");
            Assert.Equal(LockOutcomeKind.Acquired, Buffer.Reservation.TryLock(ticket).Kind);
            Buffer.InvalidateMappings(ticket);
            Assert.Null(Buffer.Reservation.FirstUnsignaled(ReservationUsage.Bookkeep));
            int other = 1 - Place;
            for (int piece = 0; piece < _bytes[0].Length; piece++)
            {
                _bytes[Place][piece].CopyTo(_bytes[other][piece], 0);
            }

            Place = other;
            Buffer.Reservation.Unlock(ticket);
        }
    }

    public Errno Attach(Attachment attachment) => Errno.Success;

    public void Detach(Attachment attachment)
    {
    }

    public Errno Pin(Attachment attachment)
    {
        _pins += PinResult == Errno.Success ? 1 : 0;
        return PinResult;
    }

    public void Unpin(Attachment attachment) => _pins--;

    public Errno Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        Mapped += MapResult == Errno.Success ? 1 : 0;
        addresses = MapResult == Errno.Success ? _places[Place] : null;
        return MapResult;
    }

    public void Unmap(Attachment attachment, DmaAddressList addresses)
    {
        Mapped--;
        Unmapping?.Invoke();
    }

    public void Release(SharedBuffer buffer)
    {
    }
}

/// <summary>One host with an RDMA device, memory of its own, and shortcuts for tests.</summary>
internal sealed class TestNode
{
    public const ulong Iova = 0x1000_0000;

    public TestNode(string address, ulong seed, Func<RdmaDeviceOptions, RdmaDeviceOptions>? configure = null)
    {
        Assert.True(Gid.TryParse(address, out Gid gid));
        RdmaDeviceOptions options = new() { Gid = gid };
        Host = new HostContext(Clock, Trace);
        Keys = new SeededKeys(seed);
        Function = new PciFunction("0000:03:00.0", "rdma0");
        Device = new RdmaDevice(Host, Fabric, Function, configure?.Invoke(options) ?? options, Keys);
        Domain = Device.CreateProtectionDomain();
        Assert.True(Device.Port.TryEnter());
    }

    public VirtualClock Clock { get; } = new();

    public TraceLog Trace { get; } = new();

    public HostContext Host { get; }

    public SeededKeys Keys { get; }

    public PciFabric Fabric { get; } = new();

    public PciFunction Function { get; }

    public RdmaDevice Device { get; }

    public RdmaPort Port => Device.Port;

    public Gid Gid => Device.Options.Gid;

    public ProtectionDomain Domain { get; }

    public TestMemory Allocate(int sizeBytes, StorageKind storage = StorageKind.Movable, int pieces = 1)
    {
        using (Host.Enter())
        {
            return new TestMemory(Host, Fabric, owner: null, sizeBytes, storage, pieces);
        }
    }

    public MemoryRegion Register(
        TestMemory memory,
        AccessFlags access = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead,
        ImporterKind kind = ImporterKind.Dynamic,
        ulong iova = Iova,
        ProtectionDomain? domain = null,
        RegistrationKind registration = RegistrationKind.SharedBuffer)
    {
        Errno errno = TryRegister(
            memory,
            new MemoryRegionRequest(
                0, memory.Buffer.SizeBytes, iova, access, kind, Registration: registration),
            out MemoryRegion? region,
            domain);
        Assert.Equal(Errno.Success, errno);
        return region!;
    }

    public Errno TryRegister(
        TestMemory memory, in MemoryRegionRequest request, out MemoryRegion? region, ProtectionDomain? domain = null)
    {
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "register");
            Assert.Equal(LockOutcomeKind.Acquired, memory.Buffer.Reservation.TryLock(ticket).Kind);
            Errno errno = Device.RegisterLocked(ticket, domain ?? Domain, memory.Buffer, request, out region, out _);
            memory.Buffer.Reservation.Unlock(ticket);
            return errno;
        }
    }

    public MapOutcome Remap(MemoryRegion region)
    {
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "remap");
            SharedBuffer buffer = region.Buffer!;
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Reservation.TryLock(ticket).Kind);
            MapOutcome outcome = region.RemapLocked(ticket);
            buffer.Reservation.Unlock(ticket);
            return outcome;
        }
    }

    public Fence? Deregister(MemoryRegion region)
    {
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "deregister");
            SharedBuffer buffer = region.Buffer!;
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Reservation.TryLock(ticket).Kind);
            Fence? fence = Device.DeregisterLocked(ticket, region);
            buffer.Reservation.Unlock(ticket);
            return fence;
        }
    }

    public Errno TryDeregister(MemoryRegion region)
    {
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "deregister");
            SharedBuffer buffer = region.Buffer!;
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Reservation.TryLock(ticket).Kind);
            Errno errno = Device.TryDeregisterLocked(ticket, region, out Fence? drain);
            buffer.Reservation.Unlock(ticket);
            Assert.Null(drain);
            return errno;
        }
    }

    public MemoryWindow AllocateWindow(MemoryWindowType type, ProtectionDomain? domain = null)
    {
        Assert.Equal(Errno.Success, Device.TryAllocateWindow(domain ?? Domain, type, out MemoryWindow? window));
        return window!;
    }

    /// <summary>What the edge's fault service does, in one go.</summary>
    public int ServeFaults()
    {
        int served = 0;
        while (Port.PollFault(out MemoryRegion? region))
        {
            Assert.Equal(MapOutcomeKind.Mapped, Remap(region).Kind);
            served++;
        }

        return served;
    }

    public static CompletionQueue CreateCompletionQueue(int depth = 256)
    {
        Assert.Equal(Errno.Success, RdmaDevice.TryCreateCompletionQueue(depth, out CompletionQueue? queue));
        return queue!;
    }

    public QueuePair CreatePair(
        CompletionQueue? completions = null,
        QueuePairCapabilities? capabilities = null,
        uint? number = null,
        CompletionQueue? receives = null)
    {
        CompletionQueue queue = completions ?? CreateCompletionQueue();
        Errno errno = Device.TryCreateQueuePair(
            Domain, queue, receives ?? queue, capabilities ?? new(), out QueuePair? pair, number);
        Assert.Equal(Errno.Success, errno);
        return pair!;
    }

    public QueuePair CreatePair(
        QueuePairType type,
        CompletionQueue completions,
        SharedReceiveQueue? shared = null,
        QueuePairCapabilities? capabilities = null,
        bool signalsAll = false)
    {
        QueuePairRequest request = new(Domain, completions, completions, capabilities ?? new())
        {
            Type = type,
            SharedReceives = shared,
            SignalsAll = signalsAll,
        };
        Assert.Equal(Errno.Success, Device.TryCreateQueuePair(request, out QueuePair? pair));
        return pair!;
    }

    public SharedReceiveQueue CreateSharedReceives(int maxWr = 16, int maxSge = 2)
    {
        Assert.Equal(
            Errno.Success, Device.TryCreateSharedReceiveQueue(Domain, maxWr, maxSge, out SharedReceiveQueue? queue));
        return queue!;
    }

    public AddressHandle CreateAddressHandle(Gid to)
    {
        Assert.Equal(
            Errno.Success, Device.TryCreateAddressHandle(Domain, new AddressVector(to), out AddressHandle? handle));
        return handle!;
    }

    public static List<WorkCompletion> Poll(CompletionQueue completions)
    {
        WorkCompletion[] found = new WorkCompletion[completions.Depth];
        int count = completions.Poll(found);
        return [.. found.AsSpan(0, count)];
    }

    public List<AsyncEvent> PollEvents()
    {
        List<AsyncEvent> events = [];
        while (Port.PollEvent(out AsyncEvent asyncEvent))
        {
            events.Add(asyncEvent);
        }

        return events;
    }
}

/// <summary>How a test connects a queue pair; the defaults are perftest's.</summary>
internal sealed record Connection
{
    public const QueuePairAttributeMask ToInit =
        QueuePairAttributeMask.State | QueuePairAttributeMask.PKeyIndex | QueuePairAttributeMask.Port
        | QueuePairAttributeMask.AccessFlags;

    public const QueuePairAttributeMask ToReadyToReceive =
        QueuePairAttributeMask.State | QueuePairAttributeMask.AddressVector | QueuePairAttributeMask.PathMtu
        | QueuePairAttributeMask.DestQpNumber | QueuePairAttributeMask.RqPsn | QueuePairAttributeMask.MaxDestRdAtomic
        | QueuePairAttributeMask.MinRnrTimer;

    public const QueuePairAttributeMask ToReadyToSend =
        QueuePairAttributeMask.State | QueuePairAttributeMask.Timeout | QueuePairAttributeMask.RetryCount
        | QueuePairAttributeMask.RnrRetry | QueuePairAttributeMask.SqPsn | QueuePairAttributeMask.MaxRdAtomic;

    public QueuePairAttributes Attributes { get; init; } = new()
    {
        AccessFlags = AccessFlags.RemoteWrite | AccessFlags.RemoteRead,
        PathMtu = PathMtu.Mtu1024,
        SqPsn = 0xA00000,
        RqPsn = 0xB00000,
        MaxRdAtomic = 16,
        MaxDestRdAtomic = 16,
        MinRnrTimer = 12,
        Timeout = 14,
        RetryCount = 7,
        RnrRetry = 7,
    };

    /// <summary>Sets exactly what the type needs, step by step.</summary>
    public void ApplyRequired(QueuePair pair)
    {
        foreach (QueuePairState state in new[]
            { QueuePairState.Init, QueuePairState.ReadyToReceive, QueuePairState.ReadyToSend })
        {
            Assert.True(QueuePairTransitions.TryGet(
                pair.State, state, pair.Type, out QueuePairAttributeMask required, out _));
            Assert.Equal(
                Errno.Success,
                pair.Modify(Attributes with { State = state }, required | QueuePairAttributeMask.State));
        }
    }

    public void Apply(QueuePair pair, QueuePairState upTo = QueuePairState.ReadyToSend)
    {
        (QueuePairState State, QueuePairAttributeMask Mask)[] steps =
        [
            (QueuePairState.Init, ToInit),
            (QueuePairState.ReadyToReceive, ToReadyToReceive),
            (QueuePairState.ReadyToSend, ToReadyToSend),
        ];
        foreach ((QueuePairState state, QueuePairAttributeMask mask) in steps)
        {
            if (state <= upTo)
            {
                Assert.Equal(Errno.Success, pair.Modify(Attributes with { State = state }, mask));
            }
        }
    }
}
