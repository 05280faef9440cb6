using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary><c>struct ibv_port_attr</c>, the members that mean something on Ethernet.</summary>
/// <param name="MaxMtu">Of any path.</param>
/// <param name="Gid">The one at index 0; the others are zero.</param>
/// <param name="GidCount">Length of the GID table.</param>
/// <param name="PKey">The one at index 0.</param>
/// <param name="MaxMessageBytes">Longest message of a connection.</param>
/// <param name="HasConnectionManager">Queue pair 1 is served.</param>
/// <param name="State">Whether packets leave and arrive.</param>
public readonly record struct PortAttributes(
    PathMtu MaxMtu,
    Gid Gid,
    int GidCount,
    ushort PKey,
    uint MaxMessageBytes,
    bool HasConnectionManager,
    PortState State = PortState.Active);
