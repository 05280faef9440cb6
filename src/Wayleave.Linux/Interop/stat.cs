using System.Runtime.InteropServices;

namespace Wayleave.Linux.Interop;

// <sys/stat.h>
internal static class stat
{
    internal const uint STATX_TYPE = 0x1;
    internal const uint STATX_MODE = 0x2;
    internal const uint STATX_UID = 0x8;
    internal const uint STATX_INO = 0x100;
    internal const uint STATX_SIZE = 0x200;

    internal const int S_IFMT = 0xF000;
    internal const int S_IFSOCK = 0xC000;
    internal const int S_IFBLK = 0x6000;
    internal const int S_IFCHR = 0x2000;
    internal const int S_IFIFO = 0x1000;
    internal const int S_IFLNK = 0xA000;
    internal const int S_IFREG = 0x8000;
    internal const int S_IFDIR = 0x4000;
}

[StructLayout(LayoutKind.Explicit, Size = 256)]
internal struct statx
{
    [FieldOffset(0)] internal uint stx_mask;
    [FieldOffset(4)] internal uint stx_blksize;
    [FieldOffset(8)] internal ulong stx_attributes;
    [FieldOffset(16)] internal uint stx_nlink;
    [FieldOffset(20)] internal uint stx_uid;
    [FieldOffset(24)] internal uint stx_gid;
    [FieldOffset(28)] internal ushort stx_mode;
    [FieldOffset(32)] internal ulong stx_ino;
    [FieldOffset(40)] internal ulong stx_size;
    [FieldOffset(136)] internal uint stx_dev_major;
    [FieldOffset(140)] internal uint stx_dev_minor;
}
