using System.Globalization;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// A file without a name, for what must appear whole or not at all: open(2) with O_TMPFILE. It is gone with the process
/// that holds it, however that ends, until linkat(2) gives it a name.
/// </summary>
public static class UnnamedFile
{
    private const int ReadAndWriteForAll = 0x1B6; // 0666, less what the umask takes away
    private const Errno EIsDir = (Errno)21; // what a kernel from before O_TMPFILE says; nothing else returns it

    /// <summary>Opens a new file for writing and reserves its space.</summary>
    /// <param name="folder">Decides the file system; must be writable.</param>
    /// <param name="lengthBytes">What will be written; 0 reserves nothing.</param>
    /// <returns>The file, which the caller owns; null where the file system knows no files without names.</returns>
    /// <exception cref="LinuxException">
    /// ENOENT, ENOTDIR, EACCES, EROFS: the folder. ENOSPC, EDQUOT, EFBIG: there is no room for that much.
    /// </exception>
    public static SafeFileHandle? TryCreate(string folder, long lengthBytes)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        SafeFileHandle file = Libc.open(folder, fcntl.O_TMPFILE | fcntl.O_WRONLY | fcntl.O_CLOEXEC, ReadAndWriteForAll);
        if (file.IsInvalid)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            file.Dispose();
            return errno is Errno.EOPNOTSUPP or EIsDir or Errno.EINVAL
                ? null
                : throw new LinuxException("open", folder, errno);
        }

        if (lengthBytes > 0 && Libc.fallocate(file, 0, 0, lengthBytes) < 0)
        {
            // A file system that cannot reserve will find out while it is written.
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            if (errno != Errno.EOPNOTSUPP)
            {
                file.Dispose();
                throw new LinuxException("fallocate", folder, errno);
            }
        }

        return file;
    }

    /// <summary>Gives the file a name, under which it is whole from the first moment. Replaces nothing.</summary>
    /// <returns><see cref="Errno.EEXIST"/> when the name is taken, or why else it cannot be.</returns>
    public static Errno TryLink(SafeFileHandle file, string path)
    {
        ArgumentNullException.ThrowIfNull(file);
        ArgumentException.ThrowIfNullOrEmpty(path);

        // linkat(2) of the descriptor itself (AT_EMPTY_PATH) needs a capability; its name in /proc does not.
        string self = string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{file.DangerousGetHandle()}");
        int result = Libc.linkat(fcntl.AT_FDCWD, self, fcntl.AT_FDCWD, path, fcntl.AT_SYMLINK_FOLLOW);
        GC.KeepAlive(file);
        return result < 0 ? (Errno)Marshal.GetLastPInvokeError() : Errno.Success;
    }

    /// <summary>
    /// Locks an open file against everybody else who asks (flock(2)): how others see that its writer still lives.
    /// </summary>
    /// <returns>False when somebody else holds the lock, or the file system has none.</returns>
    public static bool TryLock(SafeFileHandle file)
    {
        ArgumentNullException.ThrowIfNull(file);
        return Libc.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) == 0;
    }
}
