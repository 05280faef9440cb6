namespace Wayleave.Linux.Interop;

// include/uapi/linux/udmabuf.h
internal static unsafe class udmabuf
{
    internal const uint UDMABUF_FLAGS_CLOEXEC = 0x01;

    internal static readonly nuint UDMABUF_CREATE = ioctl._IOW('u', 0x42, sizeof(udmabuf_create));
}

internal struct udmabuf_create
{
    internal uint memfd;
    internal uint flags;
    internal ulong offset;
    internal ulong size;
}
