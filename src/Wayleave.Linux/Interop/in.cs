namespace Wayleave.Linux.Interop;

// include/uapi/linux/in.h
internal static class @in
{
    internal const int IPPROTO_IP = 0;
    internal const int IPPROTO_UDP = 17;
    internal const int IPPROTO_IPV6 = 41;

    internal const int IP_TOS = 1;
    internal const int IP_MTU_DISCOVER = 10;
    internal const int IP_RECVERR = 11;
    internal const int IP_RECVTOS = 13;

    internal const int IP_TTL = 2;
    internal const int IP_ADD_MEMBERSHIP = 35;
    internal const int IP_DROP_MEMBERSHIP = 36;
    internal const int IP_MULTICAST_ALL = 49;

    internal const int IP_PMTUDISC_DO = 2;
}

internal struct ip_mreqn
{
    internal uint imr_multiaddr;
    internal uint imr_address;
    internal int imr_ifindex;
}

internal struct sockaddr_in
{
    internal ushort sin_family;
    internal ushort sin_port;
    internal uint sin_addr;
    internal ulong __pad;
}
