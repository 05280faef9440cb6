namespace Wayleave.Linux.Interop;

// <linux/netdev.h> of Linux 6.12
internal static class netdev
{
    internal const byte NETDEV_CMD_BIND_RX = 13;
    internal const ushort NETDEV_A_DMABUF_IFINDEX = 1;
    internal const ushort NETDEV_A_DMABUF_QUEUES = 2;
    internal const ushort NETDEV_A_DMABUF_FD = 3;
    internal const ushort NETDEV_A_DMABUF_ID = 4;
    internal const ushort NETDEV_A_QUEUE_ID = 1;
    internal const ushort NETDEV_A_QUEUE_TYPE = 3;
    internal const uint NETDEV_QUEUE_TYPE_RX = 0;
}

// <linux/netdev.h> of Linux 6.16
internal static class netdev_tx
{
    internal const byte NETDEV_CMD_BIND_TX = 15;
}
