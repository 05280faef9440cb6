namespace Wayleave.Core.Topology;

/// <summary>How a client is to map a provider's memory (<c>enum pci_p2pdma_map_type</c>, same numbers).</summary>
public enum PeerMapType
{
    /// <summary>Not calculated yet; never handed out.</summary>
    Unknown = 0,

    /// <summary>Not peer memory.</summary>
    None = 1,

    /// <summary>No path: mapping fails with <see cref="Errno.EREMOTEIO"/>.</summary>
    NotSupported = 2,

    /// <summary>The client puts the PCI bus address on the bus; no IOMMU sees it.</summary>
    BusAddress = 3,

    /// <summary>Mapped like memory at that physical address, IOMMU included.</summary>
    ThroughHostBridge = 4,
}

/// <summary>Why a request cannot stay below a common bridge, or cannot get there at all.</summary>
public enum PeerObstacle
{
    None,

    /// <summary>One of the two is not a PCI function, or is in no tree.</summary>
    NotPci,

    /// <summary>The owner of the memory offers none to peers.</summary>
    NoProvider,

    /// <summary>A port on the way sends peer requests up.</summary>
    AcsRedirect,

    /// <summary>The two have no bridge in common.</summary>
    NoCommonBridge,

    /// <summary>The rules allow it, and bytes that were sent did not arrive.</summary>
    FailedProbe,
}

/// <summary>
/// The path between two functions and what the rules say about it (<c>calc_map_type_and_dist</c>, 7.2). A value: later
/// changes of the tree do not change it.
/// </summary>
/// <param name="MapType">What the client is to do.</param>
/// <param name="Distance">
/// Hops from both to the bridge they have in common, or the length of both paths to the root; -1 without a path to
/// measure.
/// </param>
/// <param name="Obstacle">Why the request does not stay below a common bridge.</param>
/// <param name="ObstacleAt">Where: the ports that redirect, in the order of the walk.</param>
/// <param name="Refusal">
/// The reason in words when the map type is <see cref="PeerMapType.NotSupported"/>, else empty.
/// </param>
public sealed record PeerVerdict(
    PeerMapType MapType,
    int Distance,
    PeerObstacle Obstacle,
    IReadOnlyList<PciFunction> ObstacleAt,
    string Refusal)
{
    /// <summary>Whether the client may map the memory.</summary>
    public bool IsSupported => MapType is PeerMapType.BusAddress or PeerMapType.ThroughHostBridge;
}
