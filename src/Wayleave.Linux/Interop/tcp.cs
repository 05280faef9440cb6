namespace Wayleave.Linux.Interop;

// include/uapi/linux/tcp.h
internal static class tcp
{
    internal const int TCP_USER_TIMEOUT = 18;
}
