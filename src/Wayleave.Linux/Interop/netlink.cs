namespace Wayleave.Linux.Interop;

// <linux/netlink.h>
internal static class netlink
{
    internal const int NETLINK_ROUTE = 0;

    internal const ushort NLM_F_REQUEST = 0x01;
    internal const ushort NLM_F_ACK = 0x04;
    internal const ushort NLM_F_REPLACE = 0x100;
    internal const ushort NLM_F_CREATE = 0x400;

    internal const ushort NLMSG_ERROR = 0x2;
    internal const int NLMSG_ALIGNTO = 4;
}

internal struct nlmsghdr
{
    internal uint nlmsg_len;
    internal ushort nlmsg_type;
    internal ushort nlmsg_flags;
    internal uint nlmsg_seq;
    internal uint nlmsg_pid;
}

internal struct nlmsgerr
{
    internal int error;
    internal nlmsghdr msg;
}
