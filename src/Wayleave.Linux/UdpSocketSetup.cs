using System.Buffers.Binary;
using System.Globalization;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

// Why unconnected and IP_PMTUDISC_DO: the RoCEv2 invariant CRC covers the IPv4 identification, so the sender must know
// it. An unconnected socket that never fragments sends identification 0, and i in segment i of a super-packet. A
// connected socket counts from a random start.
//
// Why UDP checksums are sent: a socket that sends none (SO_NO_CHECK, UDP_NO_CHECK6_TX) gets EINVAL for UDP_SEGMENT.
// With segmentation the device computes them, or on the loopback nobody. Received IPv6 datagrams may lack one: rxe
// sends none.

/// <summary>
/// Makes the socket of a <see cref="UdpEndpoint"/>: its options, its address, and what to say of a refusal.
/// </summary>
internal static unsafe class UdpSocketSetup
{
    private const ushort RoCEv2Port = 4791;

    /// <summary>Opens, configures and binds a socket.</summary>
    /// <param name="local">No wildcard.</param>
    /// <param name="options">Valid.</param>
    /// <param name="bound">With the port that the kernel chose if 0 was asked for.</param>
    /// <returns>The caller's.</returns>
    /// <exception cref="LinuxException">As <see cref="UdpEndpoint.Bind"/>.</exception>
    public static FileDescriptor Open(in EndpointAddress local, UdpEndpointOptions options, out EndpointAddress bound)
    {
        FileDescriptor fd = Libc.socket(
            local.IsIPv4 ? socket.AF_INET : socket.AF_INET6,
            socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            0);
        if (fd.IsInvalid)
        {
            LinuxException.Throw("socket", local.ToString());
        }

        try
        {
            Configure(fd, local, options);
            bound = Bind(fd, local, options.ScopeId);
            return fd;
        }
        catch (LinuxException)
        {
            fd.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Opens a socket that receives what is sent to a group at one interface. Several may, of this process and of
    /// others: each gets every datagram.
    /// </summary>
    /// <param name="group">With the UDP port.</param>
    /// <param name="local">An address of the interface.</param>
    /// <param name="options">Valid.</param>
    /// <param name="index">Of the interface, for IPv6; 0 otherwise. <see cref="LeaveGroup"/> wants it back.</param>
    /// <returns>The caller's; closing the last copy of it leaves the group too.</returns>
    /// <exception cref="LinuxException">As <see cref="UdpGroupSocket.Join"/>.</exception>
    public static FileDescriptor OpenGroup(
        in EndpointAddress group, in EndpointAddress local, UdpEndpointOptions options, out uint index)
    {
        index = group.IsIPv4 ? 0 : InterfaceOf(local, options.ScopeId);
        if (!group.IsIPv4 && index == 0)
        {
            throw new LinuxException("join", $"{group} at {local}", Errno.ENODEV, "no interface has this address");
        }

        FileDescriptor fd = Libc.socket(
            group.IsIPv4 ? socket.AF_INET : socket.AF_INET6,
            socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            0);
        if (fd.IsInvalid)
        {
            LinuxException.Throw("socket", group.ToString());
        }

        try
        {
            Configure(fd, group, options);
            SetOption(fd, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1, "SO_REUSEADDR", group);

            // Only what this socket joined, where it joined it; without this, also what others on the machine joined.
            if (group.IsIPv4)
            {
                SetOption(fd, @in.IPPROTO_IP, @in.IP_MULTICAST_ALL, 0, "IP_MULTICAST_ALL", group);
            }
            else
            {
                // In IPv6 that looks at the group alone, and not at where it was joined (inet6_mc_check).
                SetOption(fd, @in.IPPROTO_IPV6, in6.IPV6_MULTICAST_ALL, 0, "IPV6_MULTICAST_ALL", group);
                SetOption(fd, socket.SOL_SOCKET, socket.SO_BINDTOIFINDEX, (int)index, "SO_BINDTOIFINDEX", group);
            }

            _ = Bind(fd, group, index);
            if (ChangeMembership(fd, group, local, index, joins: true) < 0)
            {
                LinuxException.Throw("setsockopt(ADD_MEMBERSHIP)", $"{group} at {local}");
            }

            return fd;
        }
        catch
        {
            fd.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Leaves the group, whoever has a copy of the socket, which would keep the membership when it is closed alone.
    /// </summary>
    /// <remarks>A refusal means that there is no membership any more: the interface is gone.</remarks>
    public static void LeaveGroup(
        FileDescriptor fd, in EndpointAddress group, in EndpointAddress local, uint index) =>
        _ = ChangeMembership(fd, group, local, index, joins: false);

    // By the address in IPv4, by the interface's number in IPv6: that is how the kernel is asked.
    private static int ChangeMembership(
        FileDescriptor fd, in EndpointAddress group, in EndpointAddress local, uint index, bool joins)
    {
        if (group.IsIPv4)
        {
            ip_mreqn member = new()
            {
                imr_multiaddr = BinaryPrimitives.ReverseEndianness((uint)group.Low),
                imr_address = BinaryPrimitives.ReverseEndianness((uint)local.Low),
            };
            int change = joins ? @in.IP_ADD_MEMBERSHIP : @in.IP_DROP_MEMBERSHIP;
            return Libc.setsockopt(fd, @in.IPPROTO_IP, change, &member, (uint)sizeof(ip_mreqn));
        }

        ipv6_mreq asked = new() { ipv6mr_ifindex = index };
        BinaryPrimitives.WriteUInt64BigEndian(new Span<byte>(asked.ipv6mr_multiaddr, 8), group.High);
        BinaryPrimitives.WriteUInt64BigEndian(new Span<byte>(asked.ipv6mr_multiaddr + 8, 8), group.Low);
        int option = joins ? in6.IPV6_ADD_MEMBERSHIP : in6.IPV6_DROP_MEMBERSHIP;
        return Libc.setsockopt(fd, @in.IPPROTO_IPV6, option, &asked, (uint)sizeof(ipv6_mreq));
    }

    /// <summary>The number of the interface that has an IPv6 address; 0 when none has.</summary>
    internal static uint InterfaceOf(in EndpointAddress local, uint scopeId)
    {
        if (scopeId != 0)
        {
            return scopeId;
        }

        // proc_net_if_inet6: address, index, prefix length, scope and flags in hexadecimal, name.
        string address = string.Create(CultureInfo.InvariantCulture, $"{local.High:x16}{local.Low:x16}");
        try
        {
            foreach (string line in File.ReadLines("/proc/thread-self/net/if_inet6"))
            {
                string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
                if (words.Length > 1 && words[0] == address)
                {
                    return uint.Parse(words[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture);
                }
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return 0; // no /proc here: as where no interface has it
        }

        return 0;
    }

    private static void Configure(FileDescriptor fd, in EndpointAddress local, UdpEndpointOptions options)
    {
        if (local.IsIPv4)
        {
            SetOption(fd, @in.IPPROTO_IP, @in.IP_MTU_DISCOVER, @in.IP_PMTUDISC_DO, "IP_MTU_DISCOVER", local);
            SetOption(fd, @in.IPPROTO_IP, @in.IP_RECVTOS, 1, "IP_RECVTOS", local);
            SetOption(fd, @in.IPPROTO_IP, @in.IP_TOS, options.TrafficClass, "IP_TOS", local);
        }
        else
        {
            SetOption(fd, @in.IPPROTO_IPV6, in6.IPV6_V6ONLY, 1, "IPV6_V6ONLY", local);
            SetOption(fd, @in.IPPROTO_IPV6, in6.IPV6_MTU_DISCOVER, in6.IPV6_PMTUDISC_DO, "IPV6_MTU_DISCOVER", local);
            SetOption(fd, @in.IPPROTO_IPV6, in6.IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS", local);
            SetOption(fd, @in.IPPROTO_IPV6, in6.IPV6_TCLASS, options.TrafficClass, "IPV6_TCLASS", local);
            SetOption(fd, @in.IPPROTO_UDP, udp.UDP_NO_CHECK6_RX, 1, "UDP_NO_CHECK6_RX", local);
            SetGroupInterface(fd, local, options.ScopeId);
        }

        if (options.ReceiveOffload)
        {
            SetOption(fd, @in.IPPROTO_UDP, udp.UDP_GRO, 1, "UDP_GRO", local);
        }

        if (options.ReceiveBufferBytes is int receiveBytes)
        {
            SetBuffer(fd, socket.SO_RCVBUFFORCE, socket.SO_RCVBUF, receiveBytes, "SO_RCVBUF", local);
        }

        if (options.SendBufferBytes is int sendBytes)
        {
            SetBuffer(fd, socket.SO_SNDBUFFORCE, socket.SO_SNDBUF, sendBytes, "SO_SNDBUF", local);
        }
    }

    // What goes to a group leaves by the interface that has the address, as in IPv4: the routes know another perhaps.
    private static void SetGroupInterface(FileDescriptor fd, in EndpointAddress local, uint scopeId)
    {
        if (!local.IsMulticast && InterfaceOf(local, scopeId) is uint index and not 0)
        {
            SetOption(fd, @in.IPPROTO_IPV6, in6.IPV6_MULTICAST_IF, (int)index, "IPV6_MULTICAST_IF", local);
        }
    }

    private static EndpointAddress Bind(FileDescriptor fd, in EndpointAddress local, uint scopeId)
    {
        SocketAddress name = default;
        uint length = name.Write(local, scopeId);
        if (Libc.bind(fd, &name, length) < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            throw new LinuxException("bind", local.ToString(), errno, AdviseOnBind(errno, local));
        }

        length = (uint)sizeof(SocketAddress);
        if (Libc.getsockname(fd, &name, &length) < 0)
        {
            LinuxException.Throw("getsockname", local.ToString());
        }

        return name.Read();
    }

    private static string? AdviseOnBind(Errno errno, in EndpointAddress local) => errno switch
    {
        // rxe's tunnel socket is bound to the wildcard address: no other address of the namespace is free
        // (udp_lib_lport_inuse).
        Errno.EADDRINUSE when local.Port == RoCEv2Port =>
            "another Wayleave host or a kernel rxe device in this network namespace owns UDP port 4791 "
            + "(rxe owns it on every address); use another network namespace, or another port among Wayleave hosts",
        Errno.EADDRINUSE => "another program, perhaps another Wayleave host, is bound to this address and port",
        Errno.EADDRNOTAVAIL => "no interface of this network namespace has this address",
        Errno.EINVAL when local.IsLinkLocal => "a link-local address needs its interface: set ScopeId",
        Errno.EACCES => string.Create(
            CultureInfo.InvariantCulture, $"port {local.Port} is privileged (net.ipv4.ip_unprivileged_port_start)"),
        _ => null,
    };

    private static void SetBuffer(
        FileDescriptor fd, int forceOption, int option, int bytes, string name, in EndpointAddress local)
    {
        // Beyond the system's limit if this process may; within it otherwise.
        if (Libc.setsockopt(fd, socket.SOL_SOCKET, forceOption, &bytes, sizeof(int)) < 0)
        {
            if ((Errno)Marshal.GetLastPInvokeError() != Errno.EPERM)
            {
                LinuxException.Throw($"setsockopt({name}FORCE)", local.ToString());
            }

            SetOption(fd, socket.SOL_SOCKET, option, bytes, name, local);
        }
    }

    private static void SetOption(
        FileDescriptor fd, int level, int option, int value, string name, in EndpointAddress local)
    {
        if (Libc.setsockopt(fd, level, option, &value, sizeof(int)) < 0)
        {
            LinuxException.Throw($"setsockopt({name})", local.ToString());
        }
    }
}
