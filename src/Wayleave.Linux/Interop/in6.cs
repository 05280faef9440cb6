namespace Wayleave.Linux.Interop;

// include/uapi/linux/in6.h
internal static class in6
{
    internal const int IPV6_MTU_DISCOVER = 23;
    internal const int IPV6_RECVERR = 25;
    internal const int IPV6_V6ONLY = 26;
    internal const int IPV6_RECVTCLASS = 66;
    internal const int IPV6_TCLASS = 67;

    internal const int IPV6_MULTICAST_IF = 17;
    internal const int IPV6_ADD_MEMBERSHIP = 20;
    internal const int IPV6_DROP_MEMBERSHIP = 21;
    internal const int IPV6_MULTICAST_ALL = 29;
    internal const int IPV6_HOPLIMIT = 52;

    internal const int IPV6_PMTUDISC_DO = 2;
}

internal unsafe struct ipv6_mreq
{
    internal fixed byte ipv6mr_multiaddr[16];
    internal uint ipv6mr_ifindex;
}

internal unsafe struct sockaddr_in6
{
    internal ushort sin6_family;
    internal ushort sin6_port;
    internal uint sin6_flowinfo;
    internal fixed byte sin6_addr[16];
    internal uint sin6_scope_id;
}
