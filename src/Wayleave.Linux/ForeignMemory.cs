using System.Buffers;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// Addresses of this process that somebody else owns, a C program that lends its memory for instance. Nothing is mapped
/// or kept: whoever touches a part of it knows that the owner has lent that part.
/// </summary>
/// <param name="address">The first byte.</param>
/// <param name="lengthBytes">Not negative.</param>
public sealed unsafe class ForeignMemory(nint address, int lengthBytes) : MemoryManager<byte>
{
    public override Span<byte> GetSpan() => new((void*)address, lengthBytes);

    /// <summary>Keeps nothing: the addresses do not move.</summary>
    public override MemoryHandle Pin(int elementIndex = 0)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)elementIndex, (uint)lengthBytes, nameof(elementIndex));
        return new MemoryHandle((byte*)address + elementIndex);
    }

    public override void Unpin()
    {
        // Pin has kept nothing.
    }

    /// <summary>Nothing to let go of.</summary>
    protected override void Dispose(bool disposing)
    {
        // The addresses are somebody else's.
    }

    /// <summary>
    /// Brings every page of a range in, as pinning it would (MADV_POPULATE_READ or _WRITE, Linux 5.14; on an older
    /// kernel nothing is done).
    /// </summary>
    /// <param name="address">Any.</param>
    /// <param name="lengthBytes">Not zero; the range does not go round.</param>
    /// <param name="isWritable">Whether the pages must be writable.</param>
    /// <returns>
    /// EFAULT where nothing is mapped, or not for writing, and where no page can be had.
    /// </returns>
    public static Errno TryPopulate(nuint address, nuint lengthBytes, bool isWritable)
    {
        nuint page = (nuint)Environment.SystemPageSize;
        nuint start = address & ~(page - 1);
        nuint length = (address - start + lengthBytes + page - 1) & ~(page - 1);
        int advice = isWritable ? mman.MADV_POPULATE_WRITE : mman.MADV_POPULATE_READ;
        while (Libc.madvise((void*)start, length, advice) < 0)
        {
            Errno errno = (Errno)System.Runtime.InteropServices.Marshal.GetLastPInvokeError();
            switch (errno)
            {
                case Errno.EINTR:
                    continue;
                case Errno.EINVAL when !HasPopulate():
                    return Errno.Success;
                case Errno.EINVAL: // permissions
                case Errno.ENOMEM: // a hole, says madvise(2)
                    return Errno.EFAULT;
                default:
                    return errno;
            }
        }

        return Errno.Success;
    }

    // A page that is certainly there: if that cannot be asked for, nothing can.
    private static bool HasPopulate()
    {
        int there = 0;
        nuint page = (nuint)Environment.SystemPageSize;
        return Libc.madvise((void*)((nuint)(&there) & ~(page - 1)), page, mman.MADV_POPULATE_READ) == 0;
    }
}
