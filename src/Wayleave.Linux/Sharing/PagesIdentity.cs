using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Sharing;

// A memfd's inode is on a mount of the kernel's own, which no process can mount anything over or make files in but by
// memfd_create and its like, and whose inodes are numbered by 64 bits since Linux 5.9: a number that was used is not
// used again (shmem_get_inode, SB_KERNMOUNT). So device and inode name the pages for good, and nobody can make others
// that have them.

/// <summary>Which pages a descriptor is of: the same for every descriptor of one memfd, and for no other.</summary>
/// <param name="Device">Of the file system, as stat(2) has it in two halves: major, then minor.</param>
/// <param name="Inode">On it.</param>
public readonly record struct PagesIdentity(ulong Device, ulong Inode)
{
    /// <summary>Asks the kernel what a descriptor is of, whoever sent it.</summary>
    /// <param name="descriptor">Any.</param>
    /// <param name="identity">Of its file.</param>
    /// <param name="sizeBytes">Of its file now.</param>
    /// <returns>False when the file system does not say.</returns>
    /// <exception cref="ObjectDisposedException">The descriptor is closed.</exception>
    public static unsafe bool TryRead(FileDescriptor descriptor, out PagesIdentity identity, out long sizeBytes)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        statx read = default;
        bool isRead = Libc.statx(
            descriptor, "", fcntl.AT_EMPTY_PATH, stat.STATX_INO | stat.STATX_SIZE, &read) == 0;
        identity = new PagesIdentity(((ulong)read.stx_dev_major << 32) | read.stx_dev_minor, read.stx_ino);
        sizeBytes = (long)read.stx_size;
        return isRead;
    }
}
