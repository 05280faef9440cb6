namespace Wayleave.Devices.Ethernet.Wire;

/// <summary>
/// What an IP packet carries, and the extension headers of IPv6 (<c>in.h</c>, <c>in6.h</c>); the values are those on
/// the wire.
/// </summary>
public enum IpProtocol : byte
{
    HopByHopOptions = 0,
    Icmp = 1,
    Tcp = 6,
    Udp = 17,
    Routing = 43,
    Fragment = 44,
    IcmpV6 = 58,
    NoNextHeader = 59,
    DestinationOptions = 60,
}
