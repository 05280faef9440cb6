using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>What kind of file a name leads to.</summary>
public enum FileKind
{
    Other,
    Regular,
    Directory,
    SymbolicLink,
    Socket,
    Fifo,
    CharacterDevice,
    BlockDevice,
}

/// <summary>
/// Whose file a name leads to and who else may use it: statx(2) without following a symbolic link at the end of the
/// path, because whoever may write to the folder chooses where a link leads.
/// </summary>
/// <param name="Kind">What it is.</param>
/// <param name="UserId">Its owner.</param>
/// <param name="Permissions">Who may read, write and execute, and the set-id and sticky bits.</param>
/// <param name="Inode">Unique in its file system while the file exists.</param>
public readonly record struct FileStatus(FileKind Kind, uint UserId, UnixFileMode Permissions, ulong Inode)
{
    private const int PermissionBits = 0xFFF;
    private const uint Wanted = stat.STATX_TYPE | stat.STATX_MODE | stat.STATX_UID | stat.STATX_INO;

    /// <summary>The effective user id of this process: geteuid(2).</summary>
    public static uint CurrentUserId => Libc.geteuid();

    /// <summary>
    /// Whether somebody besides the owner may write, and with it plant or replace files in a directory.
    /// </summary>
    public bool IsWritableByOthers => (Permissions & (UnixFileMode.GroupWrite | UnixFileMode.OtherWrite)) != 0;

    /// <summary>Looks the name up.</summary>
    /// <returns>False if nothing is there.</returns>
    /// <exception cref="LinuxException">
    /// EACCES, ELOOP, ENAMETOOLONG or EIO: whether something is there cannot be told.
    /// </exception>
    public static bool TryRead(string path, out FileStatus status) =>
        TryRead(path, fcntl.AT_SYMLINK_NOFOLLOW, out status);

    /// <summary>Looks up what the name leads to in the end, through symbolic links.</summary>
    /// <returns>False if nothing is there, also when a link leads nowhere.</returns>
    /// <exception cref="LinuxException">As <see cref="TryRead(string, out FileStatus)"/>.</exception>
    public static bool TryReadThrough(string path, out FileStatus status) => TryRead(path, 0, out status);

    /// <summary>Looks at an open file, whatever name it has now.</summary>
    /// <exception cref="LinuxException">EIO.</exception>
    /// <exception cref="ObjectDisposedException">The file is closed.</exception>
    public static unsafe FileStatus Read(SafeHandle file)
    {
        ArgumentNullException.ThrowIfNull(file);
        statx read = default;
        if (Libc.statx(file, "", fcntl.AT_EMPTY_PATH, Wanted, &read) < 0)
        {
            LinuxException.Throw("statx", "an open file");
        }

        return From(read);
    }

    private static unsafe bool TryRead(string path, int flags, out FileStatus status)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        statx read = default;
        status = default;
        if (Libc.statx(fcntl.AT_FDCWD, path, flags, Wanted, &read) < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            return errno is Errno.ENOENT or Errno.ENOTDIR ? false : throw new LinuxException("statx", path, errno);
        }

        status = From(read);
        return true;
    }

    private static FileStatus From(in statx read)
    {
        FileKind kind = (read.stx_mode & stat.S_IFMT) switch
        {
            stat.S_IFREG => FileKind.Regular,
            stat.S_IFDIR => FileKind.Directory,
            stat.S_IFLNK => FileKind.SymbolicLink,
            stat.S_IFSOCK => FileKind.Socket,
            stat.S_IFIFO => FileKind.Fifo,
            stat.S_IFCHR => FileKind.CharacterDevice,
            stat.S_IFBLK => FileKind.BlockDevice,
            _ => FileKind.Other,
        };
        return new FileStatus(kind, read.stx_uid, (UnixFileMode)(read.stx_mode & PermissionBits), read.stx_ino);
    }
}
