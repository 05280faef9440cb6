using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>What is known of a packet besides its bytes.</summary>
/// <param name="Source">Who sent it.</param>
/// <param name="TrafficClass">DSCP and ECN.</param>
/// <param name="Identification">Of the IPv4 header, as far as it is known.</param>
/// <param name="Link">The port that it came to.</param>
/// <param name="Group">The group that it was sent to; default when it was sent to the port itself.</param>
internal readonly record struct Arrival(
    Gid Source, byte TrafficClass, ushort Identification, PortLink Link, Gid Group = default)
{
    /// <summary>Whether it came to whoever is attached.</summary>
    public bool IsToGroup => Group != default;

    /// <summary>The address in its IP header.</summary>
    public Gid Destination => IsToGroup ? Group : Link.Gid;
}
