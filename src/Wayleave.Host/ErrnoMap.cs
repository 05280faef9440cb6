using System.Net.Sockets;
using System.Runtime.CompilerServices;
using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Host;

/// <summary>
/// The one place where error numbers and the exceptions of the runtime become a <see cref="WayleaveException"/>. Total:
/// a number that has no sentence here keeps its number in the text, so nothing is lost.
/// </summary>
public static class ErrnoMap
{
    /// <summary>What <paramref name="errno"/> means, in words that fit behind the name of an object.</summary>
    public static string Describe(Errno errno) => errno switch
    {
        Errno.Success => "done",
        Errno.EPERM => "not permitted",
        Errno.ENOENT => "does not exist",
        Errno.ESRCH => "no such process",
        Errno.EINTR => "interrupted",
        Errno.EIO => "input or output failed",
        Errno.ENXIO => "no such device or address",
        Errno.E2BIG => "too large",
        Errno.EBADF => "is closed",
        Errno.EAGAIN => "not ready yet",
        Errno.ENOMEM => "out of memory",
        Errno.EACCES => "permission denied",
        Errno.EFAULT => "bad address",
        Errno.EBUSY => "is in use",
        Errno.EEXIST => "exists already",
        Errno.ENODEV => "was taken back by its owner, or the device is gone",
        Errno.ENOTDIR => "a part of the path is not a folder",
        Errno.EINVAL => "invalid",
        Errno.ENFILE => "too many open files in the system",
        Errno.EMFILE => "too many open files",
        Errno.ENOTTY => "the device does not know this request",
        Errno.EFBIG => "the file is too large",
        Errno.ENOSPC => "no space left",
        Errno.EPIPE => "the other end closed the connection",
        Errno.ERANGE => "out of range",
        Errno.EDEADLK => "would deadlock",
        Errno.ENAMETOOLONG => "name too long",
        Errno.ENOSYS => "this kernel lacks the system call",
        Errno.ENODATA => "no data",
        Errno.ETIME => "the timer ran out",
        Errno.EPROTO => "the other end does not speak this protocol",
        Errno.EOVERFLOW => "the number is too large",
        Errno.EBADFD => "is in the wrong state",
        Errno.EMSGSIZE => "the message is too long",
        Errno.ENOPROTOOPT => "this kernel lacks the socket option",
        Errno.EOPNOTSUPP => "not supported here",
        Errno.EAFNOSUPPORT => "this kernel lacks the address family",
        Errno.EADDRINUSE => "the address is in use",
        Errno.EADDRNOTAVAIL => "no interface of this machine has this address",
        Errno.ENETDOWN => "the network is down",
        Errno.ENETUNREACH => "the network is unreachable",
        Errno.ECONNRESET => "the other end died or reset the connection",
        Errno.ENOBUFS => "no buffer space left",
        Errno.ENOTCONN => "not connected",
        Errno.ESHUTDOWN => "is shutting down",
        Errno.ETIMEDOUT => "timed out",
        Errno.ECONNREFUSED => "nobody listens there",
        Errno.EHOSTUNREACH => "the machine is unreachable",
        Errno.EALREADY => "already under way",
        Errno.EREMOTEIO => "the other end reported an error",
        Errno.EDQUOT => "keeps more memory in quarantine than it may",
        Errno.ECANCELED => "cancelled",
        Errno.ETOOSMALL => "no room for what there is",
        _ => $"error {(int)errno}",
    };

    /// <summary>An exception for a call that returned <paramref name="errno"/>.</summary>
    /// <param name="errno">The result; not <see cref="Errno.Success"/>.</param>
    /// <param name="operation">What was tried, with its object.</param>
    /// <param name="remedy">What the user can do, or null.</param>
    public static WayleaveException ToException(Errno errno, string operation, string? remedy = null) =>
        new(errno, operation, Describe(errno), remedy);

    /// <summary>Throws unless <paramref name="errno"/> is <see cref="Errno.Success"/>.</summary>
    /// <exception cref="WayleaveException">As <see cref="ToException(Errno, string, string?)"/> makes it.</exception>
    public static void ThrowIfFailed(this Errno errno, string operation, string? remedy = null)
    {
        if (errno != Errno.Success)
        {
            throw ToException(errno, operation, remedy);
        }
    }

    /// <summary>
    /// As above, for text that is put together only when it is needed: nothing is allocated otherwise.
    /// </summary>
    public static void ThrowIfFailed(
        this Errno errno,
        [InterpolatedStringHandlerArgument(nameof(errno))] ref FailureText operation,
        string? remedy = null)
    {
        if (errno != Errno.Success)
        {
            throw ToException(errno, operation.ToText(), remedy);
        }
    }

    /// <summary>
    /// The same failure as a <see cref="WayleaveException"/>, which is returned as it is when it is one already.
    /// </summary>
    /// <param name="exception">What a file, a socket or a timer threw.</param>
    /// <param name="operation">What was tried, with its object.</param>
    /// <param name="remedy">What the user can do, or null.</param>
    public static WayleaveException ToException(Exception exception, string operation, string? remedy = null)
    {
        ArgumentNullException.ThrowIfNull(exception);
        if (exception is WayleaveException known)
        {
            return known;
        }

        Errno errno = ToErrno(exception);
        // The adapters of Wayleave.Linux name the call, the object and often what to do: nothing here knows better.
        bool saysMore = errno == Errno.EIO || exception is LinuxException;
        string reason = saysMore ? FirstLine(exception.Message) : Describe(errno);
        return new WayleaveException(errno, operation, reason, remedy, exception);
    }

    /// <summary>The number for what the runtime threw; EIO where it says nothing more exact.</summary>
    public static Errno ToErrno(Exception exception) => exception switch
    {
        WayleaveException e => e.Errno,
        LinuxException e => e.Errno,
        SocketException e => ToErrno(e.SocketErrorCode),
        FileNotFoundException or DirectoryNotFoundException => Errno.ENOENT,
        PathTooLongException => Errno.ENAMETOOLONG,
        UnauthorizedAccessException => Errno.EACCES,
        OutOfMemoryException => Errno.ENOMEM,
        TimeoutException => Errno.ETIMEDOUT,
        OperationCanceledException => Errno.ECANCELED,
        NotSupportedException => Errno.EOPNOTSUPP,
        ObjectDisposedException => Errno.EBADF,
        IOException { InnerException: { } inner } => ToErrno(inner),
        // .NET keeps the kernel's number in HResult for files on Unix; other values are HRESULTs, negative.
        IOException { HResult: > 0 and < 4096 } e => (Errno)e.HResult,
        { InnerException: { } inner } => ToErrno(inner),
        _ => Errno.EIO,
    };

    /// <summary>The number behind the name that .NET gives a failure of a socket.</summary>
    public static Errno ToErrno(SocketError error) => error switch
    {
        SocketError.Success => Errno.Success,
        SocketError.AccessDenied => Errno.EACCES,
        SocketError.AddressAlreadyInUse => Errno.EADDRINUSE,
        SocketError.AddressNotAvailable => Errno.EADDRNOTAVAIL,
        SocketError.ConnectionRefused => Errno.ECONNREFUSED,
        SocketError.ConnectionReset or SocketError.ConnectionAborted => Errno.ECONNRESET,
        SocketError.Shutdown => Errno.EPIPE,
        SocketError.TimedOut => Errno.ETIMEDOUT,
        SocketError.HostUnreachable or SocketError.HostDown => Errno.EHOSTUNREACH,
        SocketError.NetworkUnreachable or SocketError.NetworkDown => Errno.ENETUNREACH,
        SocketError.HostNotFound or SocketError.NoData or SocketError.TryAgain or SocketError.NoRecovery => Errno.ENXIO,
        SocketError.NoBufferSpaceAvailable => Errno.ENOBUFS,
        SocketError.NotConnected => Errno.ENOTCONN,
        SocketError.MessageSize => Errno.EMSGSIZE,
        SocketError.TooManyOpenSockets => Errno.EMFILE,
        SocketError.InvalidArgument => Errno.EINVAL,
        SocketError.AddressFamilyNotSupported or SocketError.OperationNotSupported
            or SocketError.ProtocolNotSupported => Errno.EOPNOTSUPP,
        SocketError.WouldBlock => Errno.EAGAIN,
        SocketError.OperationAborted => Errno.ECANCELED,
        _ => Errno.EIO,
    };

    /// <summary>What a message says in its first line, without the full stop: failures are told in one line.</summary>
    public static string FirstLine(string text)
    {
        int end = text.AsSpan().IndexOfAny('\r', '\n');
        return (end < 0 ? text : text[..end]).TrimEnd('.');
    }
}
