namespace Wayleave.Linux.Interop;

// include/uapi/linux/memfd.h
internal static class memfd
{
    internal const uint MFD_CLOEXEC = 0x1;
    internal const uint MFD_ALLOW_SEALING = 0x2;
}
