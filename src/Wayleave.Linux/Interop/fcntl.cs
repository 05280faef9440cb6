using System.Runtime.InteropServices;

namespace Wayleave.Linux.Interop;

// include/uapi/linux/fcntl.h
internal static class fcntl
{
    internal const int O_RDWR = 0x2;
    internal const int O_APPEND = 0x400;
    internal const int O_NONBLOCK = 0x800;
    internal const int O_CLOEXEC = 0x80000;

    internal const int F_SETFL = 4;

    internal const int F_WRLCK = 1;
    internal const int F_UNLCK = 2;

    internal const int F_SETSIG = 10;
    internal const int F_SETLEASE = 1024;
    internal const int F_DUPFD_CLOEXEC = 1030;
    internal const int F_ADD_SEALS = 1033;
    internal const int F_GET_SEALS = 1034;

    internal const int O_WRONLY = 0x1;

    // O_DIRECTORY, which is part of it, has a number of its own on Arm.
    internal static readonly int O_TMPFILE = RuntimeInformation.ProcessArchitecture switch
    {
        Architecture.Arm or Architecture.Arm64 => 0x404000,
        _ => 0x410000,
    };

    internal const int LOCK_EX = 2;
    internal const int LOCK_NB = 4;

    internal const int AT_FDCWD = -100;
    internal const int AT_SYMLINK_NOFOLLOW = 0x100;
    internal const int AT_SYMLINK_FOLLOW = 0x400;
    internal const int AT_EACCESS = 0x200;
    internal const int AT_EMPTY_PATH = 0x1000;

    internal const int F_SEAL_SEAL = 0x1;
    internal const int F_SEAL_SHRINK = 0x2;
    internal const int F_SEAL_GROW = 0x4;

    // Arm has numbers of its own.
    internal static readonly int O_DIRECT = RuntimeInformation.ProcessArchitecture switch
    {
        Architecture.X64 or Architecture.RiscV64 or Architecture.LoongArch64 => 0x4000,
        Architecture.Arm64 => 0x10000,
        Architecture other => throw new PlatformNotSupportedException($"O_DIRECT of {other} is not known here"),
    };
}
