using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// The medium of a drive: a regular file or a block device, read and written past the page cache (O_DIRECT) where its
/// file system can. Threads may share one.
/// </summary>
public sealed unsafe class DirectFile : IDisposable
{
    /// <summary>What offsets, lengths and buffers are multiples of, whatever the device's own blocks are.</summary>
    public const int AlignmentBytes = 4096;

    private const int SeekEnd = 2;

    private readonly SafeFileHandle _file;

    private DirectFile(SafeFileHandle file, string path, bool isDirect, bool isWritable, long lengthBytes) =>
        (_file, Path, IsDirect, IsWritable, LengthBytes) = (file, path, isDirect, isWritable, lengthBytes);

    public string Path { get; }

    /// <summary>
    /// Whether the page cache is left out; false on file systems without O_DIRECT, such as an older tmpfs.
    /// </summary>
    public bool IsDirect { get; }

    public bool IsWritable { get; }

    /// <summary>When it was opened.</summary>
    public long LengthBytes { get; }

    /// <summary>Opens a file or block device; waits for nobody.</summary>
    /// <param name="path">Followed if it is a symbolic link.</param>
    /// <param name="isWritable">Whether to open it for writing too.</param>
    /// <exception cref="LinuxException">
    /// ENOENT, EACCES or another of open(2); EINVAL when it is neither a file nor a block device.
    /// </exception>
    public static DirectFile Open(string path, bool isWritable)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        int flags = fcntl.O_CLOEXEC | fcntl.O_NONBLOCK | (isWritable ? fcntl.O_RDWR : 0);
        bool isDirect = true;
        SafeFileHandle file = Libc.open(path, flags | fcntl.O_DIRECT, 0);
        if (file.IsInvalid && (Errno)Marshal.GetLastPInvokeError() == Errno.EINVAL)
        {
            isDirect = false;
            file.Dispose();
            file = Libc.open(path, flags, 0);
        }

        if (file.IsInvalid)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            file.Dispose();
            throw new LinuxException("open", path, errno);
        }

        if (FileStatus.Read(file).Kind is not (FileKind.Regular or FileKind.BlockDevice))
        {
            file.Dispose();
            throw new LinuxException("open", path, Errno.EINVAL, "name a regular file or a block device");
        }

        long length = Libc.lseek(file, 0, SeekEnd);
        return new DirectFile(file, path, isDirect, isWritable, length);
    }

    /// <summary>Fills a buffer from an offset; what lies behind the end of the file reads as zero.</summary>
    /// <param name="offset">A multiple of 512, or of the device's block size if that is larger.</param>
    /// <param name="buffer">In memory aligned to <see cref="AlignmentBytes"/>.</param>
    /// <returns>EIO or another of pread(2).</returns>
    public Errno Read(long offset, Span<byte> buffer)
    {
        while (buffer.Length > 0)
        {
            nint read;
            fixed (byte* start = buffer)
            {
                read = Libc.pread(_file, start, (nuint)buffer.Length, offset);
            }

            if (read < 0)
            {
                Errno errno = (Errno)Marshal.GetLastPInvokeError();
                if (errno != Errno.EINTR)
                {
                    return errno;
                }

                continue;
            }

            // A read that is no multiple of a block has met the end; what is left cannot be asked for directly anyway.
            if (read == 0 || read % 512 != 0)
            {
                buffer[(int)read..].Clear();
                return Errno.Success;
            }

            buffer = buffer[(int)read..];
            offset += read;
        }

        return Errno.Success;
    }

    /// <summary>Writes a whole buffer.</summary>
    /// <returns>ENOSPC, EIO or another of pwrite(2); then a part may have been written.</returns>
    public Errno Write(long offset, ReadOnlySpan<byte> buffer)
    {
        while (buffer.Length > 0)
        {
            nint written;
            fixed (byte* start = buffer)
            {
                written = Libc.pwrite(_file, start, (nuint)buffer.Length, offset);
            }

            if (written < 0)
            {
                Errno errno = (Errno)Marshal.GetLastPInvokeError();
                if (errno != Errno.EINTR)
                {
                    return errno;
                }

                continue;
            }

            buffer = buffer[(int)written..];
            offset += written;
        }

        return Errno.Success;
    }

    /// <summary>
    /// Returns when what was written survives a loss of power, as far as the device says so: fdatasync(2).
    /// </summary>
    public Errno Flush() => Libc.fdatasync(_file) < 0 ? (Errno)Marshal.GetLastPInvokeError() : Errno.Success;

    public void Dispose() => _file.Dispose();
}
