using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>What a port is reached by.</summary>
/// <param name="Gid">Its one GID, at index 0: the address that packets leave from and are accepted at.</param>
/// <param name="UdpPort">Packets leave from it: part of their ICRC.</param>
public readonly record struct PortAddress(Gid Gid, ushort UdpPort = Verbs.AddressVector.RoceUdpPort);
