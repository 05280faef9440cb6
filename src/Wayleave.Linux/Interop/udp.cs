namespace Wayleave.Linux.Interop;

// include/uapi/linux/udp.h
internal static class udp
{
    internal const int UDP_NO_CHECK6_TX = 101;
    internal const int UDP_NO_CHECK6_RX = 102;
    internal const int UDP_SEGMENT = 103;
    internal const int UDP_GRO = 104;
}
