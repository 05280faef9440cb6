using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Devmem;

/// <summary>
/// Requests to the netlink family netdev, as <c>Documentation/netlink/specs/netdev.yaml</c> has them. Each is put
/// together in a buffer of the caller's, in which the result lies.
/// </summary>
internal static class NetdevRequests
{
    /// <summary>Most queues of one bind: what fits beside the rest into a buffer of 8 KiB.</summary>
    public const int QueuesMax = 400;

    private const byte Version = 1;

    /// <summary>Binds a dma-buf to receive queues.</summary>
    /// <param name="buffer">8 KiB.</param>
    /// <param name="family">The kernel's number for netdev.</param>
    /// <param name="sequence">What the answer will name.</param>
    /// <param name="interfaceIndex">Of the NIC.</param>
    /// <param name="dmaBuf">A descriptor of this process.</param>
    /// <param name="queues">At most <see cref="QueuesMax"/>.</param>
    public static ReadOnlySpan<byte> BindReceive(
        Span<byte> buffer, ushort family, uint sequence, uint interfaceIndex, uint dmaBuf, ReadOnlySpan<uint> queues)
    {
        NetlinkMessage message = new(buffer, family, netdev.NETDEV_CMD_BIND_RX, Version, sequence);
        message.Add(netdev.NETDEV_A_DMABUF_IFINDEX, interfaceIndex);
        message.Add(netdev.NETDEV_A_DMABUF_FD, dmaBuf);
        foreach (uint queue in queues)
        {
            int nested = message.BeginNested(netdev.NETDEV_A_DMABUF_QUEUES);
            message.Add(netdev.NETDEV_A_QUEUE_ID, queue);
            message.Add(netdev.NETDEV_A_QUEUE_TYPE, netdev.NETDEV_QUEUE_TYPE_RX);
            message.EndNested(nested);
        }

        return message.Bytes;
    }

    /// <summary>Binds a dma-buf to be sent from; the rest as <see cref="BindReceive"/>.</summary>
    public static ReadOnlySpan<byte> BindTransmit(
        Span<byte> buffer, ushort family, uint sequence, uint interfaceIndex, uint dmaBuf)
    {
        NetlinkMessage message = new(buffer, family, netdev_tx.NETDEV_CMD_BIND_TX, Version, sequence);
        message.Add(netdev.NETDEV_A_DMABUF_IFINDEX, interfaceIndex);
        message.Add(netdev.NETDEV_A_DMABUF_FD, dmaBuf);
        return message.Bytes;
    }
}
