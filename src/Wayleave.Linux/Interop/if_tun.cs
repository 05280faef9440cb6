namespace Wayleave.Linux.Interop;

// <linux/if_tun.h>
internal static class if_tun
{
    internal const short IFF_TAP = 0x0002;
    internal const short IFF_MULTI_QUEUE = 0x0100;
    internal const short IFF_NO_PI = 0x1000;
    internal const short IFF_VNET_HDR = 0x4000;

    internal const uint TUN_F_CSUM = 0x01;
    internal const uint TUN_F_TSO4 = 0x02;
    internal const uint TUN_F_TSO6 = 0x04;
    internal const uint TUN_F_TSO_ECN = 0x08;

    internal static readonly nuint TUNSETIFF = ioctl._IOW('T', 202, sizeof(int));
    internal static readonly nuint TUNSETOWNER = ioctl._IOW('T', 204, sizeof(int));
    internal static readonly nuint TUNSETOFFLOAD = ioctl._IOW('T', 208, sizeof(uint));
    internal static readonly nuint TUNGETIFF = ioctl._IOR('T', 210, sizeof(uint));
    internal static readonly nuint TUNSETVNETHDRSZ = ioctl._IOW('T', 216, sizeof(int));
    internal static readonly nuint TUNSETVNETLE = ioctl._IOW('T', 220, sizeof(int));
    internal static readonly nuint TUNSETSTEERINGEBPF = ioctl._IOR('T', 224, sizeof(int));
}

// <linux/if_tun.h> of Linux 6.2
internal static class if_tun_uso
{
    internal const uint TUN_F_USO4 = 0x20;
    internal const uint TUN_F_USO6 = 0x40;
}
