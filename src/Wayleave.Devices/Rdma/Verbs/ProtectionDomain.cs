namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// Groups queue pairs and regions that may work together (<c>struct ibv_pd</c>). Give each peer its own: every region
/// of a domain is reachable by every queue pair of it whose peer knows the key.
/// </summary>
public sealed class ProtectionDomain
{
    internal ProtectionDomain(RdmaDevice device, uint handle) => (Device, Handle) = (device, handle);

    public RdmaDevice Device { get; }

    /// <summary>For people.</summary>
    public uint Handle { get; }
}
