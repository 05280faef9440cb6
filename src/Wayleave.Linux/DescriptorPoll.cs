using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>ppoll(2) of one descriptor, or of two.</summary>
internal static unsafe class DescriptorPoll
{
    /// <param name="descriptor">Kept open meanwhile.</param>
    /// <param name="events">POLLIN, POLLOUT.</param>
    /// <param name="timeout">Relative, or <see cref="Timeout.InfiniteTimeSpan"/>; zero only looks.</param>
    /// <param name="seen">0 when the time is up; POLLERR and POLLHUP come unasked.</param>
    /// <returns>EINTR when a signal handler ran; otherwise success.</returns>
    internal static Errno Wait(FileDescriptor descriptor, short events, TimeSpan timeout, out short seen)
    {
        bool isFinite = KernelTime.TryConvert(timeout, out timespec time);
        using FileDescriptor.Borrowed fd = descriptor.Borrow();
        pollfd polled = new() { fd = fd.Number, events = events };
        int result = Libc.ppoll(&polled, 1, isFinite ? &time : null, null);
        Errno errno = result < 0 ? LinuxException.LastErrno() : Errno.Success;
        seen = result > 0 ? polled.revents : (short)0;
        return errno is Errno.Success or Errno.EINTR ? errno : throw new LinuxException("ppoll", "a descriptor", errno);
    }

    /// <summary>Sleeps until one of two has input, or an error.</summary>
    /// <returns>EINTR when a signal handler ran; otherwise success.</returns>
    internal static Errno WaitForEither(FileDescriptor one, FileDescriptor other)
    {
        using FileDescriptor.Borrowed first = one.Borrow(), second = other.Borrow();
        pollfd* polled = stackalloc pollfd[2];
        polled[0] = new pollfd { fd = first.Number, events = poll.POLLIN };
        polled[1] = new pollfd { fd = second.Number, events = poll.POLLIN };
        Errno errno = Libc.ppoll(polled, 2, null, null) < 0 ? LinuxException.LastErrno() : Errno.Success;
        return errno is Errno.Success or Errno.EINTR ? errno : throw new LinuxException("ppoll", "two", errno);
    }
}
