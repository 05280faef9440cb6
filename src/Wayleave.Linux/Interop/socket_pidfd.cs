namespace Wayleave.Linux.Interop;

// <asm-generic/socket.h>, since Linux 6.5
internal static class socket_pidfd
{
    internal const int SO_PEERPIDFD = 77;
}
