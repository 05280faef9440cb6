namespace Wayleave.Linux.Interop;

// include/uapi/linux/sock_diag.h: the words of SO_MEMINFO
internal static class sock_diag
{
    internal const int SK_MEMINFO_RMEM_ALLOC = 0;
    internal const int SK_MEMINFO_RCVBUF = 1;
    internal const int SK_MEMINFO_WMEM_ALLOC = 2;
    internal const int SK_MEMINFO_SNDBUF = 3;
    internal const int SK_MEMINFO_DROPS = 8;
    internal const int SK_MEMINFO_VARS = 9;
}
