using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Buffers;

/// <summary>
/// <c>/dev/udmabuf</c>: makes a dma-buf of the pages of a memfd (<c>drivers/dma-buf/udmabuf.c</c>). Its storage never
/// moves and cannot be taken back.
/// </summary>
public sealed unsafe class UdmabufDevice : IDisposable
{
    /// <summary>Where it is.</summary>
    public const string Path = "/dev/udmabuf";

    private readonly FileDescriptor _device;

    private UdmabufDevice(FileDescriptor device) => _device = device;

    /// <exception cref="LinuxException">ENOENT: the kernel has no udmabuf. EACCES.</exception>
    public static UdmabufDevice Open() => new(DeviceFile.Open(Path));

    /// <summary>
    /// <c>UDMABUF_CREATE</c>: the buffer and the memfd are one memory from now on, and the buffer keeps the pages.
    /// </summary>
    /// <param name="memory">
    /// A memfd sealed against shrinking and not against writing: <see cref="MemFd.Create"/>. Stays the caller's.
    /// </param>
    /// <param name="offset">First byte, at a page.</param>
    /// <param name="sizeBytes">Whole pages, within the memfd.</param>
    /// <param name="buffer">Owned by the caller.</param>
    /// <returns>
    /// EINVAL for what is not in pages, for an empty or too long range, and for seals that do not fit; EBADFD when it
    /// is no memfd.
    /// </returns>
    public Errno TryCreate(FileDescriptor memory, ulong offset, ulong sizeBytes, out DmaBuf? buffer)
    {
        ArgumentNullException.ThrowIfNull(memory);
        buffer = null;
        using FileDescriptor.Borrowed borrowed = memory.Borrow();
        udmabuf_create argument = new()
        {
            memfd = (uint)borrowed.Number,
            flags = udmabuf.UDMABUF_FLAGS_CLOEXEC,
            offset = offset,
            size = sizeBytes,
        };
        int fd = Libc.ioctl(_device, udmabuf.UDMABUF_CREATE, &argument);
        if (fd < 0)
        {
            return (Errno)Marshal.GetLastPInvokeError();
        }

        buffer = DmaBuf.Open(new FileDescriptor(fd, ownsHandle: true));
        return Errno.Success;
    }

    /// <summary>A buffer over a fresh memfd, zeroed.</summary>
    /// <param name="name">Of the memfd.</param>
    /// <param name="sizeBytes">Whole pages.</param>
    /// <exception cref="LinuxException">What memfd_create(2) or UDMABUF_CREATE say.</exception>
    public DmaBuf Create(string name, long sizeBytes)
    {
        using FileDescriptor memory = MemFd.Create(name, sizeBytes);
        Errno errno = TryCreate(memory, 0, (ulong)sizeBytes, out DmaBuf? buffer);
        return errno == Errno.Success ? buffer! : throw new LinuxException("UDMABUF_CREATE", name, errno);
    }

    public void Dispose() => _device.Dispose();
}
