using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Linux;
using Wayleave.Linux.Buffers;
using Wayleave.Simulation;

namespace Wayleave.Lab.Guests;

/// <summary>
/// Where Core and the kernel meet in one buffer: a device of ours reaches the pages of a dma-buf, the processor waits
/// for a fence that only the kernel knows, and what the kernel signals by itself is signalled here.
/// </summary>
internal sealed class AdapterCases(AdapterDevices devices, Action<string, string, string> step) : IDisposable
{
    private const int Size = 65536;

    private readonly HostContext _host = new(TimeProvider.System);
    private readonly PciFabric _fabric = new();
    private SyncFileWatcher? _watcher;
    private Fence? _forgotten;

    /// <summary>Makes a fence that nobody will signal; vgem gives up on it after ten seconds.</summary>
    internal void Begin()
    {
        _watcher = new SyncFileWatcher(_host);
        using HostContext.Scope held = _host.Enter();
        _forgotten = _watcher.Follow(devices.Pending().File, "forgotten");
    }

    /// <summary>Asks the rest, and what became of that fence; that may take until its ten seconds are over.</summary>
    internal void End(string exporter)
    {
        Share(exporter);
        while (!_forgotten!.IsSignaled)
        {
            _watcher!.Wait(TimeSpan.FromSeconds(30));
        }

        step("FENCE-56", "error in Core of a fence that vgem gave up on", _forgotten.Error.ToString());
    }

    public void Dispose() => _watcher?.Dispose();

    private void Share(string exporter)
    {
        DmaBuf kernel = devices.Create(exporter, Size);
        using MappedMemory own = kernel.Map();
        SharedBuffer buffer;
        using (_host.Enter())
        {
            DmaBufExporter storage = new(_fabric, _watcher!, kernel, exporter);
            ExportInfo info = new(storage, exporter, kernel.SizeBytes);
            AdapterDevices.Required(SharedBuffer.TryExport(_host, info, out SharedBuffer? made), "export");
            buffer = made!;
            SimulatedImporter importer = new(_host, _fabric, buffer, "device");
            AcquireTicket ticket = new(_host, "lab");
            buffer.Reservation.TryLock(ticket);
            AdapterDevices.Required(importer.MapLocked(ticket), "map");
            importer.TryPublish();
            importer.Current!.Addresses.TryLocate(0, out DeviceAddress at, out _);
            importer.Port.TryWrite(at, Size, out Span<byte> window);
            window.Fill(0x5a);
            step("DBUF-45", "what a device of ours writes is in the kernel's dma-buf",
                own.GetSpan().ContainsAnyExcept((byte)0x5a) ? "no" : "yes");
            importer.DetachLocked(ticket);
            buffer.Reservation.Unlock(ticket);
        }

        uint job = devices.Attach(kernel, isWriter: true);
        using (_host.Enter())
        {
            step("DBUF-52", "Core's own reservation knows of the kernel's writer",
                buffer.Reservation.FirstUnsignaled(ReservationUsage.Bookkeep) is null ? "no" : "yes");
        }

        CpuAccess? access = Begin(buffer, "DBUF-52", "the processor begins to read under the kernel's writer");
        devices.Fences.TrySignal(job);
        while (_watcher!.Wait(TimeSpan.Zero) > 0)
        {
            // What came after may be ready too.
        }

        using (_host.Enter())
        {
            step("DBUF-52", "after the signal it waits for", $"{access!.FirstUnsignaled()?.Name ?? "nothing"}");
            step("DBUF-52", "and it ends", access.End(out _).ToString());
            buffer.Release();
            step("DBUF-52", "after the release a descriptor is still open",
                kernel.Descriptor.IsClosed ? "no" : "yes");
        }
    }

    private CpuAccess? Begin(SharedBuffer buffer, string name, string what)
    {
        using HostContext.Scope held = _host.Enter();
        Errno errno = buffer.TryBeginCpuAccess(DmaDirection.FromDevice, out CpuAccess? access);
        step(name, what, errno == Errno.Success
            ? access!.FirstUnsignaled() is { } fence ? $"has to wait for {fence.DriverName}" : "at once"
            : errno.ToString());
        return access;
    }
}
