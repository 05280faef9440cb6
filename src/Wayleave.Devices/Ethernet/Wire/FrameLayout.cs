using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Wire;

/// <summary>How much of a frame was understood.</summary>
public enum FrameKind
{
    /// <summary>ARP, ICMP, UDP and whatever else IP carries: for the host's own functions, whole.</summary>
    Other,

    /// <summary>TCP with a complete header: can be split.</summary>
    Tcp,
}

/// <summary>
/// Where the parts of a frame are and what its headers say, once <see cref="FrameParser"/> has found nothing wrong with
/// them. Offsets are from the start of the frame.
/// </summary>
public readonly record struct FrameLayout
{
    public FrameKind Kind { get; init; }

    public MacAddress DestinationMac { get; init; }

    public MacAddress SourceMac { get; init; }

    /// <summary>The identifier of the tag, or null without one.</summary>
    public ushort? Vlan { get; init; }

    public EtherType EtherType { get; init; }

    /// <summary>What IP carries, after its extension headers; meaningless for ARP.</summary>
    public IpProtocol Protocol { get; init; }

    /// <summary>Where the network header starts.</summary>
    public int NetworkOffset { get; init; }

    /// <summary>Where the transport header starts; for ARP the same as <see cref="NetworkOffset"/>.</summary>
    public int TransportOffset { get; init; }

    /// <summary>Where the payload of TCP and UDP starts; for all others the transport header.</summary>
    public int PayloadOffset { get; init; }

    /// <summary>Where the packet ends; Ethernet padding may follow.</summary>
    public int EndOffset { get; init; }

    public IpAddress Source { get; init; }

    public IpAddress Destination { get; init; }

    /// <summary>Time to live or hop limit.</summary>
    public byte HopLimit { get; init; }

    /// <summary>DSCP and ECN.</summary>
    public byte TrafficClass { get; init; }

    /// <summary>TCP and UDP; otherwise 0.</summary>
    public ushort SourcePort { get; init; }

    /// <summary>TCP and UDP; otherwise 0.</summary>
    public ushort DestinationPort { get; init; }

    /// <summary>Meaningless unless <see cref="Kind"/> is Tcp.</summary>
    public TcpHeader Tcp { get; init; }

    public int PayloadBytes => EndOffset - PayloadOffset;

    /// <summary>Whether ports tell flows apart.</summary>
    public bool HasPorts => EtherType != EtherType.Arp && Protocol is IpProtocol.Tcp or IpProtocol.Udp;
}
