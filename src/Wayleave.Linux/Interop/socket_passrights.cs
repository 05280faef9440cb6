namespace Wayleave.Linux.Interop;

// <asm-generic/socket.h>, since Linux 6.16
internal static class socket_passrights
{
    internal const int SO_PASSRIGHTS = 83;
}
