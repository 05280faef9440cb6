namespace Wayleave.Linux.Interop;

// <unistd.h>: of faccessat and lseek
internal static class access
{
    internal const int W_OK = 2;
    internal const int R_OK = 4;

    internal const int SEEK_END = 2;
}
