using Wayleave.Linux;

namespace Wayleave.Ports;

/// <summary>The socket of one port of a device.</summary>
/// <param name="Endpoint">Owned by the driver, and closed with it.</param>
/// <param name="Tap">Sees every datagram of this port in both directions, for captures; or null.</param>
public readonly record struct PortSocket(UdpEndpoint Endpoint, IDatagramTap? Tap = null);
