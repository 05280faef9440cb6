namespace Wayleave.Linux.Interop;

// <unistd.h>: of faccessat
internal static class access
{
    internal const int W_OK = 2;
    internal const int R_OK = 4;
}
