using System.Globalization;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// A hold on a process that cannot be confused with a later process of the same number: pidfd_open(2). A process that
/// has ended has let go of its address space (exit_mm comes before exit_notify), so none of its instructions can touch
/// shared memory any more; what it asked the kernel or a device to do in its name is not covered.
/// </summary>
public sealed unsafe class PidFd : IDisposable
{
    private readonly FileDescriptor _descriptor;

    private PidFd(FileDescriptor descriptor, int processId) => (_descriptor, ProcessId) = (descriptor, processId);

    /// <summary>
    /// As it was at <see cref="Open"/>; the number may belong to another process once this one has ended.
    /// </summary>
    public int ProcessId { get; }

    /// <summary>
    /// Opens the process that has the number now. Whoever got the number from elsewhere checks after this call that it
    /// still means the same process: for a socket's peer, that the connection is still up.
    /// </summary>
    /// <exception cref="LinuxException">
    /// ESRCH: no such process. EINVAL: not a process id. ENOSYS: before Linux 5.3. EMFILE.
    /// </exception>
    public static PidFd Open(int processId)
    {
        nint fd = Libc.pidfd_open(unistd.SYS_pidfd_open, processId, 0);
        if (fd < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            throw new LinuxException(
                "pidfd_open", string.Create(CultureInfo.InvariantCulture, $"process {processId}"), errno);
        }

        return new PidFd(new FileDescriptor((int)fd, ownsHandle: true), processId);
    }

    /// <summary>
    /// Opens the process at the other end of a connected Unix socket: the one that connected, not one that has its
    /// number by now (SO_PEERPIDFD; before Linux 6.5 the number is all there is).
    /// </summary>
    /// <exception cref="LinuxException">ESRCH: it has ended. EMFILE.</exception>
    public static PidFd OfPeer(Socket connected)
    {
        int processId = UnixPeer.Of(connected).ProcessId;
        int fd = -1;
        uint length = sizeof(int);
        SafeSocketHandle handle = connected.SafeHandle;
        bool added = false;
        try
        {
            handle.DangerousAddRef(ref added);
            using FileDescriptor socket = new((int)handle.DangerousGetHandle(), ownsHandle: false);
            if (Libc.getsockopt(socket, Interop.socket.SOL_SOCKET, socket_pidfd.SO_PEERPIDFD, &fd, &length) == 0)
            {
                return new PidFd(new FileDescriptor(fd, ownsHandle: true), processId);
            }

            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            return errno == Errno.ENOPROTOOPT
                ? Open(processId)
                : throw new LinuxException("getsockopt(SO_PEERPIDFD)", "a peer", errno);
        }
        finally
        {
            if (added)
            {
                handle.DangerousRelease();
            }
        }
    }

    /// <summary>Readable in poll(2) once the process has ended. Owned by this object.</summary>
    public FileDescriptor Descriptor => _descriptor;

    /// <summary>Waits until the process has ended, as a whole: all its threads.</summary>
    /// <param name="timeout">Relative, or <see cref="Timeout.InfiniteTimeSpan"/>; zero only looks.</param>
    /// <returns>Whether it has ended. False also when a signal handler ran: look at the clock and call again.</returns>
    public bool WaitForExit(TimeSpan timeout)
    {
        bool finite = KernelTime.TryConvert(timeout, out timespec time);
        using FileDescriptor.Borrowed fd = _descriptor.Borrow();
        pollfd polled = new() { fd = fd.Number, events = poll.POLLIN };
        if (Libc.ppoll(&polled, 1, finite ? &time : null, null) < 0)
        {
            Errno errno = LinuxException.LastErrno();
            return errno == Errno.EINTR
                ? false
                : throw new LinuxException(
                    "ppoll", string.Create(CultureInfo.InvariantCulture, $"process {ProcessId}"), errno);
        }

        return polled.revents != 0;
    }

    /// <summary>Kills the process as a whole (SIGKILL); nothing, if it has ended. It may end some time later.</summary>
    /// <exception cref="LinuxException">EPERM: it belongs to another user.</exception>
    public void Kill() => Send(9);

    /// <summary>Asks the process to end (SIGTERM), which it may ignore; nothing, if it has ended.</summary>
    /// <exception cref="LinuxException">EPERM: it belongs to another user.</exception>
    public void Terminate() => Send(15);

    private void Send(int signal)
    {
        if (Libc.pidfd_send_signal(unistd.SYS_pidfd_send_signal, _descriptor, signal, null, 0) < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            if (errno != Errno.ESRCH)
            {
                throw new LinuxException(
                    "pidfd_send_signal", string.Create(CultureInfo.InvariantCulture, $"process {ProcessId}"), errno);
            }
        }
    }

    /// <summary>A copy of a descriptor that the process has open, as if it had passed it (pidfd_getfd(2)).</summary>
    /// <exception cref="LinuxException">
    /// EBADF: it has none of that number. EPERM: this process may not trace that one (ptrace(2), the access mode
    /// PTRACE_MODE_ATTACH). ESRCH: it has ended. ENOSYS: before Linux 5.6.
    /// </exception>
    public FileDescriptor CopyDescriptor(int number)
    {
        nint fd = Libc.pidfd_getfd(unistd.SYS_pidfd_getfd, _descriptor, number, 0);
        if (fd < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            string whose = string.Create(CultureInfo.InvariantCulture, $"descriptor {number} of process {ProcessId}");
            throw new LinuxException(
                "pidfd_getfd",
                whose,
                errno,
                errno == Errno.EPERM ? "the process may allow it: prctl(PR_SET_PTRACER, ...)" : null);
        }

        return new FileDescriptor((int)fd, ownsHandle: true);
    }

    public void Dispose() => _descriptor.Dispose();
}
