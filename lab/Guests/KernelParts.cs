using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;
using Wayleave.Linux.Buffers;
using Wayleave.Scenarios.Conformance;

namespace Wayleave.Lab.Guests;

/// <summary>
/// Core's buffers over the kernel's: the storage is a dma-buf, every fence follows one of vgem's, and a job's fence
/// stands in the kernel's reservation as well.
/// </summary>
internal sealed class KernelParts : ICoreParts, IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(5);

    private readonly AdapterDevices _devices;
    private readonly string _exporter;
    private readonly HostContext _host = new(TimeProvider.System);
    private readonly PciFabric _fabric = new();
    private readonly SyncFileWatcher _watcher;
    private readonly Dictionary<Fence, uint> _numbers = [];

    internal KernelParts(AdapterDevices devices, string exporter)
    {
        (_devices, _exporter) = (devices, exporter);
        _watcher = new SyncFileWatcher(_host);
    }

    internal CoreBackend CreateBackend() => new(_host, this);

    public IExporter CreateStorage(int size) =>
        new DmaBufExporter(_fabric, _watcher, _devices.Create(_exporter, size), _exporter);

    public Fence CreateFence(string name, IExporter? storage, bool isWriter)
    {
        (KernelSyncFile file, uint number) = _devices.Pending();
        if (storage is DmaBufExporter { Buffer: DmaBuf buffer })
        {
            BufferSync flags = isWriter ? BufferSync.Write : BufferSync.Read;
            AdapterDevices.Required(buffer.TryImportSyncFile(flags, file.Descriptor), "IMPORT_SYNC_FILE");
        }

        Fence fence = _watcher.Follow(file, name);
        _numbers.Add(fence, number);
        return fence;
    }

    public void Signal(Fence fence)
    {
        _devices.Fences.TrySignal(_numbers[fence]);
        while (!fence.IsSignaled)
        {
            _watcher.Wait(s_patience);
        }
    }

    public void Settle()
    {
        while (_watcher.Wait(TimeSpan.Zero) > 0)
        {
            // What came after may be ready too.
        }
    }

    public void Dispose() => _watcher.Dispose();
}
