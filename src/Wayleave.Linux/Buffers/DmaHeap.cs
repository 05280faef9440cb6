using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Buffers;

/// <summary>
/// One heap of <c>/dev/dma_heap</c>: hands out zeroed dma-bufs (<c>drivers/dma-buf/dma-heap.c</c>).
/// </summary>
public sealed unsafe class DmaHeap : IDisposable
{
    /// <summary>Where the heaps are.</summary>
    public const string Folder = "/dev/dma_heap";

    /// <summary>The heap of ordinary pages.</summary>
    public const string System = "system";

    private readonly FileDescriptor _heap;

    private DmaHeap(FileDescriptor heap, string name) => (_heap, Name) = (heap, name);

    /// <summary>Its file in <see cref="Folder"/>.</summary>
    public string Name { get; }

    /// <exception cref="LinuxException">ENOENT: no heap of that name. EACCES.</exception>
    public static DmaHeap Open(string name)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        return new DmaHeap(DeviceFile.Open($"{Folder}/{name}"), name);
    }

    /// <summary>The names of all heaps; empty when the kernel has none.</summary>
    public static IReadOnlyList<string> ListNames() => !Directory.Exists(Folder)
        ? []
        : [.. Directory.GetFiles(Folder).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal)];

    /// <summary><c>DMA_HEAP_IOCTL_ALLOC</c>: a buffer whose bytes are zero.</summary>
    /// <param name="sizeBytes">Rounded up to whole pages.</param>
    /// <param name="heapFlags">None is defined.</param>
    /// <param name="buffer">Readable and writable; owned by the caller.</param>
    /// <returns>EINVAL for no bytes or a flag, ENOMEM.</returns>
    public Errno TryAllocate(ulong sizeBytes, ulong heapFlags, out DmaBuf? buffer)
    {
        buffer = null;
        dma_heap_allocation_data argument = new()
        {
            len = sizeBytes,
            fd_flags = fcntl.O_RDWR | fcntl.O_CLOEXEC,
            heap_flags = heapFlags,
        };
        if (Libc.ioctl(_heap, dma_heap.DMA_HEAP_IOCTL_ALLOC, &argument) < 0)
        {
            return (Errno)Marshal.GetLastPInvokeError();
        }

        buffer = DmaBuf.Open(new FileDescriptor((int)argument.fd, ownsHandle: true));
        return Errno.Success;
    }

    public void Dispose() => _heap.Dispose();
}
