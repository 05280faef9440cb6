using System.Text.Json.Serialization;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;

namespace Wayleave.Host.Control;

/// <summary><c>GET /v1/resources</c>: who offers memory to peers, and who has it.</summary>
public sealed record ResourcesDocument
{
    public string Schema { get; set; } = "wayleave.resources.v1";

    public required string Host { get; init; }

    public required IReadOnlyList<ProviderDocument> Providers { get; init; }
}

/// <summary>A function that makes its memory available to peers (<c>struct pci_p2pdma</c>).</summary>
public sealed record ProviderDocument
{
    public required string Device { get; init; }

    public required string PciAddress { get; init; }

    /// <summary>Memory BARs, by number.</summary>
    public required IReadOnlyList<ProviderBarDocument> Bars { get; init; }

    /// <summary>Memory that nobody but the pool allocates (p2pmem); null for a device with an allocator.</summary>
    public PoolDocument? Pool { get; init; }

    /// <summary>Whether ranges of it are lent by handle.</summary>
    public required bool Lends { get; init; }

    public required IReadOnlyList<ResourceDocument> Resources { get; init; }
}

/// <summary>One BAR through which a provider is reached.</summary>
/// <param name="Index">0 to 5.</param>
/// <param name="SizeBytes">Of the window.</param>
/// <param name="Mappings">Of importers, through this BAR, just now.</param>
public sealed record ProviderBarDocument(int Index, ulong SizeBytes, int Mappings);

/// <summary>The files of <c>p2pmem</c> in sysfs.</summary>
/// <param name="SizeBytes"><c>size</c>.</param>
/// <param name="AvailableBytes"><c>available</c>.</param>
/// <param name="Published"><c>published</c>.</param>
public sealed record PoolDocument(ulong SizeBytes, ulong AvailableBytes, bool Published);

/// <summary>A range that was lent by a handle.</summary>
public sealed record ResourceDocument
{
    /// <summary>Of its buffer; unique in the host.</summary>
    public required ulong Id { get; init; }

    public required string Device { get; init; }

    public required string Name { get; init; }

    public required ulong SizeBytes { get; init; }

    /// <summary>What no importer has taken; 0 once it is being removed.</summary>
    public required ulong AvailableBytes { get; init; }

    /// <summary><c>lent</c>; or <c>removing</c>, until it is proved that nobody uses it.</summary>
    public required PeerResourceState State { get; init; }

    /// <summary>Who may import it and take it away: <c>process 4711</c>.</summary>
    public required IReadOnlyList<string> Handles { get; init; }

    /// <summary>Who reaches it, whether by the handle or as a borrower of the whole.</summary>
    public required IReadOnlyList<ResourceUserDocument> Users { get; init; }

    /// <summary>What is known of the removal so far; null while it is lent.</summary>
    public ProofDocument? Proof { get; init; }
}

/// <summary>An importer of a resource.</summary>
/// <param name="Name">Of the importer: <c>rdma0 mr 0x1a2b3c4d</c>.</param>
/// <param name="Device">Whose it is.</param>
/// <param name="Holder">On whose behalf.</param>
/// <param name="Kind">How it can be told to stop.</param>
/// <param name="State">Of its mapping.</param>
/// <param name="Chunks">That it has taken; 0 for one that uses the whole.</param>
/// <param name="ChunkBytes">Of all its chunks.</param>
public sealed record ResourceUserDocument(
    string Name, string Device, string Holder, ImporterKind Kind, MappingState State, int Chunks, ulong ChunkBytes);

/// <summary>
/// <c>POST /v1/resources</c>: lend a range to the client, for as long as the stream of
/// <see cref="ResourceEventDocument"/> lives that answers it.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record AddResourceDocument
{
    /// <summary>Null for the published memory that is nearest to all of <see cref="Near"/>.</summary>
    public string? Device { get; init; }

    public IReadOnlyList<string> Near { get; init; } = [];

    public required string Name { get; init; }

    public required ulong SizeBytes { get; init; }

    public IReadOnlyList<ResourceImportDocument> Imports { get; init; } = [];
}

/// <summary>A NIC that imports the resource, and takes a chunk of it.</summary>
/// <param name="Nic">By name.</param>
/// <param name="SizeBytes">Of the chunk.</param>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record ResourceImportDocument(string Nic, ulong SizeBytes);

/// <summary><c>POST /v1/resources/{device}/{name}/remove</c>.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record RemoveResourceDocument
{
    public int TimeoutMs { get; init; } = 5000;

    public string? Reason { get; init; }
}

public enum ResourceEventKind
{
    /// <summary>The first line: it is lent, and imported as was asked for.</summary>
    Added,

    /// <summary>Once a second: the host is alive.</summary>
    Heartbeat,

    /// <summary>It was taken away; the proof says from whom. Comes again when a later proof is better.</summary>
    Removed,

    /// <summary>A last line: the memory is its owner's again, or the host stops.</summary>
    Ended,
}

/// <summary>One line of the stream of a resource.</summary>
public sealed record ResourceEventDocument
{
    public string Schema { get; set; } = "wayleave.resource_event.v1";

    public required ResourceEventKind Event { get; init; }

    /// <summary>On the host's clock, in microseconds since it started.</summary>
    public required double AtUs { get; init; }

    public string? Reason { get; init; }

    public ResourceDocument? Resource { get; init; }
}
