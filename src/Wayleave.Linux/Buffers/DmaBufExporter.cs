using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

namespace Wayleave.Linux.Buffers;

// Two reservations stand beside each other: Core's, with the fences of this host's devices, and the kernel's, with
// those of its drivers. An access of the processor waits for both: Core's by CpuAccess.FirstUnsignaled, the kernel's
// by the work that BeginCpuAccess names. A program cannot put a fence of its own into the kernel's (only a driver makes
// fences; vgem's are for tests), so drivers do not wait for this host's devices: whoever shares such a buffer with a
// driver waits for the host's fences before handing over.

/// <summary>
/// A dma-buf of the kernel's (udmabuf, a heap, a DRM driver) as the storage of a <see cref="SharedBuffer"/>: devices of
/// the host reach its pages, processes map them, and the kernel's own users keep their dma-buf.
/// </summary>
public sealed class DmaBufExporter : ICpuAccessExporter, IVmapExporter, IMmapExporter, IDisposable
{
    private readonly PciFabric _fabric;
    private readonly SyncFileWatcher _watcher;
    private readonly MappedMemory _memory;
    private readonly MemoryWindow _window;
    private readonly DmaAddressList _addresses;
    private bool _isReleased;

    /// <summary>Maps the buffer and gives it addresses. Host lock held by the caller.</summary>
    /// <param name="fabric">Through which devices reach it, as system memory.</param>
    /// <param name="watcher">Follows the kernel's fences. Stays the caller's, and outlives this object.</param>
    /// <param name="buffer">Owned by this object from now on, once this returns.</param>
    /// <param name="name">For people and proofs: <c>udmabuf 3</c>.</param>
    /// <exception cref="LinuxException">As <see cref="DmaBuf.Map"/>.</exception>
    public DmaBufExporter(PciFabric fabric, SyncFileWatcher watcher, DmaBuf buffer, string name)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        ArgumentNullException.ThrowIfNull(watcher);
        ArgumentNullException.ThrowIfNull(buffer);
        (_fabric, _watcher, Buffer, Name) = (fabric, watcher, buffer, name);
        _memory = buffer.Map();
        _window = fabric.AddWindow(_memory.Memory, owner: null);
        _addresses = new DmaAddressList([_window.Range]);
    }

    public string Name { get; }

    /// <summary>A dma-buf that a process holds does not move, and is not taken back from it.</summary>
    public StorageKind Storage => StorageKind.Static;

    /// <summary>To hand on to a driver or another process. Owned by this object.</summary>
    public DmaBuf Buffer { get; }

    public Errno Attach(Attachment attachment) => Errno.Success;

    public void Detach(Attachment attachment)
    {
        // An attachment by itself holds nothing.
    }

    public Errno Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        ArgumentNullException.ThrowIfNull(attachment);
        return _fabric.TryMap(attachment.Device, _addresses, out addresses);
    }

    public void Unmap(Attachment attachment, DmaAddressList addresses)
    {
        ArgumentNullException.ThrowIfNull(attachment);
        _fabric.Unmap(attachment.Device, addresses);
    }

    /// <inheritdoc/>
    /// <remarks>
    /// With fences of the kernel's pending, <paramref name="work"/> signals after they have and after
    /// <c>DMA_BUF_IOCTL_SYNC</c> was made; whoever waits drives the watcher. Without, the ioctl is made here: a fence
    /// that a driver adds between the look and the ioctl is waited for under the host lock, for as long as a driver's
    /// job lasts.
    /// </remarks>
    public Errno BeginCpuAccess(CpuAccess access, out CacheMaintenance maintenance, out Fence? work)
    {
        ArgumentNullException.ThrowIfNull(access);
        (maintenance, work) = (CacheMaintenance.None, null); // the kernel does it, in the ioctl
        BufferSync direction = DirectionOf(access);
        Errno errno = Buffer.TryExportSyncFile(direction, out KernelSyncFile? file);
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = file!.TryPoll(TimeSpan.Zero, out bool isSignaled);
        if (errno == Errno.Success && !isSignaled)
        {
            work = _watcher.Follow(file, Name, () => SyncLater(direction));
            return Errno.Success;
        }

        file.Dispose();
        return errno == Errno.Success ? Buffer.TrySync(direction) : errno;
    }

    public Errno EndCpuAccess(CpuAccess access, out CacheMaintenance maintenance)
    {
        ArgumentNullException.ThrowIfNull(access);
        maintenance = CacheMaintenance.None;
        return Buffer.TrySync(DirectionOf(access) | BufferSync.End);
    }

    public Errno Vmap(SharedBuffer buffer, out Memory<byte> memory)
    {
        memory = _memory.Memory;
        return Errno.Success;
    }

    public void Vunmap(SharedBuffer buffer)
    {
        // The mapping lasts as long as this object.
    }

    /// <summary>A process maps the dma-buf itself, by the descriptor.</summary>
    public Errno Mmap(CpuMapping mapping) => Errno.Success;

    public void Munmap(CpuMapping mapping)
    {
        // The kernel keeps the pages of a mapping by itself.
    }

    /// <summary>The pages go back to the kernel when nobody else holds the dma-buf.</summary>
    public void Release(SharedBuffer buffer) => LetGo();

    /// <summary>
    /// For a buffer that was never exported in Core; one that was lets go by its own release. Host lock held by the
    /// caller.
    /// </summary>
    public void Dispose() => LetGo();

    private static BufferSync DirectionOf(CpuAccess access) =>
        (access.Reads ? BufferSync.Read : BufferSync.None) | (access.Writes ? BufferSync.Write : BufferSync.None);

    private Errno SyncLater(BufferSync direction)
    {
        try
        {
            return Buffer.TrySync(direction);
        }
        catch (ObjectDisposedException)
        {
            return Errno.ENODEV; // released while an access waited to begin
        }
    }

    private void LetGo()
    {
        if (_isReleased)
        {
            return;
        }

        _isReleased = true;
        _fabric.RemoveWindow(_window);
        ((IDisposable)_memory).Dispose();
        Buffer.Dispose();
    }
}
