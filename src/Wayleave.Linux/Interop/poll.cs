namespace Wayleave.Linux.Interop;

// <poll.h>
internal static class poll
{
    internal const short POLLIN = 0x1;
    internal const short POLLOUT = 0x4;
}

internal struct pollfd
{
    internal int fd;
    internal short events;
    internal short revents;
}
