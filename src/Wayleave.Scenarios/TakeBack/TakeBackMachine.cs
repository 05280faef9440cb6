using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.TakeBack;

// The machine of the workload. All devices are the shipped ones and move real bytes; only what time they take is said
// from outside. The process's memory, as the second GPU sees it from UserVa on and the NIC from its own address on:
//
//   Slots messages   written by the peer over RDMA
//   Slots messages   results, written by the second GPU
//
// and a page of its own, the status: how far the first GPU is, written by that GPU's driver as a job ends. It is locked
// into memory where time is measured, so that what is taken back is the devices'; where circles are looked for it is
// not.

/// <summary>
/// One machine with a process, two GPUs and a NIC, and a peer that writes to it. Takes the host lock itself.
/// </summary>
internal sealed class TakeBackMachine
{
    public const ulong UserVa = 0x10_0000;
    public const ulong StatusVa = 0x800_0000; // where the second GPU's queue waits for the first
    public const ulong ResultVa = 0x1000_0000; // of the first GPU's results, in the second
    public const ulong LocalVa = 0x2000_0000; // of the second GPU's own memory
    public const ulong RingVa = 0x3000_0000;
    public const uint RingCommands = 64;
    public const int Page = PageFrame.SizeBytes;

    private const AccessFlags Access = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead;

    private readonly TakeBackOptions _options;
    private readonly DeviceAddress _ringAt;
    private uint _landingHandle;

    public TakeBackMachine(
        TakeBackStrategy strategy,
        TakeBackOptions options,
        VirtualClock clock,
        ITraceSink? trace = null,
        CheckerOptions? checks = null,
        int? slackPages = null)
    {
        (Strategy, _options, Clock) = (strategy, options, clock);
        Host = new HostContext(clock, trace, checks);
        int pages = 2 * options.Slots * options.MessageBytes / Page;
        byte[] memory = new byte[(pages + 1 + (slackPages ?? ((pages / 4) + 2))) * Page];
        int message = options.MessageBytes;
        byte[] vram0 = new byte[4 * message];
        byte[] vram1 = new byte[(RingCommands * GpuCommand.SizeBytes) + Page + (2 * message)];
        using (Host.Enter())
        {
            Memory = new MemorySystem(Host, swapPages: 4L * pages);
            Memory.AddMemory(memory, Fabric.AddWindow(memory, owner: null).Range.Start);
            Space = new AddressSpace(Memory, "process");
            MapOperation map = Space.Map(new RegionRequest { LengthBytes = (ulong)(pages * Page) });
            Finish(map);
            User = map.Addresses;
            Finish(Space.Write(User.Start, new byte[pages * Page]));
            MapOperation status = Space.Map(new RegionRequest { LengthBytes = Page, Name = "status" });
            Finish(status);
            Status = status.Addresses;
            Finish(Space.Write(Status.Start, new byte[Page]));
            if (slackPages is null)
            {
                Finish(Space.Pin(Status, PinMode.Pin | PinMode.LongTerm | PinMode.Write)); // for as long as this lives
            }

            Other = new AddressSpace(Memory, "another process");
            MapOperation other = Other.Map(new RegionRequest { LengthBytes = Page });
            Finish(other);
            OtherMemory = other.Addresses;
            GpuOptions gpu = new() { GranularityBytes = Page, ComputeBlockBytes = Page, CopyBlockBytes = Page };
            Gpu0 = new GpuDevice(
                Host, Fabric, new PciFunction("0000:01:00.0", "gpu0"), gpu, [vram0], [new byte[2 * message]]);
            Gpu1 = new GpuDevice(
                Host, Fabric, new PciFunction("0000:02:00.0", "gpu1"), gpu, [vram1], [new byte[Page]]);
        }

        Nic = new RdmaEnd(
            Host, clock, Fabric, new PciFunction("0000:03:00.0", "rdma0"), address: 0x0A4D0002, seed: 2);
        Landing = MakeLanding();
        Result = Make(Gpu0, "results", (ulong)message);
        GpuBuffer local = Make(Gpu1, "local", (ulong)message);
        GpuBuffer ring = Make(Gpu1, "ring", RingCommands * GpuCommand.SizeBytes);
        _ringAt = ring.Placement.LocalAddresses.Entries[0].Start;
        using (Host.Enter())
        {
            Process0 = Gpu0.OpenProcess("process");
            Process1 = Gpu1.OpenProcess("process");
            Open(Process0, Landing.Shared, out _landingHandle);
            Open(Process0, Result.Shared, out uint result);
            ResultHandle = result;
            Map(Process1, Result.Shared, ResultVa);
            Map(Process1, local.Shared, LocalVa);
            Map(Process1, ring.Shared, RingVa);
            OpenUserMemory(User, UserVa);
            Queue0 = Process0.CreateQueue("jobs");
            Completion = new Activity(Host, ActivityKind.Engine, "gpu0 driver");
            Reports = new Timeline(Host, "gpu0 driver", Completion);
            if (strategy.UsesUserQueue)
            {
                World.Require(
                    Errno.Success,
                    Process1.TryCreateUserQueue("queue", RingVa, RingCommands, out UserQueue? queue));
                UserQueue1 = queue;
                OpenUserMemory(Status, StatusVa);
            }
            else
            {
                Queue1 = Process1.CreateQueue("jobs");
            }
        }

        UserRegion = RegisterUserMemory();
        LandingRegion = RegisterLanding();
        using (Host.Enter())
        {
            if (strategy.UsesUserQueue)
            {
                Process1.Eviction.Start();
            }
        }
    }

    public TakeBackStrategy Strategy { get; }

    public VirtualClock Clock { get; }

    public HostContext Host { get; }

    public PciFabric Fabric { get; } = new();

    public MemorySystem Memory { get; }

    public AddressSpace Space { get; }

    /// <summary>The process's memory that devices use.</summary>
    public AddressRange User { get; }

    /// <summary>How far the first GPU is: a page that no device uses but the queue that waits for it.</summary>
    public AddressRange Status { get; }

    /// <summary>A process that has nothing to do with any device, and needs memory too.</summary>
    public AddressSpace Other { get; }

    public AddressRange OtherMemory { get; }

    public GpuDevice Gpu0 { get; }

    public GpuDevice Gpu1 { get; }

    public GpuProcess Process0 { get; }

    public GpuProcess Process1 { get; }

    public ComputeQueue Queue0 { get; }

    /// <summary>Of jobs with fences; null for a user queue.</summary>
    public ComputeQueue? Queue1 { get; }

    public UserQueue? UserQueue1 { get; }

    public RdmaEnd Nic { get; }

    /// <summary>In the first GPU's memory, where the peer writes.</summary>
    public GpuBuffer Landing { get; private set; }

    public GpuBuffer Result { get; }

    public uint ResultHandle { get; }

    public uint LandingHandle => _landingHandle;

    /// <summary>The NIC's region over the process's memory.</summary>
    public MemoryRegion UserRegion { get; }

    /// <summary>The NIC's region over <see cref="Landing"/>: dead after it was taken back, until the next.</summary>
    public MemoryRegion LandingRegion { get; private set; }

    /// <summary>
    /// Who runs when a job of the first GPU has ended: its driver, which tells the program in the program's own memory
    /// before it signals the fence that the program was given.
    /// </summary>
    public Activity Completion { get; }

    /// <summary>The fences that <see cref="Completion"/> signals.</summary>
    public Timeline Reports { get; }

    public ulong InputOffset(int slot) => (ulong)(slot * _options.MessageBytes);

    public ulong OutputOffset(int slot) => (ulong)((_options.Slots + slot) * _options.MessageBytes);

    /// <summary>The program writes a command of the second GPU's user queue.</summary>
    /// <param name="index">Counted from the first ever.</param>
    /// <param name="command">What.</param>
    public void WriteCommand(ulong index, in GpuCommand command)
    {
        DeviceAddress at = _ringAt + (index % RingCommands * GpuCommand.SizeBytes);
        World.Require(
            Errno.Success, new DmaPort(Gpu1.Function).TryWrite(at, GpuCommand.SizeBytes, out Span<byte> bytes));
        command.Write(bytes);
    }

    /// <summary>Both copy engines until nothing is ready: for set-up, before time counts.</summary>
    public void DriveCopies()
    {
        Gpu0.CopyEngine.Drive(int.MaxValue);
        Gpu1.CopyEngine.Drive(int.MaxValue);
    }

    /// <summary>Whether the first GPU has room for another buffer to write to.</summary>
    public bool HasRoom => Gpu0.Memory(GpuDomain.Vram).FreeBytes >= (ulong)_options.MessageBytes;

    /// <summary>Whether nobody is at work on the landing buffer, or on the one that the dead region was over.</summary>
    public bool CanRegister =>
        Landing.Shared.Reservation.Owner is null && LandingRegion.Buffer?.Reservation.Owner is null;

    /// <summary>
    /// After a revoke: another buffer for the peer to write to. False while there is no room for one.
    /// </summary>
    public bool TryReplaceLanding()
    {
        uint old = _landingHandle;
        GpuBuffer? next;
        using (Host.Enter())
        {
            if (Gpu0.TryCreate(LandingInfo, out next) != Errno.Success)
            {
                return false;
            }

            World.Require(Errno.Success, Process0.TryOpen(next!.Shared, GpuAccess.ReadWrite, out _landingHandle));
            World.Require(Errno.Success, Process0.TryClose(old));
        }

        Landing = next;
        return true;
    }

    /// <summary>
    /// Ends the dead region over the old buffer and registers the present one; false while its bytes are on their way,
    /// or a packet is inside.
    /// </summary>
    public bool TryRegisterAnew()
    {
        MemoryRegion old = LandingRegion;
        if (old.Buffer is { } buffer)
        {
            using (Host.Enter())
            {
                AcquireTicket ticket = new(Host, "deregister");
                if (buffer.Reservation.TryLock(ticket).Kind != LockOutcomeKind.Acquired)
                {
                    return false;
                }

                bool isInUse = Nic.Device.DeregisterLocked(ticket, old) is not null;
                buffer.Reservation.Unlock(ticket);
                if (isInUse)
                {
                    return false;
                }
            }
        }

        LandingRegion = RegisterLanding();
        return true;
    }

    public void Locked(Action action)
    {
        using (Host.Enter())
        {
            action();
        }
    }

    public T Locked<T>(Func<T> action)
    {
        using (Host.Enter())
        {
            return action();
        }
    }

    private void OpenUserMemory(AddressRange range, ulong address)
    {
        World.Require(
            Errno.Success,
            Process1.TryOpenUserPointer(Space, range, GpuAccess.ReadWrite, out uint handle, Strategy.UserMemory));
        World.Require(
            Errno.Success, Process1.Memory.TryMap(address, handle, 0, range.LengthBytes, GpuAccess.ReadWrite));
    }

    private GpuBufferInfo LandingInfo => new(
        "landing", (ulong)_options.MessageBytes, Strategy.Revokes ? StorageKind.Revocable : StorageKind.Movable);

    private GpuBuffer MakeLanding()
    {
        GpuBuffer? made;
        using (Host.Enter())
        {
            World.Require(Errno.Success, Gpu0.TryCreate(LandingInfo, out made));
        }

        DriveCopies();
        return made!;
    }

    private GpuBuffer Make(GpuDevice gpu, string name, ulong bytes)
    {
        GpuBuffer? made;
        using (Host.Enter())
        {
            World.Require(Errno.Success, gpu.TryCreate(new GpuBufferInfo(name, bytes, StorageKind.Movable), out made));
        }

        DriveCopies();
        return made!;
    }

    private static void Open(GpuProcess process, SharedBuffer buffer, out uint handle) =>
        World.Require(Errno.Success, process.TryOpen(buffer, GpuAccess.ReadWrite, out handle));

    private static void Map(GpuProcess process, SharedBuffer buffer, ulong address)
    {
        Open(process, buffer, out uint handle);
        World.Require(
            Errno.Success, process.Memory.TryMap(address, handle, 0, buffer.SizeBytes, GpuAccess.ReadWrite));
    }

    private MemoryRegion RegisterUserMemory()
    {
        using (Host.Enter())
        {
            AccessFlags paging = Strategy.NicPagesOnDemand ? AccessFlags.OnDemand : AccessFlags.None;
            RegionRegistration registration = RegionRegistration.Start(
                Nic.Device, Nic.Domain, new SpaceRegionRequest(Space, User, User.Start, Access | paging));
            World.Require(Errno.Success, registration.Errno);
            return registration.Region!;
        }
    }

    private MemoryRegion RegisterLanding()
    {
        SharedBuffer buffer = Landing.Shared;
        MemoryRegionRequest request = new(0, buffer.SizeBytes, 0, Access, Strategy.NicKind)
        {
            IsLegacyPeer = Strategy.IsLegacyPeer,
        };
        MemoryRegion? region;
        Fence? wait;
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "register");
            if (buffer.Reservation.TryLock(ticket).Kind != LockOutcomeKind.Acquired)
            {
                throw new ViolationException("the landing buffer is locked while nobody is at work on it");
            }

            World.Require(
                Errno.Success,
                Nic.Device.RegisterLocked(ticket, Nic.Domain, buffer, request, out region, out wait));
            buffer.Reservation.Unlock(ticket);
        }

        if (wait is not null)
        {
            Nic.Serve(region!);
        }

        return region!;
    }

    private static void Finish(SpaceOperation operation)
    {
        if (!operation.Proceed())
        {
            throw new InvalidOperationException($"{operation} waits, and nobody else is at work");
        }

        World.Require(Errno.Success, operation.Errno);
    }
}
