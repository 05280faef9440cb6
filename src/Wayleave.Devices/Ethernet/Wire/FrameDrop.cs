namespace Wayleave.Devices.Ethernet.Wire;

/// <summary>
/// Why a frame vanished. Nothing is ever sent back for these, and no byte of them is placed. In the order of the
/// checks.
/// </summary>
public enum FrameDrop
{
    /// <summary>Not dropped.</summary>
    None = 0,

    /// <summary>The link or the device is down.</summary>
    Down,

    /// <summary>Shorter than an Ethernet header.</summary>
    TooShort,

    /// <summary>Longer than the MTU allows, and not a super-packet.</summary>
    TooLong,

    /// <summary>The destination is neither our address nor a group that was joined.</summary>
    NotOurAddress,

    /// <summary>The Ethernet source is a group address.</summary>
    GroupSource,

    /// <summary>A VLAN that was not configured, or two tags.</summary>
    UnexpectedVlan,

    /// <summary>Neither ARP nor IP.</summary>
    UnknownEtherType,

    /// <summary>Version, header length or total length of IP do not fit each other or the frame.</summary>
    NetworkHeader,

    /// <summary>The checksum of an IPv4 header.</summary>
    NetworkChecksum,

    /// <summary>IPv4 options, source routes among them.</summary>
    NetworkOptions,

    /// <summary>
    /// IPv6 extension headers that are too many, too long, malformed, or none for an end host: routing headers,
    /// jumbograms.
    /// </summary>
    ExtensionHeaders,

    /// <summary>A piece of a packet.</summary>
    Fragment,

    /// <summary>No hop left, a source that cannot be one, or one that is the destination (land).</summary>
    Martian,

    /// <summary>TCP, UDP or ICMP whose header does not fit, or with port 0; TCP to a group.</summary>
    TransportHeader,

    /// <summary>
    /// The link's own header contradicts the packet: checksum start, segment size, segmentation type.
    /// </summary>
    LinkHeader,

    /// <summary>The checksum of TCP, UDP or ICMP, which the link had not verified.</summary>
    TransportChecksum,

    /// <summary>A steering rule says so.</summary>
    Rule,

    /// <summary>The ring of the queue is full (<c>rx_missed_errors</c>).</summary>
    RingFull,

    /// <summary>No chunk is free for the payload, in no pool that may be used (<c>rx_alloc_fail</c>).</summary>
    NoMemory,
}
