using System.Net;
using System.Net.NetworkInformation;
using System.Text;
using Wayleave.Core;
using Wayleave.Linux.Interop;
using Interface = System.Net.NetworkInformation.NetworkInterface;

namespace Wayleave.Linux;

// Read first: netdevice(7), SIOCGIFFLAGS. The question is asked on the socket itself, so that it is about the network
// namespace of the socket, whichever the caller is in by then.

/// <summary>Tells whether the interface that has a socket's address has its cable.</summary>
public sealed unsafe class LinkWatch
{
    private readonly UdpEndpoint _endpoint;

    private LinkWatch(UdpEndpoint endpoint, string interfaceName) =>
        (_endpoint, InterfaceName) = (endpoint, interfaceName);

    /// <summary>As <c>ip link</c> calls it.</summary>
    public string InterfaceName { get; }

    /// <summary>
    /// Finds the interface of a socket in the calling thread's network namespace: the one that has its address, or the
    /// loopback for one of 127.0.0.0/8.
    /// </summary>
    /// <param name="endpoint">Outlives the watch.</param>
    /// <returns>Null when no interface has the address (a socket may be bound before there is one).</returns>
    public static LinkWatch? Of(UdpEndpoint endpoint)
    {
        ArgumentNullException.ThrowIfNull(endpoint);
        IPAddress address = endpoint.LocalAddress.ToIPEndPoint().Address;
        foreach (Interface found in Interface.GetAllNetworkInterfaces())
        {
            bool isLoopback = found.NetworkInterfaceType == NetworkInterfaceType.Loopback;
            bool has = (isLoopback && IPAddress.IsLoopback(address))
                || found.GetIPProperties().UnicastAddresses.Any(a => IsSame(a.Address, address));
            if (has)
            {
                return new LinkWatch(endpoint, found.Name);
            }
        }

        return null;
    }

    /// <summary>Whether the interface is up and hears its cable (IFF_UP and IFF_RUNNING). One system call.</summary>
    /// <returns>False also when the interface is gone.</returns>
    /// <exception cref="ObjectDisposedException">The socket is closed.</exception>
    public bool IsRunning()
    {
        ifreq request = default;
        Encoding.UTF8.GetBytes(InterfaceName, new Span<byte>(request.ifr_name, @if.IFNAMSIZ - 1));
        if (Libc.ioctl(_endpoint.Descriptor, sockios.SIOCGIFFLAGS, &request) < 0)
        {
            Errno errno = LinuxException.LastErrno();
            return errno is Errno.ENODEV or Errno.ENXIO
                ? false
                : throw new LinuxException("ioctl(SIOCGIFFLAGS)", InterfaceName, errno);
        }

        const uint Running = @if.IFF_UP | @if.IFF_RUNNING;
        return ((ushort)request.ifr_flags & Running) == Running;
    }

    // Without the scope, which a socket's address does not carry.
    private static bool IsSame(IPAddress one, IPAddress other) =>
        one.GetAddressBytes().AsSpan().SequenceEqual(other.GetAddressBytes());
}
