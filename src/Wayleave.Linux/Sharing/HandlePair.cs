using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Sharing;

// A descriptor that stands for something of another process: one end of a socket pair. The kernel counts its copies,
// by dup, fork and SCM_RIGHTS, in whatever process, and those that are in flight; when the last is closed the other end
// hangs up. A socket's cookie names the end for good: the kernel hands none out twice.
//
// Nothing can be put into the kept end: a descriptor that lay there unread would be a copy that no process has, and to
// close it may wait for whoever put it there (a socket that lingers). An end that is to be signalled cannot be shut for
// that (shut both ways it would hang up), so a filter throws away what comes, in the call of whoever sends it.

/// <summary>A descriptor to be given away, and the end by which its maker learns that no copy of it is left.</summary>
public sealed unsafe class HandlePair : IDisposable
{
    private HandlePair(FileDescriptor given, FileDescriptor kept, ulong cookie, bool isSignal)
    {
        (Given, Kept, Cookie, IsSignal) = (given, kept, cookie, isSignal);
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

    /// <summary>
    /// Whether <see cref="TrySignal"/> makes <see cref="Given"/> readable for whoever polls it, for good.
    /// </summary>
    public bool IsSignal { get; }

    /// <summary>A pair whose given end says nothing.</summary>
    /// <exception cref="LinuxException">EMFILE or ENFILE.</exception>
    public static HandlePair Create() => Create(isSignal: false);

    /// <summary>A pair whose given end can be signalled once; <see cref="HandleSignal"/> reads it.</summary>
    /// <exception cref="LinuxException">EMFILE or ENFILE.</exception>
    public static HandlePair CreateSignal() => Create(isSignal: true);

    private static HandlePair Create(bool isSignal)
    {
        int* numbers = stackalloc int[2];
        if (Libc.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC, 0, numbers) < 0)
        {
            LinuxException.Throw("socketpair", "a handle");
        }

        FileDescriptor given = new(numbers[0], ownsHandle: true);
        FileDescriptor kept = new(numbers[1], ownsHandle: true);
        if (TryReadCookie(given, out ulong cookie)
            && (isSignal ? TryTossAll(kept) : Libc.shutdown(kept, socket.SHUT_RD) == 0))
        {
            return new HandlePair(given, kept, cookie, isSignal);
        }

        given.Dispose();
        kept.Dispose();
        throw new LinuxException("getsockopt(SO_COOKIE)", "a handle", Core.Errno.EOPNOTSUPP);
    }

    private static bool TryTossAll(FileDescriptor kept)
    {
        sock_filter none = new() { code = filter.BPF_RET | filter.BPF_K, k = 0 };
        sock_fprog program = new() { len = 1, filter = &none };
        return Libc.setsockopt(
            kept, socket.SOL_SOCKET, socket.SO_ATTACH_FILTER, &program, (uint)sizeof(sock_fprog)) == 0;
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

    /// <summary>
    /// Makes every copy of <see cref="Given"/> readable, for good: whoever polls one is told, now or later, and what
    /// they read does not change that. Any thread; nothing is waited for.
    /// </summary>
    /// <param name="error">What the work ended with; 0 for success.</param>
    /// <param name="timestamp">When, on the clock of whoever signals.</param>
    /// <returns>False when no copy is left, or the pair is disposed.</returns>
    /// <exception cref="InvalidOperationException">It was not made by <see cref="CreateSignal"/>.</exception>
    public bool TrySignal(Core.Errno error, TimeSpan timestamp)
    {
        if (!IsSignal)
        {
            throw new InvalidOperationException("this handle is not made to be signalled");
        }

        byte* bytes = stackalloc byte[HandleSignal.SizeBytes];
        HandleSignal.Write(new Span<byte>(bytes, HandleSignal.SizeBytes), error, timestamp);
        try
        {
            const int Flags = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT;
            return Libc.send(Kept, bytes, HandleSignal.SizeBytes, Flags) == HandleSignal.SizeBytes
                && Libc.shutdown(Kept, socket.SHUT_WR) == 0;
        }
        catch (ObjectDisposedException)
        {
            return false;
        }
    }

    /// <summary>The end that is given away is with somebody else now.</summary>
    public void Release() => Given.Dispose();

    public void Dispose()
    {
        Given.Dispose();
        Kept.Dispose();
    }
}
