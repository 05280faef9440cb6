namespace Wayleave.Linux.Interop;

// <sys/socket.h>
internal static class socket
{
    internal const int AF_UNIX = 1;
    internal const int AF_INET = 2;
    internal const int AF_INET6 = 10;
    internal const int AF_NETLINK = 16;

    internal const int SOCK_DGRAM = 2;
    internal const int SOCK_RAW = 3;
    internal const int SOCK_SEQPACKET = 5;
    internal const int SOCK_NONBLOCK = 0x800;
    internal const int SOCK_CLOEXEC = 0x80000;

    internal const int SOL_SOCKET = 1;
    internal const int SOL_NETLINK = 270;
    internal const int SO_REUSEADDR = 2;
    internal const int SO_SNDBUF = 7;
    internal const int SO_RCVBUF = 8;
    internal const int SO_PEERCRED = 17;
    internal const int SO_ATTACH_FILTER = 26;
    internal const int SO_SNDBUFFORCE = 32;
    internal const int SO_RCVBUFFORCE = 33;
    internal const int SO_MEMINFO = 55;
    internal const int SO_COOKIE = 57;
    internal const int SO_ZEROCOPY = 60;
    internal const int SO_BINDTOIFINDEX = 62;

    internal const int SCM_RIGHTS = 0x01;

    internal const int SHUT_RD = 0;
    internal const int SHUT_WR = 1;

    internal const int MSG_PEEK = 0x02;
    internal const int MSG_CTRUNC = 0x08;
    internal const int MSG_TRUNC = 0x20;
    internal const int MSG_DONTWAIT = 0x40;
    internal const int MSG_ERRQUEUE = 0x2000;
    internal const int MSG_NOSIGNAL = 0x4000;
    internal const int MSG_ZEROCOPY = 0x4000000;
    internal const int MSG_CMSG_CLOEXEC = 0x40000000;
}

internal unsafe struct iovec
{
    internal void* iov_base;
    internal nuint iov_len;
}

internal unsafe struct msghdr
{
    internal void* msg_name;
    internal uint msg_namelen;
    internal iovec* msg_iov;
    internal nuint msg_iovlen;
    internal void* msg_control;
    internal nuint msg_controllen;
    internal int msg_flags;
}

internal struct mmsghdr
{
    internal msghdr msg_hdr;
    internal uint msg_len;
}

internal struct cmsghdr
{
    internal nuint cmsg_len;
    internal int cmsg_level;
    internal int cmsg_type;
}

internal struct ucred
{
    internal int pid;
    internal uint uid;
    internal uint gid;
}
