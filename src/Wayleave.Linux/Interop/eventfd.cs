namespace Wayleave.Linux.Interop;

// <sys/eventfd.h>
internal static class eventfd
{
    internal const int EFD_CLOEXEC = 0x80000;
    internal const int EFD_NONBLOCK = 0x800;
}
