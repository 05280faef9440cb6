using System.Runtime.InteropServices;

namespace Wayleave.Linux.Interop;

// <linux/if.h>
internal static class @if
{
    internal const int IFNAMSIZ = 16;

    internal const uint IFF_UP = 1;
    internal const uint IFF_RUNNING = 0x40;
}

[StructLayout(LayoutKind.Sequential, Size = 40)]
internal unsafe struct ifreq
{
    internal fixed byte ifr_name[@if.IFNAMSIZ];
    internal short ifr_flags; // the first of a union
}
