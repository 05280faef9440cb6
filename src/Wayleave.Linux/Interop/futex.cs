namespace Wayleave.Linux.Interop;

// include/uapi/linux/futex.h
internal static class futex
{
    internal const int FUTEX_WAIT = 0;
    internal const int FUTEX_WAKE = 1;
    internal const int FUTEX_PRIVATE_FLAG = 128;
}
