using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Scenarios.TakeBack;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

/// <summary>How a region holds on to its memory, and whose memory that is.</summary>
internal enum PressedRegion
{
    /// <summary>The process's own, pinned for long.</summary>
    Pinned,

    /// <summary>The process's own, page by page.</summary>
    OnDemand,

    /// <summary>All of the process, on demand.</summary>
    Implicit,

    /// <summary>On demand, of a file that keeps what the process throws out of its table.</summary>
    Discarded,

    /// <summary>A buffer of the GPU, wherever it is.</summary>
    Dynamic,

    /// <summary>A buffer of the GPU, held in its place.</summary>
    PinnedRevocable,

    /// <summary>A buffer of the GPU, until it moves.</summary>
    LegacyPeer,
}

/// <summary>
/// A machine whose pages are not enough: a process with memory that its GPU works on, a NIC with a region of each kind,
/// another process, and a peer on another host. Takes the host lock itself.
/// </summary>
internal sealed class RegionPressureWorld
{
    /// <summary>Of each region, and of a message: two packets.</summary>
    public const int Bytes = 2 * PageFrame.SizeBytes;

    private const ulong UserVa = 0x10_0000;
    private const int OwnRanges = 4; // the process's, one of which the GPU has
    private const int MachinePages = 8; // of 16 that are wanted
    private const int TimesMax = 32;
    private const AccessFlags Access = AccessFlags.LocalWrite | AccessFlags.RemoteWrite;

    private static readonly PressedRegion[] s_buffers =
        [PressedRegion.Dynamic, PressedRegion.PinnedRevocable, PressedRegion.LegacyPeer];

    private readonly Dictionary<PressedRegion, AddressRange> _ranges = [];
    private readonly Dictionary<PressedRegion, GpuBuffer> _pressed = [];
    private readonly Dictionary<PressedRegion, MemoryRegion> _regions = [];
    private readonly Queue<MemoryRegion> _faults = [];
    private readonly MemoryFile _file;
    private readonly AddressSpace _space;
    private readonly AddressRange _user;
    private readonly List<Step> _next = []; // of each actor
    private int _running;
    private int _timePassed; // times in a row that nobody else has done anything

    public RegionPressureWorld(Choices choices, CoreDefences core, GpuOptions options)
    {
        Story = new Story(choices);
        Host = new HostContext(Clock, choices.IsTold ? Story : null) { Defences = core };
        byte[] bytes = new byte[MachinePages * PageFrame.SizeBytes];
        using (Host.Enter())
        {
            Memory = new MemorySystem(Host, swapPages: 32);
            Memory.AddMemory(bytes, Fabric.AddWindow(bytes, owner: null).Range.Start);
            (_space, Other) = (new AddressSpace(Memory, "process"), new AddressSpace(Memory, "other"));
            AddressRange own = Map(_space, new RegionRequest { LengthBytes = OwnRanges * Bytes });
            _ranges.Add(PressedRegion.Pinned, At(own, 0));
            _ranges.Add(PressedRegion.OnDemand, At(own, 1));
            _ranges.Add(PressedRegion.Implicit, At(own, 2));
            _user = At(own, 3);
            _file = MemoryFile.OfSharedMemory(Memory, "file", Bytes);
            _ranges.Add(PressedRegion.Discarded, Map(
                _space,
                new RegionRequest { LengthBytes = Bytes, Kind = RegionKind.File, File = _file, IsShared = true }));
            OtherRange = Map(Other, new RegionRequest { LengthBytes = 3 * Bytes });
            Gpu = new GpuDevice(
                Host,
                Fabric,
                new PciFunction("0000:01:00.0", "gpu0"),
                options with { GranularityBytes = Bytes, CopyBlockBytes = Bytes / 2, ComputeBlockBytes = Bytes / 2 },
                [new byte[s_buffers.Length * Bytes]],
                [new byte[s_buffers.Length * Bytes]]);
            Process = Gpu.OpenProcess("process");
            World.Require(
                Errno.Success,
                Process.TryOpenUserPointer(
                    _space, _user, GpuAccess.ReadWrite, out uint handle, GpuUserMemory.WaitForFences));
            World.Require(Errno.Success, Process.Memory.TryMap(UserVa, handle, 0, Bytes, GpuAccess.ReadWrite));
            Jobs = Process.CreateQueue("jobs");
            foreach (PressedRegion kind in s_buffers)
            {
                World.Require(
                    Errno.Success,
                    Gpu.TryCreate(new GpuBufferInfo($"{kind}", Bytes, StorageKind.Movable), out GpuBuffer? buffer));
                _pressed.Add(kind, buffer!);
            }
        }

        Gpu.CopyEngine.Drive(int.MaxValue); // they are cleared before anybody acts
        Nic = new RdmaEnd(
            Host, Clock, Fabric, new PciFunction("0000:03:00.0", "rdma0"), 0x0A4D0002, seed: 2);
        foreach (PressedRegion kind in Enum.GetValues<PressedRegion>())
        {
            _regions.Add(kind, Register(kind));
        }

        Peer = new RegionPressurePeer(Clock);
        RdmaEnd.Connect(Nic, Peer.Nic);
    }

    public Story Story { get; }

    public VirtualClock Clock { get; } = new();

    public HostContext Host { get; }

    public PciFabric Fabric { get; } = new();

    public MemorySystem Memory { get; }

    /// <summary>A process that has nothing to do with any device.</summary>
    public AddressSpace Other { get; }

    public AddressRange OtherRange { get; }

    public GpuDevice Gpu { get; }

    public GpuProcess Process { get; }

    /// <summary>Of jobs with fences.</summary>
    public ComputeQueue Jobs { get; }

    public RdmaEnd Nic { get; }

    public RegionPressurePeer Peer { get; }

    /// <summary>What the GPU works on.</summary>
    public static GpuCommand Fill(uint value) =>
        new() { Opcode = GpuOpcode.Fill, Target = UserVa, Value = value, Count = Bytes };

    public GpuBuffer BufferOf(PressedRegion kind) => _pressed[kind];

    /// <summary>Where a peer writes, and by which key.</summary>
    public (uint Key, ulong Address) TargetOf(PressedRegion kind) =>
        (_regions[kind].Key, _ranges.TryGetValue(kind, out AddressRange range) ? range.Start : 0UL);

    /// <summary>Whether the key of a region has died, and nobody is at work on its buffer.</summary>
    public bool CanReplace(PressedRegion kind) =>
        _regions[kind].State == MemoryRegionState.Dead && _pressed[kind].Shared.Reservation.Owner is null;

    /// <summary>Ends a region whose key is dead, and registers the same buffer again.</summary>
    public void Replace(PressedRegion kind)
    {
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "deregister");
            Reservation reservation = _pressed[kind].Shared.Reservation;
            reservation.TryLock(ticket);
            if (Nic.Device.DeregisterLocked(ticket, _regions[kind]) is not null)
            {
                throw new InvalidOperationException("a region is in use between two steps");
            }

            reservation.Unlock(ticket);
        }

        _regions[kind] = Register(kind);
    }

    /// <summary>The process throws these pages out of its table; the file keeps the bytes.</summary>
    public ChangeOperation Discard() => Locked(() => _space.Discard(_ranges[PressedRegion.Discarded]));

    /// <summary>The process reads what peers write.</summary>
    public AccessOperation Read(PressedRegion kind, byte[] bytes) =>
        Locked(() => _space.Read(_ranges[kind].Start, bytes));

    /// <summary>Everybody has ended: each byte is the last that was written there, and nothing is anybody's.</summary>
    public void ExpectEnd(IReadOnlyDictionary<PressedRegion, byte> written, uint filled, ReadOnlySpan<byte> others)
    {
        byte[] bytes = new byte[Bytes];
        foreach ((PressedRegion kind, byte value) in written)
        {
            Look(kind, bytes);
            Expect($"{kind}", bytes, value);
        }

        using (Host.Enter())
        {
            Finish(_space.Read(_user.Start, bytes));
            Expect("memory of the GPU's jobs", bytes, (byte)filled);
            for (int page = 0; page < others.Length; page++)
            {
                byte[] one = new byte[PageFrame.SizeBytes];
                Finish(Other.Read(OtherRange.Start + (ulong)(page * PageFrame.SizeBytes), one));
                Expect("memory of another process", one, others[page]);
            }

            foreach (PressedRegion kind in _ranges.Keys)
            {
                World.Require(
                    Errno.Success, RegionRegistration.TryDeregister(Nic.Device, _regions[kind], out Fence? drain));
                World.Require(drain is null ? Errno.Success : Errno.EBUSY, Errno.Success);
            }

            Process.Close();
            Finish(_space.Exit());
            Finish(Other.Exit());
            if (Memory.FreePages + _file.CachedPages != Memory.PageCount)
            {
                throw new ViolationException("pages are still somebody's when every process has ended");
            }

            if (Host.Checker.Violations is [{ } first, ..])
            {
                throw new ViolationException(first.ToString());
            }
        }
    }

    public T Locked<T>(Func<T> action)
    {
        using (Host.Enter())
        {
            return action();
        }
    }

    /// <summary>Drives an operation that must go well.</summary>
    public IEnumerable<Step> Complete(SpaceOperation operation)
    {
        foreach (Step step in operation.Drive(Host))
        {
            yield return step;
        }

        World.Require(Errno.Success, operation.Errno);
    }

    public Scenario ToScenario(Action atEnd, params ReadOnlySpan<(string Name, IEnumerable<Step> Steps)> actors)
    {
        List<Actor> all = [];
        foreach ((string name, IEnumerable<Step> steps) in actors)
        {
            _running++;
            all.Add(new Actor(name, Watched(steps)));
        }

        Service[] services =
        [
            new("nic", () => Nic.HasWork, WorkOnNic),
            new("peer's nic", () => Peer.Nic.HasWork, () => Peer.Nic.Work()),
            new("copies", () => Gpu.CopyEngine.HasReadyJob, () => Step(Gpu.CopyEngine)),
            new("engine", () => Gpu.ComputeEngine.HasReadyJob, () => Step(Gpu.ComputeEngine)),
            new("faults", () => _faults.Count > 0, () => Nic.Serve(_faults.Dequeue())),
            new("clock", IsIdle, PassTime),
        ];
        all.AddRange(services.Select(s => new Actor(s.Name, Run(s))));
        Story.Take();
        return new Scenario(all, Invariant: () => { }, AtEnd: atEnd, Narrate: Story.Take);
    }

    private TimeSpan? NextDeadline => Nic.NextDeadline is { } a && Peer.Nic.NextDeadline is { } b
        ? (a < b ? a : b)
        : Nic.NextDeadline ?? Peer.Nic.NextDeadline;

    private static AddressRange At(AddressRange all, int index) => new(all.Start + (ulong)(index * Bytes), Bytes);

    private static AddressRange Map(AddressSpace space, RegionRequest request)
    {
        MapOperation map = space.Map(request);
        Finish(map);
        return map.Addresses;
    }

    private static void Expect(string whose, ReadOnlySpan<byte> bytes, byte value)
    {
        int at = bytes.IndexOfAnyExcept(value);
        if (at >= 0)
        {
            throw new ViolationException(
                $"{whose} holds 0x{bytes[at]:x2} at {at}, and 0x{value:x2} was written there");
        }
    }

    private static void Finish(SpaceOperation operation)
    {
        if (!operation.Proceed())
        {
            throw new ViolationException($"{operation.Activity.Label} waits at '{operation.Next}'");
        }

        World.Require(Errno.Success, operation.Errno);
    }

    private static void Step(CopyEngine engine)
    {
        engine.TryEnter();
        engine.Step();
        engine.Exit();
    }

    private static void Step(QueueEngine engine)
    {
        engine.TryEnter();
        engine.Step();
        engine.Exit();
    }

    // Time passes when nothing of the devices can; not for ever while somebody else can, or a peer that is told to come
    // again would do so for ever.
    private bool IsIdle() => _running > 0 && !Nic.HasWork && !Peer.Nic.HasWork && _faults.Count == 0
        && !Gpu.CopyEngine.HasReadyJob && !Gpu.ComputeEngine.HasReadyJob && NextDeadline is not null
        && (_timePassed < TimesMax || !_next.Exists(s => s.Ready?.Invoke() != false));

    private void PassTime()
    {
        _timePassed++;
        Clock.AdvanceTo(NextDeadline!.Value);
    }

    private IEnumerable<Step> Watched(IEnumerable<Step> steps)
    {
        int index = _next.Count;
        _next.Add(new Step("begin"));
        foreach (Step step in steps)
        {
            _next[index] = step;
            yield return step;
            _timePassed = 0;
        }

        _next[index] = new Step("end", () => false);
        _running--;
    }

    private void WorkOnNic()
    {
        Nic.Work();
        while (Nic.TryTakeFault(out MemoryRegion? region))
        {
            _faults.Enqueue(region!);
        }
    }

    private IEnumerable<Step> Run(Service service)
    {
        while (true)
        {
            yield return new Step("serve", () => service.HasWork() || _running == 0);
            if (!service.HasWork())
            {
                yield break;
            }

            service.Work();
        }
    }

    private void Look(PressedRegion kind, byte[] bytes)
    {
        if (_pressed.TryGetValue(kind, out GpuBuffer? buffer))
        {
            DeviceRange range = buffer.Placement.LocalAddresses.Entries[0];
            World.Require(
                Errno.Success, new DmaPort(Gpu.Function).TryRead(range.Start, Bytes, out ReadOnlySpan<byte> found));
            found.CopyTo(bytes);
            return;
        }

        using (Host.Enter())
        {
            Finish(_space.Read(_ranges[kind].Start, bytes));
        }
    }

    private MemoryRegion Register(PressedRegion kind) => _ranges.TryGetValue(kind, out AddressRange range)
        ? RegisterOwn(kind, range)
        : RegisterBuffer(kind);

    private MemoryRegion RegisterOwn(PressedRegion kind, AddressRange range)
    {
        AccessFlags paging = kind == PressedRegion.Pinned ? AccessFlags.None : AccessFlags.OnDemand;
        SpaceRegionRequest request = kind == PressedRegion.Implicit
            ? new SpaceRegionRequest(_space, new AddressRange(0, ulong.MaxValue), 0, Access | paging)
            : new SpaceRegionRequest(_space, range, range.Start, Access | paging);
        using (Host.Enter())
        {
            RegionRegistration registration = RegionRegistration.Start(Nic.Device, Nic.Domain, request);
            World.Require(Errno.Success, registration.Errno);
            return registration.Region!;
        }
    }

    private MemoryRegion RegisterBuffer(PressedRegion kind)
    {
        SharedBuffer buffer = _pressed[kind].Shared;
        ImporterKind importer = kind == PressedRegion.PinnedRevocable
            ? ImporterKind.PinnedRevocable
            : ImporterKind.Dynamic;
        MemoryRegionRequest request = new(0, Bytes, 0, Access, importer)
        {
            IsLegacyPeer = kind == PressedRegion.LegacyPeer,
        };
        MemoryRegion? region;
        Fence? wait;
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "register");
            buffer.Reservation.TryLock(ticket);
            World.Require(
                Errno.Success, Nic.Device.RegisterLocked(ticket, Nic.Domain, buffer, request, out region, out wait));
            buffer.Reservation.Unlock(ticket);
        }

        if (wait is not null)
        {
            Nic.Serve(region!);
        }

        return region!;
    }
}
