using Microsoft.Win32.SafeHandles;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>A device node or another file that takes ioctls or mmap.</summary>
internal static class DeviceFile
{
    /// <summary>Opens for reading and writing, waits for nobody, and is closed on exec.</summary>
    /// <exception cref="LinuxException">ENOENT, EACCES, ENXIO or another of open(2).</exception>
    internal static FileDescriptor Open(string path)
    {
        using SafeFileHandle opened = Libc.open(path, fcntl.O_RDWR | fcntl.O_CLOEXEC | fcntl.O_NONBLOCK, 0);
        if (opened.IsInvalid)
        {
            LinuxException.Throw("open", path);
        }

        int fd = (int)opened.DangerousGetHandle();
        opened.SetHandleAsInvalid();
        return new FileDescriptor(fd, ownsHandle: true);
    }
}
