using System.Globalization;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>Memory with a descriptor, to be mapped by several processes: memfd_create(2).</summary>
public static class MemFd
{
    /// <summary>
    /// Creates zeroed memory of a fixed size. It is sealed against shrinking and growing, so that no process that gets
    /// the descriptor can take pages away from under a mapping, and so that udmabuf accepts it.
    /// </summary>
    /// <param name="name">Shown in /proc/PID/maps; need not be unique.</param>
    /// <param name="lengthBytes">At least one byte; a multiple of the page size if it is to become a dma-buf.</param>
    /// <exception cref="LinuxException">
    /// ENOMEM, EMFILE, EINVAL (the name is longer than 249 bytes), or EFBIG.
    /// </exception>
    public static FileDescriptor Create(string name, long lengthBytes)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(lengthBytes);
        FileDescriptor fd = Libc.memfd_create(name, memfd.MFD_CLOEXEC | memfd.MFD_ALLOW_SEALING);
        if (fd.IsInvalid)
        {
            LinuxException.Throw("memfd_create", name);
        }

        if (Libc.ftruncate(fd, lengthBytes) < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            fd.Dispose();
            throw new LinuxException(
                "ftruncate", string.Create(CultureInfo.InvariantCulture, $"{name} to {lengthBytes} bytes"), errno);
        }

        if (Libc.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW) < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            fd.Dispose();
            throw new LinuxException("fcntl(F_ADD_SEALS)", name, errno);
        }

        return fd;
    }

    /// <summary>
    /// Whether the memory can never shrink. Ask before mapping a descriptor that another process sent: if its owner may
    /// truncate it, every later access to the mapping may end this process with SIGBUS.
    /// </summary>
    /// <returns>False also for descriptors that know no seals, such as files and devices.</returns>
    public static bool IsSealedAgainstShrinking(FileDescriptor fd)
    {
        ArgumentNullException.ThrowIfNull(fd);
        int seals = Libc.fcntl(fd, fcntl.F_GET_SEALS, 0);
        return seals >= 0 && (seals & fcntl.F_SEAL_SHRINK) != 0;
    }
}
