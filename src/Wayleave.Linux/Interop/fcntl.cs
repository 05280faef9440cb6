namespace Wayleave.Linux.Interop;

// include/uapi/linux/fcntl.h
internal static class fcntl
{
    internal const int F_ADD_SEALS = 1033;
    internal const int F_GET_SEALS = 1034;

    internal const int F_SEAL_SHRINK = 0x2;
    internal const int F_SEAL_GROW = 0x4;
}
