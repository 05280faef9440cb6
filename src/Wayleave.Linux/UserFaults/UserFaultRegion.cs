using System.Globalization;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.UserFaults;

// One memfd, mapped twice. The process's view is registered with userfaultfd: its faults wait, its changes are told.
// The device's view is an ordinary mapping, which stays whole whatever the process does to its own: a late access of a
// device finds the old page and never somebody else's, as with a real IOMMU whose page is still referenced.
//
// Managed code never touches the process's view. A managed thread that faults there sleeps in the kernel where the
// collector cannot stop it; if the fault is to be served by another managed thread of the process, a collection in
// between waits for the one and stops the other, for ever. A thread inside a P/Invoke is no obstacle to the collector:
// Load and Store copy by memcpy, and the rest are system calls.

/// <summary>
/// Memory of this process whose faults are served, and whose changes are seen, by whoever takes its events
/// (userfaultfd(2)). Threads may share one.
/// </summary>
public sealed unsafe class UserFaultRegion : IDisposable
{
    /// <summary>The unit of faults.</summary>
    public const int PageBytes = PageFrame.SizeBytes;

    private const ulong EventsOfAnybody = userfaultfd.UFFD_FEATURE_EVENT_REMAP
        | userfaultfd.UFFD_FEATURE_EVENT_REMOVE | userfaultfd.UFFD_FEATURE_EVENT_UNMAP
        | userfaultfd.UFFD_FEATURE_MISSING_SHMEM;

    private readonly FileDescriptor _faults;
    private readonly FileDescriptor _memory;
    private readonly MappedMemory _deviceView;
    private int _isDisposed;

    private UserFaultRegion(
        FileDescriptor faults,
        FileDescriptor memory,
        MappedMemory deviceView,
        AddressRange addresses,
        bool seesForks) =>
        (_faults, _memory, _deviceView, Addresses, SeesForks) = (faults, memory, deviceView, addresses, seesForks);

    /// <summary>Where the process had it at first. Not to be touched by managed code, pointers among it.</summary>
    public AddressRange Addresses { get; }

    /// <summary>
    /// The same bytes for devices: page i is page i of <see cref="Addresses"/>. A page that neither side has touched is
    /// zero, and there from then on.
    /// </summary>
    public Memory<byte> DeviceView => _deviceView.Memory;

    /// <summary>Whether forks are told: that needs CAP_SYS_PTRACE.</summary>
    public bool SeesForks { get; }

    /// <summary>The numbers by which another process may take both over (pidfd_getfd(2)), while this lives.</summary>
    public (int Events, int Memory) Numbers => ((int)_faults.DangerousGetHandle(), (int)_memory.DangerousGetHandle());

    /// <summary>Makes memory of which no page is there yet.</summary>
    /// <param name="lengthBytes">Whole pages.</param>
    /// <exception cref="LinuxException">
    /// EPERM: neither root nor vm.unprivileged_userfaultfd. ENOSYS, EINVAL: no userfaultfd, or none that tells of
    /// changes of shared memory (Linux 4.11). ENOMEM.
    /// </exception>
    public static UserFaultRegion Create(int lengthBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(lengthBytes);
        ArgumentOutOfRangeException.ThrowIfNotEqual(lengthBytes % PageBytes, 0);
        FileDescriptor faults = Open(out bool seesForks);
        FileDescriptor? memory = null;
        MappedMemory? deviceView = null;
        try
        {
            memory = MemFd.Create("userfaultfd", lengthBytes);
            deviceView = MappedMemory.MapShared(memory, 0, lengthBytes, "memory for userfaultfd");
            void* start = Libc.mmap(
                null, (nuint)lengthBytes, mman.PROT_READ | mman.PROT_WRITE, mman.MAP_SHARED, memory, 0);
            if (start == (void*)-1)
            {
                LinuxException.Throw("mmap", "memory for userfaultfd");
            }

            uffdio_register register = new()
            {
                range = new uffdio_range { start = (ulong)start, len = (ulong)lengthBytes },
                mode = userfaultfd.UFFDIO_REGISTER_MODE_MISSING,
            };
            if (Libc.ioctl(faults, userfaultfd.UFFDIO_REGISTER, &register) < 0)
            {
                Errno errno = (Errno)Marshal.GetLastPInvokeError();
                _ = Libc.munmap(start, (nuint)lengthBytes);
                throw new LinuxException("UFFDIO_REGISTER", "memory", errno);
            }

            return new UserFaultRegion(
                faults, memory, deviceView, new AddressRange((ulong)start, (ulong)lengthBytes), seesForks);
        }
        catch (LinuxException)
        {
            ((IDisposable?)deviceView)?.Dispose();
            memory?.Dispose();
            faults.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Takes over what another process made by <see cref="Create"/>, or as that does: from now on its faults are served
    /// and its changes are seen by whoever takes the events of this object.
    /// </summary>
    /// <param name="events">A userfaultfd of that process. Owned by this from here on, also after a failure.</param>
    /// <param name="memory">The memfd that it has registered there, from its first byte. Likewise.</param>
    /// <param name="addresses">Where that process has it; whole pages.</param>
    /// <exception cref="LinuxException">
    /// EINVAL: no userfaultfd, or no whole pages. EPERM: the memfd may shrink, or is shorter than that.
    /// </exception>
    public static UserFaultRegion TakeOver(FileDescriptor events, FileDescriptor memory, AddressRange addresses)
    {
        ArgumentNullException.ThrowIfNull(events);
        ArgumentNullException.ThrowIfNull(memory);
        const string What = "userfaultfd of another process";
        try
        {
            bool isSane = addresses.IsPageAligned && addresses.LengthBytes is not (0 or > int.MaxValue)
                && addresses.Start <= ulong.MaxValue - addresses.LengthBytes && IsUserFault(events);
            if (!isSane || Libc.fcntl(events, fcntl.F_SETFL, fcntl.O_NONBLOCK) < 0)
            {
                throw new LinuxException("take over", What, Errno.EINVAL);
            }

            long sizeBytes = Libc.lseek(memory, 0, access.SEEK_END);
            if (!MemFd.IsSealedAgainstShrinking(memory) || sizeBytes < (long)addresses.LengthBytes)
            {
                throw new LinuxException("take over", What, Errno.EPERM);
            }

            MappedMemory view = MappedMemory.MapShared(memory, 0, (int)addresses.LengthBytes, What);
            return new UserFaultRegion(events, memory, view, addresses, seesForks: true);
        }
        catch (LinuxException)
        {
            events.Dispose();
            memory.Dispose();
            throw;
        }
    }

    /// <summary>Whether <see cref="Create"/> works here, and if not, why.</summary>
    public static bool IsSupported(out string? reason)
    {
        reason = null;
        try
        {
            Open(out _).Dispose();
            return true;
        }
        catch (LinuxException e)
        {
            reason = e.Message;
            return false;
        }
    }

    /// <summary>Sleeps until there is an event to take.</summary>
    /// <param name="timeout">Zero only looks; or <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <returns>False when the time is up; also when a signal handler ran.</returns>
    public bool Wait(TimeSpan timeout) =>
        DescriptorPoll.Wait(_faults, poll.POLLIN, timeout, out short seen) == Errno.Success
        && (seen & poll.POLLIN) != 0;

    /// <summary>
    /// Sleeps until there is an event to take, or the other has input; also when a signal handler ran.
    /// </summary>
    public void WaitOr(FileDescriptor other)
    {
        ArgumentNullException.ThrowIfNull(other);
        DescriptorPoll.WaitForEither(_faults, other);
    }

    /// <summary>
    /// Takes the oldest event, without waiting. From then on whoever caused a change goes on; who faults does not
    /// before <see cref="TryFill"/>.
    /// </summary>
    public bool TryTake(out UserFaultEvent taken)
    {
        uffd_msg message;
        using FileDescriptor.Borrowed fd = _faults.Borrow();
        while (Libc.read(fd.Number, &message, (nuint)sizeof(uffd_msg)) < 0)
        {
            Errno errno = LinuxException.LastErrno();
            if (errno == Errno.EAGAIN)
            {
                taken = default;
                return false;
            }

            if (errno != Errno.EINTR)
            {
                throw new LinuxException("read", "a userfaultfd", errno);
            }
        }

        taken = Read(message);
        return true;
    }

    /// <summary>Puts a missing page there and lets everybody go on who waits for it (<c>UFFDIO_COPY</c>).</summary>
    /// <param name="address">In the page, as the event named it.</param>
    /// <param name="content">A page.</param>
    /// <returns>
    /// EEXIST: it is there already, and everybody was woken. ENOENT: it was unmapped meanwhile. EAGAIN: the process's
    /// map is changing, and who waits was woken to ask again. ENOSPC.
    /// </returns>
    public Errno TryFill(ulong address, ReadOnlySpan<byte> content)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(content.Length, PageBytes);
        address &= ~(ulong)(PageBytes - 1);
        fixed (byte* source = content)
        {
            uffdio_copy argument = new() { dst = address, src = (ulong)source, len = PageBytes };
            return Answer(userfaultfd.UFFDIO_COPY, &argument, address);
        }
    }

    /// <summary>As <see cref="TryFill"/>, with zeroes (<c>UFFDIO_ZEROPAGE</c>).</summary>
    public Errno TryFillZero(ulong address)
    {
        address &= ~(ulong)(PageBytes - 1);
        uffdio_zeropage argument = new() { range = new uffdio_range { start = address, len = PageBytes } };
        return Answer(userfaultfd.UFFDIO_ZEROPAGE, &argument, address);
    }

    /// <summary>
    /// Loads of the process: sleeps at every page that is missing until somebody else has put it there. The caller
    /// knows that the range is mapped.
    /// </summary>
    public static void Load(ulong address, Span<byte> destination)
    {
        fixed (byte* to = destination)
        {
            _ = Libc.memcpy(to, (void*)address, (nuint)destination.Length);
        }
    }

    /// <summary>Stores of the process. As <see cref="Load"/>.</summary>
    public static void Store(ulong address, ReadOnlySpan<byte> source)
    {
        fixed (byte* from = source)
        {
            _ = Libc.memcpy((void*)address, from, (nuint)source.Length);
        }
    }

    /// <summary>
    /// The process throws pages out of its page table (<c>MADV_DONTNEED</c>); sleeps until the event was taken. The
    /// bytes stay in the memfd.
    /// </summary>
    public static void Discard(AddressRange range)
    {
        if (Libc.madvise((void*)range.Start, (nuint)range.LengthBytes, mman.MADV_DONTNEED) < 0)
        {
            LinuxException.Throw("madvise(MADV_DONTNEED)", range.ToString());
        }
    }

    /// <summary>The process unmaps; sleeps until the event was taken.</summary>
    public static void Unmap(AddressRange range)
    {
        if (Libc.munmap((void*)range.Start, (nuint)range.LengthBytes) < 0)
        {
            LinuxException.Throw("munmap", range.ToString());
        }
    }

    /// <summary>
    /// The process moves a range (<c>mremap</c>); sleeps until the event was taken.
    /// </summary>
    /// <param name="range">Whole pages of the region.</param>
    /// <param name="to">A range of the same length; what is mapped there goes.</param>
    /// <returns>Where it is now.</returns>
    public static AddressRange Move(AddressRange range, ulong to)
    {
        void* moved = Libc.mremap(
            (void*)range.Start, (nuint)range.LengthBytes, (nuint)range.LengthBytes,
            mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED, (void*)to);
        if (moved == (void*)-1)
        {
            LinuxException.Throw("mremap", range.ToString());
        }

        return range with { Start = (ulong)moved };
    }

    /// <summary>
    /// Ends the watch: who sleeps in a fault goes on with a page of the memfd. What is left of the process's view stays
    /// mapped and is the process's to unmap.
    /// </summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isDisposed, 1) == 0)
        {
            _faults.Dispose();
            ((IDisposable)_deviceView).Dispose();
            _memory.Dispose();
        }
    }

    private static bool IsUserFault(FileDescriptor events)
    {
        using FileDescriptor.Borrowed fd = events.Borrow();
        string link = string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{fd.Number}");
        return new FileInfo(link).LinkTarget == "anon_inode:[userfaultfd]";
    }

    private static FileDescriptor Open(out bool seesForks)
    {
        seesForks = true;
        FileDescriptor faults = Make();
        if (Handshake(faults, EventsOfAnybody | userfaultfd.UFFD_FEATURE_EVENT_FORK) == Errno.Success)
        {
            return faults;
        }

        // A handshake that failed cannot be repeated on the same descriptor by every kernel.
        faults.Dispose();
        seesForks = false;
        faults = Make();
        Errno errno = Handshake(faults, EventsOfAnybody);
        if (errno != Errno.Success)
        {
            faults.Dispose();
            throw new LinuxException("UFFDIO_API", "userfaultfd", errno);
        }

        return faults;
    }

    private static FileDescriptor Make()
    {
        nint fd = Libc.userfaultfd(unistd.SYS_userfaultfd, fcntl.O_CLOEXEC | fcntl.O_NONBLOCK);
        if (fd < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            throw new LinuxException(
                "userfaultfd", "memory of this process", errno,
                errno == Errno.EPERM ? "as root: sysctl vm.unprivileged_userfaultfd=1" : null);
        }

        return new FileDescriptor((int)fd, ownsHandle: true);
    }

    private static Errno Handshake(FileDescriptor faults, ulong features)
    {
        uffdio_api api = new() { api = userfaultfd.UFFD_API, features = features };
        return Libc.ioctl(faults, userfaultfd.UFFDIO_API, &api) < 0
            ? (Errno)Marshal.GetLastPInvokeError()
            : Errno.Success;
    }

    private static UserFaultEvent Read(in uffd_msg message) => message.@event switch
    {
        userfaultfd.UFFD_EVENT_PAGEFAULT => new(
            UserFaultKind.PageFault,
            new AddressRange(message.arg.Second & ~(ulong)(PageBytes - 1), PageBytes),
            IsWrite: (message.arg.First & userfaultfd.UFFD_PAGEFAULT_FLAG_WRITE) != 0),
        userfaultfd.UFFD_EVENT_FORK => new(
            UserFaultKind.Fork, default, Child: new FileDescriptor((int)(uint)message.arg.First, ownsHandle: true)),
        userfaultfd.UFFD_EVENT_REMAP => new(
            UserFaultKind.Remap, new AddressRange(message.arg.First, message.arg.Third), message.arg.Second),
        userfaultfd.UFFD_EVENT_REMOVE => new(UserFaultKind.Remove, Between(message.arg)),
        userfaultfd.UFFD_EVENT_UNMAP => new(UserFaultKind.Unmap, Between(message.arg)),
        byte other => throw new LinuxException(
            "read", string.Create(CultureInfo.InvariantCulture, $"userfaultfd event 0x{other:x2}"), Errno.EPROTO),
    };

    private static AddressRange Between(in uffd_msg.Arguments range) => new(range.First, range.Second - range.First);

    private Errno Answer(nuint request, void* argument, ulong address)
    {
        if (Libc.ioctl(_faults, request, argument) == 0)
        {
            return Errno.Success;
        }

        Errno errno = (Errno)Marshal.GetLastPInvokeError();
        if (errno is Errno.EEXIST or Errno.EAGAIN)
        {
            // Somebody was faster, the device's view perhaps, or an event is to be taken first: who waits looks again.
            uffdio_range range = new() { start = address, len = PageBytes };
            _ = Libc.ioctl(_faults, userfaultfd.UFFDIO_WAKE, &range);
        }

        return errno;
    }
}
