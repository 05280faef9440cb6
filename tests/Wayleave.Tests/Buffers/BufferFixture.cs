using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Buffers;

/// <summary>
/// One buffer of a test exporter, with the vocabulary of the tests around it. The host lock is held all the time.
/// </summary>
internal ref struct BufferFixture : IDisposable
{
    private readonly HostContext.Scope _scope;

    public BufferFixture()
        : this(StorageKind.Movable)
    {
    }

    public BufferFixture(StorageKind storage, CoreDefences without = CoreDefences.None)
    {
        Host = new HostContext(Clock, Trace) { Defences = CoreDefences.All & ~without };
        _scope = Host.Enter();
        Exporter = new TestExporter(storage);
        Buffer = Export(new ExportInfo(Exporter, "lent", 0x1000));
        Work = new Timeline(Host, "work");
    }

    public VirtualClock Clock { get; } = new();

    public TraceLog Trace { get; } = new();

    public HostContext Host { get; }

    public TestExporter Exporter { get; }

    public SharedBuffer Buffer { get; }

    /// <summary>Somebody's jobs on the buffer.</summary>
    public Timeline Work { get; }

    public static PciFunction Device { get; } = new("0000:02:00.0", "nic0");

    public readonly SharedBuffer Export(ExportInfo info)
    {
        Assert.Equal(Errno.Success, SharedBuffer.TryExport(Host, info, out SharedBuffer? buffer));
        return buffer!;
    }

    public readonly TestImporter NewImporter(ImporterKind kind = ImporterKind.Dynamic, uint? key = null) =>
        new(new Timeline(Host, "importer"), kind, key);

    public readonly Attachment Attach(IImporter? importer)
    {
        Assert.Equal(Errno.Success, Buffer.TryAttach(Device, importer, out Attachment? attachment));
        return attachment!;
    }

    public readonly AcquireTicket Lock()
    {
        AcquireTicket ticket = new(Host, "test");
        Assert.Equal(LockOutcomeKind.Acquired, Buffer.Reservation.TryLock(ticket).Kind);
        return ticket;
    }

    public readonly MapOutcome Map(Attachment attachment)
    {
        AcquireTicket ticket = Lock();
        MapOutcome outcome = attachment.MapLocked(ticket, DmaDirection.Bidirectional);
        Buffer.Reservation.Unlock(ticket);
        return outcome;
    }

    public readonly Errno Pin(Attachment attachment)
    {
        AcquireTicket ticket = Lock();
        Errno errno = attachment.PinLocked(ticket);
        Buffer.Reservation.Unlock(ticket);
        return errno;
    }

    public readonly Errno Unrevoke()
    {
        AcquireTicket ticket = Lock();
        Errno errno = Buffer.TryUnrevokeLocked(ticket);
        Buffer.Reservation.Unlock(ticket);
        return errno;
    }

    /// <summary>Something was recorded that the kernel would warn about, and nothing else was.</summary>
    public readonly void ExpectViolation(ViolationKind kind) =>
        Assert.Equal([kind], Host.Checker.Violations.Select(v => v.Kind).Distinct());

    public readonly Attachment AttachAndMap(IImporter? importer)
    {
        Attachment attachment = Attach(importer);
        if (importer is { Kind: ImporterKind.Pinned or ImporterKind.PinnedRevocable })
        {
            Assert.Equal(Errno.Success, Pin(attachment));
        }

        Assert.Equal(MapOutcomeKind.Mapped, Map(attachment).Kind);
        return attachment;
    }

    public readonly void Unmap(Attachment attachment)
    {
        AcquireTicket ticket = Lock();
        attachment.UnmapLocked(ticket);
        Buffer.Reservation.Unlock(ticket);
    }

    public readonly void Invalidate()
    {
        AcquireTicket ticket = Lock();
        Buffer.InvalidateMappings(ticket);
        Buffer.Reservation.Unlock(ticket);
    }

    public readonly Fence AddFence(ReservationUsage usage, Timeline? timeline = null)
    {
        Fence fence = (timeline ?? Work).CreateFence();
        AcquireTicket ticket = Lock();
        Buffer.Reservation.ReserveFences(ticket, 1);
        Buffer.Reservation.AddFence(ticket, fence, usage);
        Buffer.Reservation.Unlock(ticket);
        return fence;
    }

    public readonly void Dispose() => _scope.Dispose();
}

/// <summary>Keeps what was traced.</summary>
internal sealed class TraceLog : ITraceSink
{
    public List<TraceEvent> Events { get; } = [];

    public void Emit(in TraceEvent traceEvent) => Events.Add(traceEvent);
}
