using Microsoft.Win32.SafeHandles;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// A file that several processes add to: O_APPEND, so that what one call writes stays together and lies behind all that
/// was written before, whoever wrote it. Any thread. What was written is the kernel's: the end of the process, however
/// it comes, takes none of it back.
/// </summary>
public sealed unsafe class AppendFile : IDisposable
{
    private readonly string _path;
    private readonly SafeFileHandle _file;

    /// <param name="path">A file that is there.</param>
    /// <exception cref="LinuxException">ENOENT, EACCES and others of open(2).</exception>
    public AppendFile(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        _path = path;
        _file = Libc.open(path, fcntl.O_WRONLY | fcntl.O_APPEND | fcntl.O_CLOEXEC, 0);
        if (_file.IsInvalid)
        {
            LinuxException.Throw("open", path);
        }
    }

    /// <summary>Adds bytes at the end.</summary>
    /// <returns>
    /// ENOSPC, EFBIG, EDQUOT or EIO; then the file may end in a part of them.
    /// </returns>
    public Errno Append(ReadOnlySpan<byte> bytes)
    {
        bool added = false;
        try
        {
            _file.DangerousAddRef(ref added);
            int number = (int)_file.DangerousGetHandle();
            while (bytes.Length > 0)
            {
                nint written;
                fixed (byte* first = bytes)
                {
                    written = Libc.write(number, first, (nuint)bytes.Length);
                }

                if (written >= 0)
                {
                    bytes = bytes[(int)written..];
                }
                else if (LinuxException.LastErrno() is { } errno and not Errno.EINTR)
                {
                    return errno;
                }
            }

            return Errno.Success;
        }
        finally
        {
            if (added)
            {
                _file.DangerousRelease();
            }
        }
    }

    public void Dispose() => _file.Dispose();

    public override string ToString() => _path;
}
