using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// An eventfd(2): a count that any thread raises and one waiter takes. Level-triggered in poll(2), so that a signal
/// that comes before the wait is not lost.
/// </summary>
public sealed unsafe class EventFd : IDisposable
{
    /// <exception cref="LinuxException">EMFILE, ENFILE or ENOMEM.</exception>
    public EventFd()
    {
        Descriptor = Libc.eventfd(0, eventfd.EFD_CLOEXEC | eventfd.EFD_NONBLOCK);
        if (Descriptor.IsInvalid)
        {
            LinuxException.Throw("eventfd", "0");
        }
    }

    /// <param name="existing">An eventfd that somebody else made; owned as far as it owns its number.</param>
    public EventFd(FileDescriptor existing)
    {
        ArgumentNullException.ThrowIfNull(existing);
        Descriptor = existing;
    }

    /// <summary>Readable in poll(2) while the count is not zero. Owned by this object.</summary>
    public FileDescriptor Descriptor { get; }

    /// <summary>Raises the count by one; any thread.</summary>
    public void Signal()
    {
        using FileDescriptor.Borrowed fd = Descriptor.Borrow();
        ulong one = 1;
        while (Libc.write(fd.Number, &one, sizeof(ulong)) < 0)
        {
            Errno errno = LinuxException.LastErrno();
            if (errno == Errno.EAGAIN)
            {
                return; // The count stands at its limit of 2^64 - 2: it is not zero, and nobody needs to know more.
            }

            if (errno != Errno.EINTR)
            {
                throw new LinuxException("write", "an eventfd", errno);
            }
        }
    }

    /// <summary>
    /// As <see cref="Signal"/>, for an eventfd that another process has too: it may have made it blocking and its count
    /// as high as it goes, so that a write waits. A count that is as high has been signalled.
    /// </summary>
    /// <remarks>
    /// Between the look and the write the other process may fill it up, and then the write waits for somebody to read
    /// it: for a thread that serves nobody else.
    /// </remarks>
    public void SignalShared()
    {
        if (DescriptorPoll.Wait(Descriptor, poll.POLLOUT, TimeSpan.Zero, out short seen) == Errno.Success
            && (seen & poll.POLLOUT) != 0)
        {
            Signal();
        }
    }

    /// <summary>Takes the whole count; any thread.</summary>
    /// <returns>How often it was signalled since it was last taken; 0 when not.</returns>
    public ulong Take()
    {
        using FileDescriptor.Borrowed fd = Descriptor.Borrow();
        ulong count;
        while (Libc.read(fd.Number, &count, sizeof(ulong)) < 0)
        {
            Errno errno = LinuxException.LastErrno();
            if (errno == Errno.EAGAIN)
            {
                return 0;
            }

            if (errno != Errno.EINTR)
            {
                throw new LinuxException("read", "an eventfd", errno);
            }
        }

        return count;
    }

    public void Dispose() => Descriptor.Dispose();
}
