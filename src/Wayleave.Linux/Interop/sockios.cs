namespace Wayleave.Linux.Interop;

// <linux/sockios.h>
internal static class sockios
{
    internal const int SIOCGIFFLAGS = 0x8913;
}
