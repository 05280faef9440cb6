using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

// Read first: rtnetlink(7). One request, one acknowledgement, on a socket of its own.

/// <summary>
/// An interface of the calling thread's network namespace, as <c>ip link</c> and <c>ip address</c> set it up. To change
/// one takes CAP_NET_ADMIN in that namespace.
/// </summary>
public static unsafe class NetworkInterface
{
    private const int MessageBytesMax = 128;
    private const int AnswerBytesMax = 512;

    /// <summary>Whether the namespace has an interface of that name.</summary>
    public static bool Exists(string name) => FindIndex(name) != 0;

    /// <summary>The kernel's number for it in this network namespace; 0 when there is none.</summary>
    public static uint FindIndex(string name) => Libc.if_nametoindex(name);

    /// <summary>Switches an interface on, with its MTU or another (<c>ip link set NAME mtu N up</c>).</summary>
    /// <param name="name">It exists.</param>
    /// <param name="mtuBytes">Null leaves it.</param>
    /// <exception cref="LinuxException">
    /// EPERM without CAP_NET_ADMIN, ENODEV without such an interface, EINVAL for an MTU that it does not take.
    /// </exception>
    public static void SetUp(string name, int? mtuBytes)
    {
        Span<byte> message = stackalloc byte[MessageBytesMax];
        ifinfomsg body = new() { ifi_index = IndexOf(name), ifi_flags = @if.IFF_UP, ifi_change = @if.IFF_UP };
        int length = Begin(message, body);
        if (mtuBytes is { } mtu)
        {
            Append(message, ref length, rtnetlink.IFLA_MTU, MemoryMarshal.AsBytes(new ReadOnlySpan<int>(ref mtu)));
        }

        Request(message[..length], rtnetlink.RTM_NEWLINK, flags: 0, "RTM_NEWLINK", name);
    }

    /// <summary>
    /// Gives an interface an address (<c>ip address replace ADDRESS/BITS dev NAME nodad</c>): an IPv6 address is good
    /// at once.
    /// </summary>
    /// <exception cref="LinuxException">
    /// EPERM without CAP_NET_ADMIN, ENODEV without such an interface, EINVAL for an address that is none of a machine.
    /// </exception>
    public static void AddAddress(string name, IPAddress address, int prefixLength)
    {
        ArgumentNullException.ThrowIfNull(address);
        bool isIPv4 = address.AddressFamily == AddressFamily.InterNetwork;
        Span<byte> message = stackalloc byte[MessageBytesMax];
        ifaddrmsg body = new()
        {
            ifa_family = (byte)(isIPv4 ? socket.AF_INET : socket.AF_INET6),
            ifa_prefixlen = (byte)prefixLength,
            ifa_flags = isIPv4 ? (byte)0 : rtnetlink.IFA_F_NODAD,
            ifa_index = (uint)IndexOf(name),
        };
        int length = Begin(message, body);
        byte[] bytes = address.GetAddressBytes();
        Append(message, ref length, rtnetlink.IFA_LOCAL, bytes);
        Append(message, ref length, rtnetlink.IFA_ADDRESS, bytes);
        Request(
            message[..length],
            rtnetlink.RTM_NEWADDR,
            netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE,
            "RTM_NEWADDR",
            $"{address}/{prefixLength} of {name}");
    }

    private static int IndexOf(string name)
    {
        uint index = Libc.if_nametoindex(name);
        if (index == 0)
        {
            LinuxException.Throw("if_nametoindex", name);
        }

        return (int)index;
    }

    private static int Begin<T>(Span<byte> message, T body)
        where T : unmanaged
    {
        message.Clear();
        MemoryMarshal.Write(message[sizeof(nlmsghdr)..], body);
        return sizeof(nlmsghdr) + sizeof(T);
    }

    private static void Append(Span<byte> message, ref int length, ushort type, ReadOnlySpan<byte> value)
    {
        rtattr header = new() { rta_len = (ushort)(sizeof(rtattr) + value.Length), rta_type = type };
        MemoryMarshal.Write(message[length..], header);
        value.CopyTo(message[(length + sizeof(rtattr))..]);
        length += (header.rta_len + netlink.NLMSG_ALIGNTO - 1) & ~(netlink.NLMSG_ALIGNTO - 1);
    }

    private static void Request(Span<byte> message, ushort type, int flags, string call, string subject)
    {
        nlmsghdr header = new()
        {
            nlmsg_len = (uint)message.Length,
            nlmsg_type = type,
            nlmsg_flags = (ushort)(netlink.NLM_F_REQUEST | netlink.NLM_F_ACK | flags),
        };
        MemoryMarshal.Write(message, header);
        using FileDescriptor fd = Libc.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink.NETLINK_ROUTE);
        if (fd.IsInvalid)
        {
            LinuxException.Throw("socket", "AF_NETLINK");
        }

        Span<byte> answer = stackalloc byte[AnswerBytesMax];
        Errno errno = Exchange(fd, message, answer, out int length);
        if (errno == Errno.Success && length < sizeof(nlmsghdr) + sizeof(nlmsgerr))
        {
            errno = Errno.EPROTO;
        }

        if (errno == Errno.Success)
        {
            errno = (Errno)(-MemoryMarshal.Read<nlmsgerr>(answer[sizeof(nlmsghdr)..]).error);
        }

        if (errno != Errno.Success)
        {
            throw new LinuxException(call, subject, errno, errno == Errno.EPERM
                ? "it takes CAP_NET_ADMIN: run it in a network namespace of its own (unshare -Urn), or let root do it"
                : null);
        }
    }

    // The kernel answers before the write returns.
    private static Errno Exchange(FileDescriptor fd, ReadOnlySpan<byte> message, Span<byte> answer, out int length)
    {
        length = 0;
        using FileDescriptor.Borrowed borrowed = fd.Borrow();
        fixed (byte* request = message)
        fixed (byte* reply = answer)
        {
            nint count;
            Errno errno;
            do
            {
                count = Libc.write(borrowed.Number, request, (nuint)message.Length);
                errno = count < 0 ? LinuxException.LastErrno() : Errno.Success;
            }
            while (errno == Errno.EINTR);
            if (errno != Errno.Success)
            {
                return errno;
            }

            do
            {
                count = Libc.read(borrowed.Number, reply, (nuint)answer.Length);
                errno = count < 0 ? LinuxException.LastErrno() : Errno.Success;
            }
            while (errno == Errno.EINTR);
            length = (int)Math.Max(count, 0);
            return errno;
        }
    }
}
