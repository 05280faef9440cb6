using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>The two ends of a connection, seen from ours.</summary>
/// <param name="Local">Our address.</param>
/// <param name="LocalPort">Our port.</param>
/// <param name="Remote">The peer's address, of the same family.</param>
/// <param name="RemotePort">The peer's port.</param>
public readonly record struct TcpFlow(IpAddress Local, ushort LocalPort, IpAddress Remote, ushort RemotePort)
{
    /// <summary>Bytes of IP and TCP header without options: what an MTU loses before the MSS.</summary>
    public int HeaderBytes => Remote.IsIPv4 ? 40 : 60;

    /// <summary>As <c>ss</c> shows it.</summary>
    public override string ToString() => $"{Name(Local, LocalPort)} {Name(Remote, RemotePort)}";

    private static string Name(IpAddress address, ushort port) =>
        address.IsIPv4 ? $"{address}:{port}" : $"[{address}]:{port}";
}
