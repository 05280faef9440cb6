using Wayleave.Core.Topology;

namespace Wayleave.Host.Topology;

/// <summary><c>GET /v1/topology</c> and <c>wayleave topo --json</c>: the PCI trees, as trees.</summary>
public sealed record TopologyDocument
{
    public string Schema { get; set; } = "wayleave.topology.v1";

    /// <summary><c>host b</c>, <c>this machine</c>, or the file it was read from.</summary>
    public required string Source { get; init; }

    public required ProcessorDocument Processor { get; init; }

    public required IReadOnlyList<HostBridgeDocument> HostBridges { get; init; }

    /// <summary>What could not be read.</summary>
    public IReadOnlyList<string> Notes { get; set; } = [];
}

/// <summary>The processor as the rules see it.</summary>
/// <param name="Vendor">As CPUID says it.</param>
/// <param name="Family">With the extended family added.</param>
/// <param name="ForwardsPeerRequests">Whether every host bridge may be used because of it.</param>
public sealed record ProcessorDocument(string Vendor, int Family, bool ForwardsPeerRequests);

/// <summary>A root bus and what is on it.</summary>
public sealed record HostBridgeDocument
{
    public required string Name { get; init; }

    /// <summary>Domain and number: <c>0000:00</c>.</summary>
    public required string Bus { get; init; }

    public required IommuMode Iommu { get; init; }

    public required int NumaNode { get; init; }

    /// <summary>Bus address minus physical address, modulo 2^64.</summary>
    public required ulong BusOffset { get; init; }

    /// <summary>The first function of the bus, if the allow list goes by it.</summary>
    public string? Identity { get; init; }

    /// <summary>Which pairs the allow list lets through this bridge.</summary>
    public required HostBridgeListing Listing { get; init; }

    /// <summary>What the hardware does, where the configuration says otherwise than the rules.</summary>
    public bool? ForwardsPeerRequests { get; init; }

    public required bool LosesPeerRequests { get; init; }

    public required IReadOnlyList<FunctionDocument> Functions { get; init; }
}

/// <summary>Which pairs of functions may reach each other through a host bridge.</summary>
public enum HostBridgeListing
{
    /// <summary>Its first function is neither 00.0 nor a root port: no list knows it.</summary>
    Unknown,
    NotListed,

    /// <summary>Two functions below this bridge.</summary>
    SameBridge,

    /// <summary>Also with one below another such bridge.</summary>
    AnyPair,
}

/// <summary>What a function is.</summary>
public enum FunctionKind
{
    Endpoint,

    /// <summary>The processor's side of a root bus, at 00.0.</summary>
    HostBridge,
    RootPort,
    SwitchUpstream,
    SwitchDownstream,
    ConventionalBridge,
}

/// <summary>A function, with what is below it.</summary>
public sealed record FunctionDocument
{
    public required string Address { get; init; }

    public required string Name { get; init; }

    public required FunctionKind Kind { get; init; }

    /// <summary>What the host uses it as: <c>gpu</c>, <c>rdma</c>; on a machine, what its class says.</summary>
    public string? Type { get; init; }

    /// <summary>Vendor and device; absent when nobody said.</summary>
    public string? Id { get; init; }

    public string? Driver { get; init; }

    /// <summary>The bits that are set; absent without the capability, and when it could not be read.</summary>
    public IReadOnlyList<string>? Acs { get; init; }

    /// <summary>False when the configuration space could not be read far enough.</summary>
    public required bool AcsKnown { get; init; }

    public int? IommuGroup { get; init; }

    public string? IommuType { get; init; }

    public required IReadOnlyList<BarDocument> Bars { get; init; }

    /// <summary>The first and the last bus below; absent for what is no bridge, or has nothing below.</summary>
    public int? SecondaryBus { get; init; }

    public int? SubordinateBus { get; init; }

    /// <summary>Absent for what is no bridge.</summary>
    public IReadOnlyList<FunctionDocument>? Functions { get; init; }
}

/// <summary>A BAR.</summary>
/// <param name="Index">0 to 5.</param>
/// <param name="Kind">What answers.</param>
/// <param name="Address">Physical, or the first port.</param>
/// <param name="SizeBytes">A power of two.</param>
/// <param name="Prefetchable">Whether bridges may merge and prefetch.</param>
public sealed record BarDocument(int Index, PciBarKind Kind, ulong Address, ulong SizeBytes, bool Prefetchable);

/// <summary><c>GET /v1/routes</c> and <c>wayleave topo -m --json</c>: every ordered pair of devices.</summary>
public sealed record RoutesDocument
{
    public string Schema { get; set; } = "wayleave.routes.v1";

    public required string Source { get; init; }

    /// <summary>In the order of their addresses.</summary>
    public required IReadOnlyList<string> Devices { get; init; }

    public required IReadOnlyList<RouteDocument> Routes { get; init; }

    public IReadOnlyList<string> Notes { get; set; } = [];
}

/// <summary>
/// <c>GET /v1/routes/OWNER/CLIENT</c> and <c>wayleave explain --json</c>: how a device reaches another's memory.
/// </summary>
public sealed record RouteDocument
{
    public string Schema { get; set; } = "wayleave.route.v1";

    /// <summary>Whose memory it is.</summary>
    public required string Owner { get; init; }

    public required string OwnerAddress { get; init; }

    /// <summary>Who reaches it.</summary>
    public required string Client { get; init; }

    public required string ClientAddress { get; init; }

    public required bool Supported { get; init; }

    public required PeerMapType MapType { get; init; }

    /// <summary>Hops, as the kernel counts them; -1 when there is nothing to count.</summary>
    public required int Distance { get; init; }

    /// <summary>X, PIX, PXB, PHB, NODE or SYS.</summary>
    public required string Proximity { get; init; }

    /// <summary>From the client to the owner; a host bridge is <c>pci0000:00</c>.</summary>
    public required IReadOnlyList<string> Path { get; init; }

    /// <summary>Whether the owner has memory for peers; absent when nobody knows.</summary>
    public bool? OffersMemory { get; init; }

    /// <summary>Why the request does not stay below a common bridge, whether or not it may go another way.</summary>
    public required PeerObstacle Obstacle { get; init; }

    /// <summary>
    /// The first object that is in the way, with what it does: <c>sw0.0 (0000:02:00.0): ReqRedir+</c>.
    /// </summary>
    public string? ObstacleAt { get; init; }

    /// <summary>Why there is no route; absent when there is one.</summary>
    public string? Refusal { get; init; }

    /// <summary>What would change it.</summary>
    public string? Remedy { get; init; }

    /// <summary>What the verdict does not say, and one should know.</summary>
    public IReadOnlyList<string> Notes { get; set; } = [];
}
