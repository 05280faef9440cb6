using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Sharing;

// A descriptor that stands for something of another process: one end of a socket pair. The kernel counts its copies,
// by dup, fork and SCM_RIGHTS, in whatever process, and those that are in flight; when the last is closed the other end
// hangs up. A socket's cookie names the end for good: the kernel hands none out twice.

/// <summary>A descriptor to be given away, and the end by which its maker learns that no copy of it is left.</summary>
public sealed unsafe class HandlePair : IDisposable
{
    private HandlePair(FileDescriptor given, FileDescriptor kept, ulong cookie)
    {
        (Given, Kept, Cookie) = (given, kept, cookie);
        Inode = FileStatus.Read(given).Inode;
    }

    /// <summary>
    /// To be sent. Close it with <see cref="Release"/> once it was: a copy that stays here is a copy too.
    /// </summary>
    public FileDescriptor Given { get; }

    /// <summary>Hangs up (POLLHUP) when the last copy of <see cref="Given"/> is gone.</summary>
    public FileDescriptor Kept { get; }

    /// <summary>Names <see cref="Given"/> and all its copies (SO_COOKIE).</summary>
    public ulong Cookie { get; }

    /// <summary>
    /// As <c>/proc/PID/fd</c> shows who has a copy: <c>socket:[INODE]</c>. Used again later, so for people only.
    /// </summary>
    public ulong Inode { get; }

    /// <exception cref="LinuxException">EMFILE or ENFILE.</exception>
    public static HandlePair Create()
    {
        int* numbers = stackalloc int[2];
        if (Libc.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC, 0, numbers) < 0)
        {
            LinuxException.Throw("socketpair", "a handle");
        }

        FileDescriptor given = new(numbers[0], ownsHandle: true);
        FileDescriptor kept = new(numbers[1], ownsHandle: true);
        if (TryReadCookie(given, out ulong cookie))
        {
            return new HandlePair(given, kept, cookie);
        }

        given.Dispose();
        kept.Dispose();
        throw new LinuxException("getsockopt(SO_COOKIE)", "a handle", Core.Errno.EOPNOTSUPP);
    }

    /// <summary>The cookie of a descriptor that somebody sent; false for one that is no socket.</summary>
    public static bool TryReadCookie(FileDescriptor descriptor, out ulong cookie)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        ulong read = 0;
        uint length = sizeof(ulong);
        int result = Libc.getsockopt(descriptor, socket.SOL_SOCKET, socket.SO_COOKIE, &read, &length);
        cookie = read;
        return result == 0 && length == sizeof(ulong);
    }

    /// <summary>The end that is given away is with somebody else now.</summary>
    public void Release() => Given.Dispose();

    public void Dispose()
    {
        Given.Dispose();
        Kept.Dispose();
    }
}
