using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>What is known of a packet besides its bytes.</summary>
/// <param name="Source">Who sent it.</param>
/// <param name="TrafficClass">DSCP and ECN.</param>
/// <param name="Identification">Of the IPv4 header, as far as it is known.</param>
/// <param name="Link">The port that it came to.</param>
internal readonly record struct Arrival(Gid Source, byte TrafficClass, ushort Identification, PortLink Link);
