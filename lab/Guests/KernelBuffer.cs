using System.Text;
using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Guests;

/// <summary>A dma-buf of the kernel's, by its file descriptor. Each method is one system call.</summary>
internal sealed unsafe class KernelBuffer(int fd, int size) : IDisposable
{
    internal int Fd { get; } = fd;

    /// <summary>Bytes.</summary>
    internal int Size { get; } = size;

    /// <summary>A udmabuf over a fresh memfd.</summary>
    internal static KernelBuffer Udmabuf(int size)
    {
        int memory = MemFd(size, Libc.F_SEAL_SHRINK);
        int fd = TryUdmabuf(memory, 0, (ulong)size);
        KernelResult.Required(fd, "UDMABUF_CREATE");
        Libc.close(memory);
        return new KernelBuffer(fd, size);
    }

    /// <summary>UDMABUF_CREATE, with whatever arguments.</summary>
    internal static int TryUdmabuf(int memory, ulong offset, ulong size)
    {
        int device = KernelResult.Required(Libc.open("/dev/udmabuf", Libc.O_RDWR | Libc.O_CLOEXEC), "/dev/udmabuf");
        DmaBufUapi.UdmabufArgument argument =
            new() { MemFd = (uint)memory, Flags = 1, Offset = offset, Size = size };
        int fd = Libc.ioctl(device, DmaBufUapi.UdmabufCreate, &argument);
        int errno = Libc.Errno;
        Libc.close(device);
        System.Runtime.InteropServices.Marshal.SetLastPInvokeError(errno);
        return fd;
    }

    /// <summary>A memfd of that size with these seals; none: sealing is not allowed at all.</summary>
    internal static int MemFd(int size, int seals)
    {
        int memory = KernelResult.Required(
            Libc.memfd_create("lab", seals == 0 ? 0 : Libc.MFD_ALLOW_SEALING), "memfd_create");
        KernelResult.Required(Libc.ftruncate(memory, size), "ftruncate");
        if (seals != 0)
        {
            KernelResult.Required(Libc.fcntl(memory, Libc.F_ADD_SEALS, seals), "F_ADD_SEALS");
        }

        return memory;
    }

    /// <summary>A buffer of the heap of ordinary pages.</summary>
    internal static KernelBuffer Heap(int size)
    {
        DmaBufUapi.HeapArgument argument = new() { Length = (ulong)size, FdFlags = Libc.O_RDWR | Libc.O_CLOEXEC };
        KernelResult.Required(TryHeap(DmaBufUapi.HeapAllocate, &argument), "DMA_HEAP_IOCTL_ALLOC");
        return new KernelBuffer((int)argument.Fd, size);
    }

    /// <summary>DMA_HEAP_IOCTL_ALLOC, with whatever arguments.</summary>
    internal static int TryHeap(nuint request, DmaBufUapi.HeapArgument* argument)
    {
        int heap = KernelResult.Required(
            Libc.open("/dev/dma_heap/system", Libc.O_RDWR | Libc.O_CLOEXEC), "/dev/dma_heap/system");
        int result = Libc.ioctl(heap, request, argument);
        int errno = Libc.Errno;
        Libc.close(heap);
        System.Runtime.InteropServices.Marshal.SetLastPInvokeError(errno);
        return result;
    }

    /// <summary>DMA_BUF_IOCTL_SYNC.</summary>
    internal string Sync(ulong flags) => KernelResult.Ok(Libc.ioctl(Fd, DmaBufUapi.Sync, &flags));

    /// <summary>DMA_BUF_SET_NAME_B.</summary>
    internal string SetName(string name)
    {
        fixed (byte* bytes = Encoding.ASCII.GetBytes(name + '\0'))
        {
            return KernelResult.Ok(Libc.ioctl(Fd, DmaBufUapi.SetName, bytes));
        }
    }

    /// <summary>DMA_BUF_IOCTL_EXPORT_SYNC_FILE: the fd, or a negative number with the errno set.</summary>
    internal int TryExport(uint flags)
    {
        DmaBufUapi.SyncFileArgument argument = new() { Flags = flags, Fd = -1 };
        int result = Libc.ioctl(Fd, DmaBufUapi.ExportSyncFile, &argument);
        return result < 0 ? result : argument.Fd;
    }

    /// <summary>The fences that an access of this kind waits for, as a file.</summary>
    internal RawSyncFile Export(ulong flags) =>
        new(KernelResult.Required(TryExport((uint)flags), "EXPORT_SYNC_FILE"));

    /// <summary>DMA_BUF_IOCTL_IMPORT_SYNC_FILE.</summary>
    internal string Import(ulong flags, int syncFile)
    {
        DmaBufUapi.SyncFileArgument argument = new() { Flags = (uint)flags, Fd = syncFile };
        return KernelResult.Ok(Libc.ioctl(Fd, DmaBufUapi.ImportSyncFile, &argument));
    }

    /// <summary>poll for both directions, at once.</summary>
    internal string Poll() => KernelPoll.Now(Fd, Libc.POLLIN | Libc.POLLOUT);

    /// <summary>Maps it, shared and for both directions.</summary>
    internal Span<byte> Map()
    {
        byte* mapped = Libc.mmap(
            null, (nuint)Size, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED, Fd, 0);
        KernelResult.Required(mapped == Libc.MapFailed ? -1 : 0, "mmap");
        return new Span<byte>(mapped, Size);
    }

    /// <summary>Ends what <see cref="Map"/> began.</summary>
    internal static void Unmap(Span<byte> mapped)
    {
        fixed (byte* start = mapped)
        {
            Libc.munmap(start, (nuint)mapped.Length);
        }
    }

    /// <summary>What /proc says of it under that key, or <c>none</c>.</summary>
    internal string FdInfo(string key) => File.ReadLines($"/proc/self/fdinfo/{Fd}")
        .Where(l => l.StartsWith(key, StringComparison.Ordinal)).Select(l => l[key.Length..].Trim())
        .FirstOrDefault() ?? "none";

    public void Dispose() => Libc.close(Fd);
}
