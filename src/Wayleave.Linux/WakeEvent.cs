using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

// One thread sleeps in poll(2), any thread wakes it, and a wake costs a system call only if it really sleeps.
//
//   sleeper: _sleeping = 1; full barrier; was _signalled?  yes: do not sleep
//            no: poll; _sleeping = 0; take the eventfd; clear _signalled
//   waker:   _signalled = 1; full barrier; is _sleeping?   yes: write the eventfd
//
// Each writes its own word before it reads the other's, so at least one of them sees the other (Dekker). A waker that
// finds _signalled set already leaves it to the waker that set it.

/// <summary>The wake-up of a thread that polls: an eventfd that is written only when somebody sleeps on it.</summary>
internal sealed class WakeEvent : IDisposable
{
    /// <summary>How many descriptors one sleep watches at most.</summary>
    internal const int SleepDescriptorsMax = 64;

    private readonly EventFd _event = new();
    private int _signalled;
    private int _sleeping;
    private long _kernelWakes;

    /// <summary>To be polled for reading between <see cref="TryBeginSleep"/> and <see cref="EndSleep"/>.</summary>
    internal FileDescriptor Descriptor => _event.Descriptor;

    /// <summary>How many wakes went through the kernel.</summary>
    internal long KernelWakes => Interlocked.Read(ref _kernelWakes);

    /// <summary>Any thread. The sleeper wakes, or its next <see cref="TryBeginSleep"/> is refused.</summary>
    internal void Signal()
    {
        Interleave.Point("wake: signal");
        if (Interlocked.Exchange(ref _signalled, 1) != 0)
        {
            return;
        }

        Interleave.Point("wake: look for a sleeper");
        if (Volatile.Read(ref _sleeping) != 0)
        {
            Interleave.Point("wake: write the eventfd");
            Interlocked.Increment(ref _kernelWakes);
            _event.Signal();
        }
    }

    /// <summary>
    /// A wrong Signal, kept for the test of the tests: it looks for a sleeper before it leaves the signal.
    /// </summary>
    internal void SignalAfterLooking()
    {
        bool sleeping = Volatile.Read(ref _sleeping) != 0;
        Interleave.Point("wake: signal");
        Interlocked.Exchange(ref _signalled, 1);
        if (sleeping)
        {
            _event.Signal();
        }
    }

    /// <summary>The one sleeper. False when a signal is pending: it is taken, and the caller does not sleep.</summary>
    internal bool TryBeginSleep()
    {
        Interleave.Point("wake: begin sleep");
        Interlocked.Exchange(ref _sleeping, 1);
        Interleave.Point("wake: look for a signal");
        if (Interlocked.Exchange(ref _signalled, 0) == 0)
        {
            return true;
        }

        Volatile.Write(ref _sleeping, 0);
        return false;
    }

    /// <summary>The one sleeper, after its poll.</summary>
    /// <param name="eventReady">Whether poll reported the eventfd as readable.</param>
    /// <returns>Whether a signal came during the sleep. It is taken.</returns>
    internal bool EndSleep(bool eventReady)
    {
        Volatile.Write(ref _sleeping, 0);
        Interleave.Point("wake: end sleep");
        if (eventReady)
        {
            _ = _event.Take();
        }

        // A full barrier as well: what a waker did before its signal is seen by whoever looks after this.
        Interleave.Point("wake: take the signal");
        return Interlocked.Exchange(ref _signalled, 0) != 0 || eventReady;
    }

    /// <summary>
    /// The one sleeper: until <paramref name="events"/> of a descriptor, until a signal, or until the time is up.
    /// </summary>
    /// <param name="descriptor">Open until the end of the sleep.</param>
    /// <param name="events">
    /// Of poll(2); 0 waits for the signal alone, and who sends to the descriptor finds nobody to look for.
    /// </param>
    /// <param name="timeout">Infinite with <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <param name="isOver">False when the time was up.</param>
    /// <returns>What poll(2) failed with.</returns>
    internal unsafe Errno Sleep(FileDescriptor descriptor, short events, TimeSpan timeout, out bool isOver)
    {
        isOver = true;
        bool finite = KernelTime.TryConvert(timeout, out timespec time);
        using FileDescriptor.Borrowed fd = descriptor.Borrow();
        using FileDescriptor.Borrowed wake = Descriptor.Borrow();
        if (!TryBeginSleep())
        {
            return Errno.Success;
        }

        pollfd* polled = stackalloc pollfd[2];
        polled[0] = new pollfd { fd = events == 0 ? -1 : fd.Number, events = events };
        polled[1] = new pollfd { fd = wake.Number, events = poll.POLLIN };
        int ready = Libc.ppoll(polled, 2, finite ? &time : null, null);
        Errno errno = ready < 0 ? LinuxException.LastErrno() : Errno.Success;
        bool woken = EndSleep(eventReady: ready > 0 && polled[1].revents != 0);
        isOver = ready != 0 || woken;
        return errno == Errno.EINTR ? Errno.Success : errno;
    }

    /// <summary>As the other, on several descriptors.</summary>
    /// <param name="descriptors">Open until the end of the sleep; at most <see cref="SleepDescriptorsMax"/>.</param>
    /// <param name="events">Of poll(2), for each; 0 does not wait for it.</param>
    /// <param name="timeout">As there.</param>
    /// <param name="isOver">As there.</param>
    internal unsafe Errno Sleep(
        ReadOnlySpan<FileDescriptor> descriptors, ReadOnlySpan<short> events, TimeSpan timeout, out bool isOver)
    {
        isOver = true;
        bool finite = KernelTime.TryConvert(timeout, out timespec time);
        pollfd* polled = stackalloc pollfd[SleepDescriptorsMax + 1];
        int taken = 0;
        try
        {
            for (; taken < descriptors.Length; taken++)
            {
                bool added = false;
                descriptors[taken].DangerousAddRef(ref added);
                int number = (int)descriptors[taken].DangerousGetHandle();
                polled[taken] = new pollfd { fd = number, events = events[taken] };
            }

            using FileDescriptor.Borrowed wake = Descriptor.Borrow();
            if (!TryBeginSleep())
            {
                return Errno.Success;
            }

            polled[taken] = new pollfd { fd = wake.Number, events = poll.POLLIN };
            int ready = Libc.ppoll(polled, (nuint)taken + 1, finite ? &time : null, null);
            Errno errno = ready < 0 ? LinuxException.LastErrno() : Errno.Success;
            bool woken = EndSleep(eventReady: ready > 0 && polled[taken].revents != 0);
            isOver = ready != 0 || woken;
            return errno == Errno.EINTR ? Errno.Success : errno;
        }
        finally
        {
            while (taken > 0)
            {
                descriptors[--taken].DangerousRelease();
            }
        }
    }

    public void Dispose() => _event.Dispose();
}
