using System.Buffers;
using System.Globalization;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

// Memory that the kernel or another process touches, and memory that a device model hands out by address, is mapped
// memory: it does not move, it is not scanned by the collector, and it can be huge pages.
//
// Users: the top bit of _users says disposed, the rest counts the owner (1) and the pins. Both live in one word,
// because a pin that looked at a separate flag first could pin memory whose last user is just leaving.

/// <summary>
/// Pages of this process as <see cref="Memory{T}"/>; unmapped after <see cref="IDisposable.Dispose"/> and the last
/// unpin, whichever is later. A span is not a pin: whoever holds one must know, by its gate or its lock, that the owner
/// does not dispose.
/// </summary>
public sealed unsafe class MappedMemory : MemoryManager<byte>
{
    /// <summary>
    /// Size of a huge page of the architectures that Linux runs transparent huge pages on with 4 KiB pages.
    /// </summary>
    public const int HugePageBytes = 2 << 20;

    private const int Disposed = 1 << 31;

    private readonly byte* _address;
    private readonly int _lengthBytes;
    private readonly nuint _mappedBytes;
    private int _users = 1;

    private MappedMemory(byte* address, int lengthBytes, nuint mappedBytes, Errno hugePageAdvice)
    {
        _address = address;
        _lengthBytes = lengthBytes;
        _mappedBytes = mappedBytes;
        HugePageAdvice = hugePageAdvice;
    }

    /// <summary>
    /// What madvise(MADV_HUGEPAGE) answered: Success, EINVAL when the kernel has no transparent huge pages, or ENODATA
    /// when huge pages were not asked for. Advice that was not taken costs speed only, so it is reported here and not
    /// thrown.
    /// </summary>
    public Errno HugePageAdvice { get; }

    /// <summary>How many pins hold the mapping at this moment, beside its owner.</summary>
    public int PinCount
    {
        get
        {
            int users = Volatile.Read(ref _users);
            return (users & Disposed) == 0 ? users - 1 : users & ~Disposed;
        }
    }

    /// <summary>
    /// Zeroed private memory. With <paramref name="hugePages"/> it starts on a huge-page boundary and is advised before
    /// anyone touches it, because pages that exist already are only collapsed much later.
    /// </summary>
    /// <param name="lengthBytes">
    /// 1 to 2^31 - 1: the limit of <see cref="Memory{T}"/>. For more, see AllocateWindows.
    /// </param>
    /// <param name="hugePages">
    /// Whether to ask for transparent huge pages; memory is used in full 2 MiB steps then.
    /// </param>
    /// <exception cref="LinuxException">
    /// ENOMEM: the address space or the overcommit limit does not allow it.
    /// </exception>
    public static MappedMemory AllocateAnonymous(long lengthBytes, bool hugePages)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(lengthBytes);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(lengthBytes, int.MaxValue);
        nuint unit = hugePages ? HugePageBytes : (nuint)Environment.SystemPageSize;
        nuint mapped = RoundUp((nuint)lengthBytes, unit);
        if (!hugePages)
        {
            return new MappedMemory(Reserve(mapped), (int)lengthBytes, mapped, Errno.ENODATA);
        }

        // One huge page more than needed, then both ends are given back: mmap itself aligns large mappings only since
        // 6.7.
        byte* start = Reserve(mapped + HugePageBytes);
        byte* aligned = (byte*)RoundUp((nuint)start, HugePageBytes);
        Unmap(start, (nuint)(aligned - start));
        Unmap(aligned + mapped, HugePageBytes - (nuint)(aligned - start));
        Errno advice = Libc.madvise(aligned, mapped, mman.MADV_HUGEPAGE) < 0
            ? (Errno)Marshal.GetLastPInvokeError()
            : Errno.Success;
        return new MappedMemory(aligned, (int)lengthBytes, mapped, advice);
    }

    /// <summary>
    /// Zeroed private memory of any length as windows of <paramref name="windowBytes"/>, the last one shorter if need
    /// be. Neighbours in the array are not neighbours in memory. On failure nothing stays mapped.
    /// </summary>
    /// <exception cref="LinuxException">ENOMEM.</exception>
    public static MappedMemory[] AllocateWindows(long lengthBytes, int windowBytes, bool hugePages)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(lengthBytes);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(windowBytes);
        MappedMemory[] windows = new MappedMemory[checked((int)((lengthBytes + windowBytes - 1) / windowBytes))];
        int made = 0;
        try
        {
            for (; made < windows.Length; made++)
            {
                long left = lengthBytes - ((long)made * windowBytes);
                windows[made] = AllocateAnonymous(Math.Min(left, windowBytes), hugePages);
            }
        }
        catch (LinuxException)
        {
            foreach (MappedMemory window in windows.AsSpan(0, made))
            {
                ((IDisposable)window).Dispose();
            }

            throw;
        }

        return windows;
    }

    /// <summary>
    /// A shared mapping of a descriptor: a memfd, a dma-buf, a device. The mapping keeps the object alive by itself;
    /// <paramref name="fd"/> may be closed afterwards. For a memfd of another process see
    /// <see cref="MemFd.IsSealedAgainstShrinking"/>.
    /// </summary>
    /// <param name="fd">What to map, readable and writable.</param>
    /// <param name="offsetBytes">A multiple of the page size.</param>
    /// <param name="lengthBytes">At least one byte.</param>
    /// <param name="name">Names the object in error messages.</param>
    /// <exception cref="LinuxException">
    /// EINVAL for an offset that is no multiple, EACCES for a read-only descriptor, ENOMEM.
    /// </exception>
    public static MappedMemory MapShared(FileDescriptor fd, long offsetBytes, int lengthBytes, string name)
    {
        ArgumentNullException.ThrowIfNull(fd);
        ArgumentOutOfRangeException.ThrowIfNegative(offsetBytes);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(lengthBytes);
        nuint mapped = RoundUp((nuint)lengthBytes, (nuint)Environment.SystemPageSize);
        void* address = Libc.mmap(null, mapped, mman.PROT_READ | mman.PROT_WRITE, mman.MAP_SHARED, fd, offsetBytes);
        if (address == (void*)-1)
        {
            LinuxException.Throw("mmap", name);
        }

        return new MappedMemory((byte*)address, lengthBytes, mapped, Errno.ENODATA);
    }

    /// <summary>
    /// Brings every page in, writable (MADV_POPULATE_WRITE, Linux 5.14): afterwards no access waits for a fault.
    /// </summary>
    /// <returns>Success; EINVAL on an older kernel; ENOMEM or EFAULT when the pages cannot be had.</returns>
    public Errno Populate()
    {
        using MemoryHandle pin = Pin();
        while (Libc.madvise(_address, _mappedBytes, mman.MADV_POPULATE_WRITE) < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            if (errno != Errno.EINTR)
            {
                return errno;
            }
        }

        return Errno.Success;
    }

    /// <summary>
    /// Brings in the pages of the first bytes, and what the kernel brings in around them, for reading
    /// (MADV_POPULATE_READ, Linux 5.14): the first access does not wait for a fault. Ends no process, whatever the
    /// pages are of: where an access would be answered by SIGBUS, this is refused.
    /// </summary>
    /// <returns>Success; EINVAL on an older kernel; ENOMEM or EFAULT when the pages cannot be had.</returns>
    public Errno BringIn(int lengthBytes)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)lengthBytes, (uint)_lengthBytes);
        using MemoryHandle pin = Pin();
        nuint bytes = RoundUp((nuint)lengthBytes, (nuint)Environment.SystemPageSize);
        return Libc.madvise(_address, bytes, mman.MADV_POPULATE_READ) == 0
            ? Errno.Success
            : (Errno)Marshal.GetLastPInvokeError();
    }

    /// <summary>
    /// The bytes. They stay valid while the caller knows that the owner has not disposed; pin to be sure.
    /// </summary>
    /// <exception cref="ObjectDisposedException">The owner has disposed, even if pins keep the mapping.</exception>
    public override Span<byte> GetSpan()
    {
        ObjectDisposedException.ThrowIf(Volatile.Read(ref _users) <= 0, this);
        return new Span<byte>(_address, _lengthBytes);
    }

    /// <summary>Keeps the mapping until the result is disposed, beyond the disposal of this object.</summary>
    /// <exception cref="ObjectDisposedException">The owner has disposed; pins taken before stay good.</exception>
    public override MemoryHandle Pin(int elementIndex = 0)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)elementIndex, (uint)_lengthBytes, nameof(elementIndex));
        int seen = Volatile.Read(ref _users);
        while (true)
        {
            ObjectDisposedException.ThrowIf(seen <= 0, this);
            int before = Interlocked.CompareExchange(ref _users, seen + 1, seen);
            if (before == seen)
            {
                return new MemoryHandle(_address + elementIndex, pinnable: this);
            }

            seen = before;
        }
    }

    public override void Unpin() => Release();

    /// <summary>Lets go of the owner's hold. The pages go when the last pin goes. Disposing twice is fine.</summary>
    protected override void Dispose(bool disposing)
    {
        if ((Interlocked.Or(ref _users, Disposed) & Disposed) == 0)
        {
            Release();
        }
    }

    /// <summary>
    /// Puts pages of a file where some of these are, in one step: an access at the same time meets the old or the new.
    /// </summary>
    internal void Replace(long offset, long lengthBytes, FileDescriptor fd, long fileOffset)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((ulong)(offset + lengthBytes), (ulong)_mappedBytes);
        using MemoryHandle pin = Pin();
        int flags = mman.MAP_FIXED | (fd.IsInvalid ? mman.MAP_PRIVATE | mman.MAP_ANONYMOUS : mman.MAP_SHARED);
        void* address = Libc.mmap(
            _address + offset, (nuint)lengthBytes, mman.PROT_READ | mman.PROT_WRITE, flags, fd, fileOffset);
        if (address == (void*)-1)
        {
            LinuxException.Throw("mmap", string.Create(CultureInfo.InvariantCulture, $"{lengthBytes} bytes in place"));
        }
    }

    /// <summary>Puts pages of a file that others have too where some of these are, as <see cref="Replace"/>.</summary>
    /// <param name="offset">Of the first byte here; whole pages.</param>
    /// <param name="lengthBytes">Whole pages.</param>
    /// <param name="pages">Readable and writable; stays the caller's, and may be closed.</param>
    /// <param name="fileOffset">Of the first byte there; whole pages.</param>
    /// <exception cref="LinuxException">ENOMEM: too many mappings. What was there stays.</exception>
    public void ReplaceByShared(long offset, long lengthBytes, FileDescriptor pages, long fileOffset)
    {
        ArgumentNullException.ThrowIfNull(pages);
        ObjectDisposedException.ThrowIf(pages.IsInvalid, pages);
        Replace(offset, lengthBytes, pages, fileOffset);
    }

    /// <summary>
    /// Puts zeroed private pages where some of these are, as <see cref="Sharing.SharedPages.MapInto"/>.
    /// </summary>
    /// <exception cref="LinuxException">ENOMEM: too many mappings. What was there stays.</exception>
    public void ReplaceByPrivate(long offset, long lengthBytes) =>
        Replace(offset, lengthBytes, FileDescriptor.None, 0);

    private void Release()
    {
        int users = Interlocked.Decrement(ref _users);
        if (users == Disposed)
        {
            Unmap(_address, _mappedBytes);
        }
        else if (users is 0 or int.MaxValue)
        {
            throw new InvalidOperationException("a mapping was unpinned more often than pinned");
        }
    }

    private static byte* Reserve(nuint bytes)
    {
        void* address = Libc.mmap(
            null,
            bytes,
            mman.PROT_READ | mman.PROT_WRITE,
            mman.MAP_PRIVATE | mman.MAP_ANONYMOUS,
            FileDescriptor.None,
            0);
        if (address == (void*)-1)
        {
            LinuxException.Throw(
                "mmap", string.Create(CultureInfo.InvariantCulture, $"{bytes} bytes of anonymous memory"));
        }

        return (byte*)address;
    }

    private static void Unmap(byte* address, nuint bytes)
    {
        // Only cutting a mapping in two can fail: ENOMEM, at vm.max_map_count.
        if (bytes != 0 && Libc.munmap(address, bytes) < 0)
        {
            LinuxException.Throw("munmap", string.Create(CultureInfo.InvariantCulture, $"{bytes} bytes"));
        }
    }

    private static nuint RoundUp(nuint value, nuint unit) => (value + unit - 1) / unit * unit;
}
