using System.Net;
using Wayleave.Core;
using Wayleave.Host.Configuration;
using Wayleave.Linux;

namespace Wayleave.Host;

/// <summary>The sockets of the ports of an RDMA NIC.</summary>
internal static class NicSockets
{
    /// <summary>Binds one for each port, in their order, or none.</summary>
    /// <exception cref="WayleaveException">
    /// EADDRINUSE, EADDRNOTAVAIL or EACCES, with what to do about it.
    /// </exception>
    public static UdpEndpoint[] Open(NicConfig config, WayleaveHostOptions options)
    {
        List<UdpEndpoint> bound = [];
        try
        {
            bound.Add(Bind(config, config.Address, config.UdpPort, options));
            foreach (NicPortConfig port in config.FurtherPorts)
            {
                bound.Add(Bind(config, port.Address, port.UdpPort, options));
            }

            return [.. bound];
        }
        catch (WayleaveException)
        {
            bound.ForEach(e => e.Dispose());
            throw;
        }
    }

    private static UdpEndpoint Bind(NicConfig config, IPAddress address, int udpPort, WayleaveHostOptions options)
    {
        IPEndPoint wanted = new(address, udpPort);
        try
        {
            return UdpEndpoint.Bind(EndpointAddress.From(address, (ushort)udpPort), SocketOf(config, options.Socket));
        }
        catch (LinuxException e) when (e.Errno is Errno.EADDRINUSE or Errno.EADDRNOTAVAIL or Errno.EACCES)
        {
            string operation = $"open the RoCEv2 port {wanted} of {config.Name}";
            throw new WayleaveException(e.Errno, operation, ErrnoMap.Describe(e.Errno), e.Errno switch
            {
                Errno.EADDRINUSE =>
                    "hosts on one machine use 127.0.0.2, 127.0.0.3, ...: choose another by --address, or by --udp-port",
                Errno.EADDRNOTAVAIL => "choose an address of this machine by --address, for example 127.0.0.2",
                _ => "ports below 1024 need root: choose another by --udp-port",
            }, e);
        }
    }

    // A router marks only what says that it may be marked; other packets it drops.
    private static UdpEndpointOptions SocketOf(NicConfig config, UdpEndpointOptions socket)
    {
        const byte EcnBits = 3, CapableTransport = 2;
        return config.Congestion == CongestionControl.Off || (socket.TrafficClass & EcnBits) != 0
            ? socket
            : socket with { TrafficClass = (byte)(socket.TrafficClass | CapableTransport) };
    }
}
