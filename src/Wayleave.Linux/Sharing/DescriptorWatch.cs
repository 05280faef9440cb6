using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Sharing;

/// <summary>
/// Many descriptors that one thread watches: epoll(7). Any thread adds, without waking the one that waits; a descriptor
/// that is closed is not watched any more once nobody has a copy of it, as a forked child may.
/// </summary>
public sealed unsafe class DescriptorWatch : IDisposable
{
    private const int EventsMax = 64;

    // struct epoll_event is packed on x86-64 alone: EPOLL_PACKED in include/uapi/linux/eventpoll.h.
    private static readonly int s_dataOffset = RuntimeInformation.ProcessArchitecture == Architecture.X64 ? 4 : 8;
    private static readonly int s_eventBytes = s_dataOffset + sizeof(ulong);

    private readonly FileDescriptor _epoll;

    /// <exception cref="LinuxException">EMFILE, ENFILE or ENOMEM.</exception>
    public DescriptorWatch()
    {
        _epoll = Libc.epoll_create1(epoll.EPOLL_CLOEXEC);
        if (_epoll.IsInvalid)
        {
            LinuxException.Throw("epoll_create1", "a watch");
        }
    }

    /// <summary>Watches one more. Never waits.</summary>
    /// <param name="key">What <see cref="Wait(TimeSpan, List{ulong})"/> returns for it.</param>
    /// <param name="descriptor">
    /// Not watched yet; whoever adds it keeps it open for as long as it is to be watched.
    /// </param>
    /// <param name="input">Whether input counts; a hang-up and an error always do.</param>
    /// <exception cref="LinuxException">ENOMEM; ENOSPC: more than fs.epoll.max_user_watches.</exception>
    public void Add(ulong key, FileDescriptor descriptor, bool input) =>
        Add(key, descriptor, epoll.EPOLLONESHOT | (input ? epoll.EPOLLIN : 0));

    /// <summary>
    /// As <see cref="Add(ulong, FileDescriptor, bool)"/>, for each input there is: a write to an eventfd is one,
    /// whether its count was taken or not. So nobody has to read it, and nobody can be made to wait by who reads it
    /// first.
    /// </summary>
    public void AddEdges(ulong key, FileDescriptor descriptor) => Add(key, descriptor, epoll.EPOLLIN | epoll.EPOLLET);

    /// <summary>
    /// As <see cref="Add(ulong, FileDescriptor, bool)"/>, said again for as long as there is input.
    /// </summary>
    public void AddInput(ulong key, FileDescriptor descriptor) => Add(key, descriptor, epoll.EPOLLIN);

    /// <summary>The end of a connection, for as long as it is there to be seen.</summary>
    internal void AddHangup(ulong key, int descriptor) => Add(key, descriptor, events: 0);

    /// <summary>
    /// Watches one no longer, whoever has a copy of it: what is closed alone is still told as long as there is one.
    /// </summary>
    /// <param name="descriptor">Not closed. One that is not watched is fine, and so is a watch that is closed.</param>
    /// <exception cref="ObjectDisposedException">The descriptor is closed.</exception>
    public void Remove(FileDescriptor descriptor)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        using FileDescriptor.Borrowed fd = descriptor.Borrow();
        if (_epoll.IsClosed)
        {
            return;
        }

        if (Libc.epoll_ctl(_epoll, epoll.EPOLL_CTL_DEL, fd.Number, null) < 0
            && (Errno)Marshal.GetLastPInvokeError() != Errno.ENOENT)
        {
            LinuxException.Throw("epoll_ctl", "a watch");
        }
    }

    private void Add(ulong key, FileDescriptor descriptor, uint events)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        using FileDescriptor.Borrowed fd = descriptor.Borrow();
        Add(key, fd.Number, events);
    }

    private void Add(ulong key, int descriptor, uint events)
    {
        byte* watched = stackalloc byte[s_eventBytes];
        Unsafe.WriteUnaligned(watched, events);
        Unsafe.WriteUnaligned(watched + s_dataOffset, key);
        if (Libc.epoll_ctl(_epoll, epoll.EPOLL_CTL_ADD, descriptor, watched) < 0)
        {
            LinuxException.Throw("epoll_ctl", "a watch");
        }
    }

    /// <summary>Waits until something can be said of one of them; each is said once.</summary>
    /// <param name="timeout">Relative, in whole milliseconds.</param>
    /// <param name="ready">Gets the keys.</param>
    public void Wait(TimeSpan timeout, List<ulong> ready)
    {
        ArgumentNullException.ThrowIfNull(ready);
        ready.Clear();
        byte* events = stackalloc byte[EventsMax * s_eventBytes];
        int milliseconds = timeout == Timeout.InfiniteTimeSpan ? -1 : (int)timeout.TotalMilliseconds;
        int count = Wait(events, EventsMax, milliseconds);
        for (int i = 0; i < count; i++)
        {
            ready.Add(Unsafe.ReadUnaligned<ulong>(events + (i * s_eventBytes) + s_dataOffset));
        }
    }

    /// <summary>What can be said now; as <see cref="Wait(TimeSpan, List{ulong})"/>, and allocates nothing.</summary>
    /// <param name="ready">Gets the keys, at most as many as fit: the others come next time.</param>
    /// <returns>How many.</returns>
    [SkipLocalsInit]
    public int Look(Span<ulong> ready)
    {
        byte* events = stackalloc byte[EventsMax * s_eventBytes];
        int count = Wait(events, Math.Min(EventsMax, ready.Length), milliseconds: 0);
        for (int i = 0; i < count; i++)
        {
            ready[i] = Unsafe.ReadUnaligned<ulong>(events + (i * s_eventBytes) + s_dataOffset);
        }

        return count;
    }

    // 0 after a signal handler ran.
    private int Wait(byte* events, int most, int milliseconds)
    {
        int count = Libc.epoll_wait(_epoll, events, most, milliseconds);
        if (count >= 0)
        {
            return count;
        }

        Errno errno = (Errno)Marshal.GetLastPInvokeError();
        return errno == Errno.EINTR ? 0 : throw new LinuxException("epoll_wait", "a watch", errno);
    }

    /// <summary>Readable while <see cref="Look"/> would find something.</summary>
    internal FileDescriptor Descriptor => _epoll;

    public void Dispose() => _epoll.Dispose();
}
