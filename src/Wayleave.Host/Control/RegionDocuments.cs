using System.Text.Json.Serialization;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Compute;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Control;

/// <summary>
/// <c>POST /v1/contexts/{id}/regions</c>: let peers reach memory of a client; answered by <see cref="RegionDocument"/>.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record RegisterRegionDocument
{
    /// <summary>Of an object, or of memory of the client's own.</summary>
    public required uint Handle { get; init; }

    public required ContextRegionKind Kind { get; init; }

    public LeaseAccess Access { get; set; } = LeaseAccess.ReadWrite;

    /// <summary>Null for the first NIC.</summary>
    public string? Nic { get; init; }

    public ulong OffsetBytes { get; init; }

    /// <summary>Null for all that is left.</summary>
    public ulong? LengthBytes { get; init; }

    /// <summary>Which protection domain of the client, 0 to 15: only peers that are connected to it reach it.</summary>
    public uint Domain { get; set; }

    /// <summary>
    /// Use what the client registered before over the same range, if its memory is where it was; and keep the region
    /// when it is deregistered, with its key, which its peers reach until then. For pinned regions over its own memory.
    /// </summary>
    public bool Cached { get; set; }
}

/// <summary>
/// <c>POST /v1/contexts/{id}/regions/{region}/reregister</c>: change a region under its key; answered by the
/// <see cref="RegionDocument"/>.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record ReregisterRegionDocument
{
    /// <summary>
    /// The sum of <c>ibv_rereg_mr_flags</c>: 1 the memory, 2 the domain, 4 the access. What is not in it stays.
    /// </summary>
    public required uint Flags { get; init; }

    /// <summary>For flag 1: memory of the client's own, which is pinned from then on.</summary>
    public uint Handle { get; set; }

    /// <summary>For flag 1.</summary>
    public ulong OffsetBytes { get; set; }

    /// <summary>For flag 1. Null for all that is left.</summary>
    public ulong? LengthBytes { get; init; }

    /// <summary>For flag 2, 0 to 15.</summary>
    public uint Domain { get; set; }

    /// <summary>For flag 4.</summary>
    public LeaseAccess Access { get; set; } = LeaseAccess.ReadWrite;
}

/// <summary>Memory of a client that peers reach by a key.</summary>
public sealed record RegionDocument
{
    public required ulong Id { get; init; }

    public required string Nic { get; init; }

    public required ContextRegionKind Kind { get; init; }

    /// <summary>Dead: its memory was taken back, and the key is taken until the region is deregistered.</summary>
    public required MemoryRegionState State { get; init; }

    public required uint Rkey { get; init; }

    /// <summary>
    /// The address of the first byte, for peers. An implicit region has all other own memory as well.
    /// </summary>
    public required ulong Va { get; init; }

    public required ulong LengthBytes { get; init; }

    /// <summary>What peers wrote there.</summary>
    public required long BytesPlaced { get; init; }

    /// <summary>Where a cache had it from; null for a region that no cache has.</summary>
    public RegionOrigin? Cache { get; init; }

    internal static RegionDocument From(ContextRegion region) => new()
    {
        Id = region.Id,
        Nic = region.Nic.Name,
        Kind = region.Kind,
        State = region.Region.State,
        Rkey = region.Region.Key,
        Va = region.Address,
        LengthBytes = region.LengthBytes,
        BytesPlaced = region.Region.BytesPlaced,
        Cache = region.Origin,
    };
}

/// <summary>
/// <c>POST /v1/contexts/{id}/regions/{region}/prefetch</c>: bring pages of a region on demand into the NIC's reach;
/// answered by the <see cref="RegionDocument"/> when they are.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record PrefetchDocument
{
    public required ulong Va { get; init; }

    public required uint LengthBytes { get; init; }

    /// <summary>They will be written.</summary>
    public bool Write { get; init; }
}

/// <summary>
/// <c>POST /v1/contexts/{id}/connections</c>: connect a queue pair of a peer to the regions of a client; answered by
/// the host's end, a <see cref="ConnectionEndDocument"/>.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record ConnectContextDocument
{
    public required ConnectionEndDocument Peer { get; init; }

    /// <summary>Null for the first NIC.</summary>
    public string? Nic { get; init; }

    /// <summary>The regions of which protection domain of the client it reaches, 0 to 15.</summary>
    public uint Domain { get; set; }
}
