namespace Wayleave.Core.Topology;

/// <summary>
/// How a device's access reaches memory (<c>enum pci_p2pdma_map_type</c>, with the two cases that need no
/// peer-to-peer).
/// </summary>
public enum PeerRoute
{
    /// <summary>The memory belongs to the device itself.</summary>
    SameDevice,

    /// <summary>Peer memory below a common switch: bus addresses, no host bridge on the way.</summary>
    BusAddress,

    /// <summary>Peer memory reached through the host bridge.</summary>
    ThroughHostBridge,

    /// <summary>System memory that is the transfer's real source or target.</summary>
    HostMemory,

    /// <summary>
    /// System memory that only carries bytes from one device to another: staging, which a policy may forbid.
    /// </summary>
    Staging,
}
