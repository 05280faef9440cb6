namespace Wayleave.Linux.Interop;

// <linux/rtnetlink.h>, with what it includes: <linux/if_link.h> and <linux/if_addr.h>
internal static class rtnetlink
{
    internal const ushort RTM_NEWLINK = 16;
    internal const ushort RTM_NEWADDR = 20;

    internal const ushort IFLA_MTU = 4;

    internal const ushort IFA_ADDRESS = 1;
    internal const ushort IFA_LOCAL = 2;
    internal const byte IFA_F_NODAD = 0x02;
}

internal struct rtattr
{
    internal ushort rta_len;
    internal ushort rta_type;
}

internal struct ifinfomsg
{
    internal byte ifi_family;
    internal byte __ifi_pad;
    internal ushort ifi_type;
    internal int ifi_index;
    internal uint ifi_flags;
    internal uint ifi_change;
}

internal struct ifaddrmsg
{
    internal byte ifa_family;
    internal byte ifa_prefixlen;
    internal byte ifa_flags;
    internal byte ifa_scope;
    internal uint ifa_index;
}
