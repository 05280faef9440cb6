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
