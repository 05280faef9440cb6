namespace Wayleave.Linux.Interop;

// <linux/netlink.h>
internal static class netlink
{
    internal const int NETLINK_ROUTE = 0;
    internal const int NETLINK_GENERIC = 16;
    internal const int NETLINK_CAP_ACK = 10;
    internal const int NETLINK_EXT_ACK = 11;

    internal const ushort NLM_F_REQUEST = 0x01;
    internal const ushort NLM_F_ACK = 0x04;
    internal const ushort NLM_F_REPLACE = 0x100;
    internal const ushort NLM_F_ACK_TLVS = 0x200;
    internal const ushort NLM_F_CREATE = 0x400;

    internal const ushort NLMSG_ERROR = 0x2;
    internal const ushort NLMSG_DONE = 0x3;
    internal const int NLMSG_ALIGNTO = 4;

    internal const ushort NLA_F_NESTED = 1 << 15;
    internal const ushort NLMSGERR_ATTR_MSG = 1;
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

internal struct nlattr
{
    internal ushort nla_len;
    internal ushort nla_type;
}
