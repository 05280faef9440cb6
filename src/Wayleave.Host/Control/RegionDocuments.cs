using System.Text.Json.Serialization;
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
}
