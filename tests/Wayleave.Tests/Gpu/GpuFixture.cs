using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Gpu;

/// <summary>
/// A GPU with four pages of each memory, and the vocabulary of its tests. Takes the host lock itself.
/// </summary>
internal sealed class GpuFixture
{
    public const ulong Page = 0x1000;

    public GpuFixture(GpuOptions? options = null, ulong vramPages = 4, ulong systemPages = 4)
        : this(new PciFabric(), new PciFunction("0000:01:00.0", "gpu0"), options, vramPages, systemPages)
    {
    }

    /// <summary>In a tree of its own.</summary>
    public GpuFixture(
        PciFabric fabric,
        PciFunction function,
        GpuOptions? options = null,
        ulong vramPages = 4,
        ulong systemPages = 4)
    {
        (Fabric, Function) = (fabric, function);
        Host = new HostContext(Clock, Trace);
        Vram = new byte[vramPages * Page];
        System = new byte[systemPages * Page];
        using (Host.Enter())
        {
            if (Fabric.Topology.Find("b") is null)
            {
                Fabric.Plug(Nic);
            }

            GpuOptions copied = options ?? new GpuOptions { CopyBlockBytes = 0x400 };
            Gpu = new GpuDevice(Host, Fabric, Function, copied, [Vram], [System]);
            Work = new Timeline(Host, "work");
        }
    }

    public VirtualClock Clock { get; } = new();

    public TraceLog Trace { get; } = new();

    public HostContext Host { get; }

    public PciFabric Fabric { get; }

    public PciFunction Function { get; }

    public PciFunction Nic { get; } = new("0000:02:00.0", "nic0");

    public byte[] Vram { get; }

    public byte[] System { get; }

    public GpuDevice Gpu { get; }

    public Timeline Work { get; }

    public GpuStats Stats => Locked(() => Gpu.Stats);

    public T Locked<T>(Func<T> action)
    {
        using (Host.Enter())
        {
            return action();
        }
    }

    public void Locked(Action action)
    {
        using (Host.Enter())
        {
            action();
        }
    }

    public Errno TryCreate(
        string name,
        ulong pages,
        out GpuBuffer? buffer,
        StorageKind storage = StorageKind.Movable,
        GpuDomain domain = GpuDomain.Vram)
    {
        using (Host.Enter())
        {
            return Gpu.TryCreate(new GpuBufferInfo(name, pages * Page, storage, domain), out buffer);
        }
    }

    /// <summary>A cleared buffer.</summary>
    public GpuBuffer Create(
        string name = "a",
        ulong pages = 1,
        StorageKind storage = StorageKind.Movable,
        GpuDomain domain = GpuDomain.Vram)
    {
        Assert.Equal(Errno.Success, TryCreate(name, pages, out GpuBuffer? buffer, storage, domain));
        Run();
        return buffer!;
    }

    /// <summary>The engine runs until nothing is ready.</summary>
    public int Run() => Gpu.CopyEngine.Drive(int.MaxValue);

    public MoveOperation Evict(GpuBuffer buffer) => Locked(() => Gpu.Evict(buffer));

    public MoveOperation Restore(GpuBuffer buffer) => Locked(() => Gpu.Restore(buffer));

    public RevokeOperation Free(GpuBuffer buffer) => Locked(() => Gpu.Free(buffer, new RevokePolicy()));

    public TestImporter NewImporter(ImporterKind kind = ImporterKind.Dynamic) =>
        Locked(() => new TestImporter(new Timeline(Host, "importer"), kind, key: 7));

    public Attachment Attach(GpuBuffer buffer, IImporter? importer) => Locked(() =>
    {
        Assert.Equal(Errno.Success, buffer.Shared.TryAttach(Nic, importer, out Attachment? attachment));
        return attachment!;
    });

    public Errno Pin(Attachment attachment) => WithReservation(attachment.Buffer, attachment.PinLocked);

    public MapOutcome Map(Attachment attachment) =>
        WithReservation(attachment.Buffer, ticket => attachment.MapLocked(ticket, DmaDirection.Bidirectional));

    public T WithReservation<T>(SharedBuffer buffer, Func<AcquireTicket, T> action)
    {
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "test");
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Reservation.TryLock(ticket).Kind);
            T result = action(ticket);
            buffer.Reservation.Unlock(ticket);
            return result;
        }
    }

    public bool IsIdle(GpuBuffer buffer) =>
        Locked(() => buffer.Shared.Reservation.TestSignaled(ReservationUsage.Kernel));

    /// <summary>The bytes at a buffer's present place.</summary>
    public Span<byte> Bytes(GpuBuffer buffer) => Bytes(buffer.Placement);

    public Span<byte> Bytes(GpuPlacement placement)
    {
        DeviceRange range = Assert.Single(placement.LocalAddresses.Entries.ToArray());
        Assert.Equal(
            Errno.Success,
            new DmaPort(Function).TryWrite(range.Start, (int)range.LengthBytes, out Span<byte> bytes));
        return bytes;
    }
}
