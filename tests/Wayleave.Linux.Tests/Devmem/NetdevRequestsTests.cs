using Wayleave.Core;
using Wayleave.Linux.Devmem;
using Wayleave.Linux.Interop;
using Xunit;

namespace Wayleave.Linux.Tests.Devmem;

/// <summary>Requests to bind, beside the same requests made by C with the kernel's own macros.</summary>
public sealed class NetdevRequestsTests
{
    private const ushort Family = 0x1F;
    private const uint Sequence = 9;
    private const uint Interface = 17;
    private const uint DmaBuf = 42;

    // nlmsg_len 76, family, REQUEST | ACK, 9; bind-rx version 1; ifindex 17; fd 42; { id 2, rx }; { id 300, rx }
    private const string BindReceive =
        "4c0000001f0005000900000000000000" + "0d010000" + "0800010011000000" + "080003002a000000"
        + "1400028008000100020000000800030000000000" + "14000280080001002c0100000800030000000000";

    private const string BindTransmit =
        "240000001f0005000900000000000000" + "0f010000" + "0800010011000000" + "080003002a000000";

    [Fact]
    public void Binding_to_receive_is_asked_for_as_the_specification_says() => Assert.Equal(
        BindReceive,
        Hex(NetdevRequests.BindReceive(new byte[8192], Family, Sequence, Interface, DmaBuf, [2, 300])));

    [Fact]
    public void Binding_to_send_is_asked_for_as_the_specification_says() => Assert.Equal(
        BindTransmit,
        Hex(NetdevRequests.BindTransmit(new byte[8192], Family, Sequence, Interface, DmaBuf)));

    [Fact]
    public void As_many_queues_fit_as_are_allowed() => Assert.Equal(
        16 + 4 + 16 + (20 * NetdevRequests.QueuesMax),
        NetdevRequests.BindReceive(
            new byte[8192], Family, Sequence, Interface, DmaBuf, new uint[NetdevRequests.QueuesMax]).Length);

    [Fact]
    public void More_queues_than_fit_are_refused_before_the_kernel_is_asked()
    {
        using NetdevSocket netdev = OpenOrSkip();
        Assert.SkipUnless(netdev.HasReceiveBinding, "this kernel has no bind-rx");
        Errno errno = netdev.BindReceive(
            1, FileDescriptor.None, new uint[NetdevRequests.QueuesMax + 1], out _, out string? reason);
        Assert.Equal(Errno.EINVAL, errno);
        Assert.Contains("do not fit", reason, StringComparison.Ordinal);
    }

    [Fact]
    public void The_headers_make_the_same_requests()
    {
        string[] lines = CProgram.Run(Program).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal([BindReceive, BindTransmit], lines);
    }

    [Fact]
    public void A_kernel_that_cannot_bind_says_so_by_errno()
    {
        using NetdevSocket netdev = OpenOrSkip();
        Errno receive = netdev.BindReceive(1, FileDescriptor.None, [0], out uint id, out _);
        Assert.Contains(receive, (Errno[])[Errno.EOPNOTSUPP, Errno.EPERM, Errno.ENODEV]);
        Assert.Equal(0U, id);
        Errno send = netdev.BindTransmit(1, FileDescriptor.None, out id, out _);
        Assert.Contains(send, (Errno[])[Errno.EOPNOTSUPP, Errno.ENODEV, Errno.EBADF]);
        Assert.Equal(0U, id);
    }

    private static NetdevSocket OpenOrSkip()
    {
        try
        {
            return NetdevSocket.Open();
        }
        catch (LinuxException e) when (e.Errno == Errno.ENOENT)
        {
            Assert.Skip(e.Message);
            throw;
        }
    }

    private static string Hex(ReadOnlySpan<byte> bytes) => Convert.ToHexStringLower(bytes);

    // Where <linux/netdev.h> is older than a name, the name has the kernel's number: what is compared is the layout.
    private static string Program => $$"""
        #include <stdio.h>
        #include <string.h>
        #include <linux/netlink.h>
        #include <linux/genetlink.h>
        #if __has_include(<linux/netdev.h>)
        #include <linux/netdev.h>
        #endif
        #define IFINDEX {{netdev.NETDEV_A_DMABUF_IFINDEX}}
        #define QUEUES {{netdev.NETDEV_A_DMABUF_QUEUES}}
        #define FD {{netdev.NETDEV_A_DMABUF_FD}}

        static unsigned char buffer[512];
        static struct nlmsghdr *begin(int command)
        {
            memset(buffer, 0, sizeof(buffer));
            struct nlmsghdr *n = (struct nlmsghdr *)buffer;
            n->nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
            n->nlmsg_type = {{Family}};
            n->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
            n->nlmsg_seq = {{Sequence}};
            struct genlmsghdr *g = NLMSG_DATA(n);
            g->cmd = command; g->version = 1;
            return n;
        }
        static struct nlattr *put(struct nlmsghdr *n, int type, const void *data, int length)
        {
            struct nlattr *a = (struct nlattr *)(buffer + NLMSG_ALIGN(n->nlmsg_len));
            a->nla_type = type; a->nla_len = NLA_HDRLEN + length;
            if (data) memcpy((char *)a + NLA_HDRLEN, data, length);
            n->nlmsg_len = NLMSG_ALIGN(n->nlmsg_len) + NLA_ALIGN(a->nla_len);
            return a;
        }
        static void put32(struct nlmsghdr *n, int type, __u32 value) { put(n, type, &value, 4); }
        static void queue(struct nlmsghdr *n, __u32 id)
        {
            struct nlattr *nest = put(n, QUEUES | NLA_F_NESTED, 0, 0);
            put32(n, {{netdev.NETDEV_A_QUEUE_ID}}, id);
            put32(n, {{netdev.NETDEV_A_QUEUE_TYPE}}, {{netdev.NETDEV_QUEUE_TYPE_RX}});
            nest->nla_len = buffer + n->nlmsg_len - (unsigned char *)nest;
        }
        static void show(struct nlmsghdr *n)
        {
            for (unsigned i = 0; i < n->nlmsg_len; i++) printf("%02x", buffer[i]);
            printf("\n");
        }
        int main(void)
        {
            struct nlmsghdr *n = begin({{netdev.NETDEV_CMD_BIND_RX}});
            put32(n, IFINDEX, {{Interface}}); put32(n, FD, {{DmaBuf}}); queue(n, 2); queue(n, 300);
            show(n);
            n = begin({{netdev_tx.NETDEV_CMD_BIND_TX}});
            put32(n, IFINDEX, {{Interface}}); put32(n, FD, {{DmaBuf}});
            show(n);
            return 0;
        }
        """;
}
