namespace Wayleave.Linux.Interop;

// <asm-generic/socket.h> of Linux 6.12
internal static class socket_devmem
{
    internal const int SCM_DEVMEM_LINEAR = 78;
    internal const int SCM_DEVMEM_DMABUF = 79;
    internal const int SO_DEVMEM_DONTNEED = 80;
}
