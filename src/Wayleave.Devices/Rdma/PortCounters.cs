namespace Wayleave.Devices.Rdma;

/// <summary>
/// Counters of one port; those of <see cref="RdmaStats"/> are sums over all ports of the device. Written under the port
/// token.
/// </summary>
public struct PortCounters
{
    public long PacketsReceived { get; internal set; }
    public long BytesReceived { get; internal set; }
    public long PacketsSent { get; internal set; }
    public long BytesSent { get; internal set; }

    /// <summary>Packets that came to a group (<c>multicast_rcv_packets</c>), each once, whoever got it.</summary>
    public long MulticastReceived { get; internal set; }

    /// <summary>Packets that left for a group (<c>multicast_xmit_packets</c>).</summary>
    public long MulticastSent { get; internal set; }

    /// <summary>Packets dropped without an answer.</summary>
    public long PacketsDropped { get; internal set; }

    /// <summary>Packets that were to leave while the port was down (<c>port_xmit_discards</c>).</summary>
    public long SendsDiscarded { get; internal set; }

    /// <summary>Times the port went down (<c>link_downed</c>).</summary>
    public long Downs { get; internal set; }
}
