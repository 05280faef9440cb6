namespace Wayleave.Linux.Interop;

// include/uapi/linux/userfaultfd.h
internal static unsafe class userfaultfd
{
    internal const int UFFD_USER_MODE_ONLY = 1;

    internal const ulong UFFD_API = 0xAA;

    internal const ulong UFFD_FEATURE_EVENT_FORK = 1 << 1;
    internal const ulong UFFD_FEATURE_EVENT_REMAP = 1 << 2;
    internal const ulong UFFD_FEATURE_EVENT_REMOVE = 1 << 3;
    internal const ulong UFFD_FEATURE_MISSING_SHMEM = 1 << 5;
    internal const ulong UFFD_FEATURE_EVENT_UNMAP = 1 << 6;

    internal const ulong UFFDIO_REGISTER_MODE_MISSING = 1 << 0;

    internal const byte UFFD_EVENT_PAGEFAULT = 0x12;
    internal const byte UFFD_EVENT_FORK = 0x13;
    internal const byte UFFD_EVENT_REMAP = 0x14;
    internal const byte UFFD_EVENT_REMOVE = 0x15;
    internal const byte UFFD_EVENT_UNMAP = 0x16;

    internal const ulong UFFD_PAGEFAULT_FLAG_WRITE = 1 << 0;

    internal static readonly nuint UFFDIO_API = ioctl._IOWR('\xaa', 0x3F, sizeof(uffdio_api));
    internal static readonly nuint UFFDIO_REGISTER = ioctl._IOWR('\xaa', 0x00, sizeof(uffdio_register));
    internal static readonly nuint UFFDIO_WAKE = ioctl._IOR('\xaa', 0x02, sizeof(uffdio_range));
    internal static readonly nuint UFFDIO_COPY = ioctl._IOWR('\xaa', 0x03, sizeof(uffdio_copy));
    internal static readonly nuint UFFDIO_ZEROPAGE = ioctl._IOWR('\xaa', 0x04, sizeof(uffdio_zeropage));
}

internal struct uffdio_api
{
    internal ulong api;
    internal ulong features;
    internal ulong ioctls;
}

internal struct uffdio_range
{
    internal ulong start;
    internal ulong len;
}

internal struct uffdio_register
{
    internal uffdio_range range;
    internal ulong mode;
    internal ulong ioctls;
}

internal struct uffdio_copy
{
    internal ulong dst;
    internal ulong src;
    internal ulong len;
    internal ulong mode;
    internal long copy;
}

internal struct uffdio_zeropage
{
    internal uffdio_range range;
    internal ulong mode;
    internal long zeropage;
}

internal struct uffd_msg
{
    internal byte @event;
    internal byte reserved1;
    internal ushort reserved2;
    internal uint reserved3;
    internal Arguments arg;

    // pagefault: flags, address. fork: ufd. remap: from, to, len. remove and unmap: start, end.
    internal struct Arguments
    {
        internal ulong First;
        internal ulong Second;
        internal ulong Third;
    }
}
