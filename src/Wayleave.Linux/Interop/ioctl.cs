namespace Wayleave.Linux.Interop;

// include/uapi/asm-generic/ioctl.h: as on every architecture that .NET runs on, except 64-bit PowerPC
internal static class ioctl
{
    internal const int _IOC_NRSHIFT = 0;
    internal const int _IOC_TYPESHIFT = 8;
    internal const int _IOC_SIZESHIFT = 16;
    internal const int _IOC_DIRSHIFT = 30;

    internal const uint _IOC_NONE = 0;
    internal const uint _IOC_WRITE = 1;
    internal const uint _IOC_READ = 2;

    internal static nuint _IOW(char type, int nr, int size) => _IOC(_IOC_WRITE, type, nr, size);

    internal static nuint _IOR(char type, int nr, int size) => _IOC(_IOC_READ, type, nr, size);

    internal static nuint _IOWR(char type, int nr, int size) => _IOC(_IOC_READ | _IOC_WRITE, type, nr, size);

    private static nuint _IOC(uint dir, char type, int nr, int size) =>
        ((nuint)dir << _IOC_DIRSHIFT) | ((nuint)type << _IOC_TYPESHIFT) | ((nuint)nr << _IOC_NRSHIFT)
        | ((nuint)size << _IOC_SIZESHIFT);
}
