using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Compute;

/// <summary>How a NIC holds memory of a client.</summary>
public enum ContextRegionKind
{
    /// <summary>
    /// The client's own memory: every page is pinned for long (<c>ibv_reg_mr</c>). An object: held in place for good,
    /// which owners refuse who must be able to take it back.
    /// </summary>
    Pinned,

    /// <summary>
    /// Own memory: no page is held, and each comes when a packet wants it (<c>IBV_ACCESS_ON_DEMAND</c>).
    /// </summary>
    OnDemand,

    /// <summary>All of the client's own memory, also what it gets later, on demand.</summary>
    Implicit,

    /// <summary>An object: held in place until its owner takes it back.</summary>
    PinnedRevocable,

    /// <summary>An object: follows it when its owner moves it.</summary>
    Dynamic,

    /// <summary>An object: what PeerDirect did, where the key dies when the owner moves or frees the memory.</summary>
    LegacyPeer,
}

/// <summary>What a client asks for.</summary>
/// <param name="Nic">Null for the first one that is there.</param>
/// <param name="Kind">How the memory is held.</param>
/// <param name="Handle">Of the context: an object or memory of its own.</param>
/// <param name="Access">What peers may do.</param>
/// <param name="OffsetBytes">Where the region begins.</param>
/// <param name="LengthBytes">Null for all that is left.</param>
public sealed record ContextRegionRequest(
    string? Nic,
    ContextRegionKind Kind,
    uint Handle,
    LeaseAccess Access,
    ulong OffsetBytes = 0,
    ulong? LengthBytes = null)
{
    /// <summary>Which protection domain of the client, below <see cref="RegionService.DomainsMax"/>.</summary>
    public uint Domain { get; init; }

    /// <summary>
    /// Whether a region that the client had over the same range may be used again, and this one later
    /// (<see cref="RegionCache"/>). For pinned regions over its own memory.
    /// </summary>
    public bool IsCached { get; init; }
}

/// <summary>What of a region becomes different (<c>ibv_rereg_mr</c>). What does not change is not looked at.</summary>
/// <param name="Change">At least one.</param>
/// <param name="Domain">For <see cref="RegionChange.Domain"/>, as in a registration.</param>
/// <param name="Access">For <see cref="RegionChange.Access"/>: what peers may do.</param>
/// <param name="Handle">
/// For <see cref="RegionChange.Translation"/>: memory of the client's own, pinned from then on.
/// </param>
/// <param name="OffsetBytes">Where the region begins then.</param>
/// <param name="LengthBytes">Null for all that is left.</param>
public sealed record ContextRegionChange(
    RegionChange Change,
    uint Domain = 0,
    LeaseAccess Access = LeaseAccess.ReadWrite,
    uint Handle = 0,
    ulong OffsetBytes = 0,
    ulong? LengthBytes = null);

/// <summary>
/// Memory of a client that peers reach by a key. It ends with the client at the latest. Changed under the host lock.
/// </summary>
public sealed class ContextRegion
{
    internal ContextRegion(
        ulong id, ComputeContext context, NicHandle nic, ContextBuffer buffer, ContextRegionKind kind) =>
        (Id, Context, Nic, Buffer, Kind) = (id, context, nic, buffer, kind);

    /// <summary>Unique in the host, never used again.</summary>
    public ulong Id { get; }

    public ComputeContext Context { get; }

    public NicHandle Nic { get; }

    public ContextBuffer Buffer { get; internal set; }

    public ContextRegionKind Kind { get; internal set; }

    /// <summary>Where the client's cache had it from; null for one of its own, which no cache has.</summary>
    public RegionOrigin? Origin { get; internal set; }

    /// <summary>Its key, its state, and what was placed there.</summary>
    public MemoryRegion Region { get; internal set; } = null!;

    /// <summary>The address of the first byte, as peers name it.</summary>
    public ulong Address { get; internal set; }

    public ulong LengthBytes { get; internal set; }

    /// <summary>The end of the region, once it has begun.</summary>
    internal Task? Ending { get; set; }

    /// <summary>A reregistration that is under way: the end waits for it.</summary>
    internal Task? Changing { get; set; }

    /// <summary>Where it goes when it has ended; null where it is deregistered.</summary>
    internal RegionCache? Cache { get; set; }
}
