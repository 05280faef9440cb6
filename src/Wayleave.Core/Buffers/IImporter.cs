using Wayleave.Core.Fences;

namespace Wayleave.Core.Buffers;

/// <summary>How an importer holds on to memory (linux.md 1.4).</summary>
public enum ImporterKind
{
    /// <summary>No importer object: Core pins at every map (devmem TCP, v4l).</summary>
    Static,

    /// <summary>Pins before it maps and cannot be made to stop (most RDMA drivers).</summary>
    Pinned,

    /// <summary>Pins before it maps; stops for good when told (irdma, iommufd).</summary>
    PinnedRevocable,

    /// <summary>Never pins; stops when told and maps again (mlx5 on-demand paging, GPUs).</summary>
    Dynamic,
}

/// <summary>
/// Who uses a buffer (<c>dma_buf_attach_ops</c>). Without <see cref="IRevocableImporter"/> it cannot be made to stop.
/// </summary>
public interface IImporter
{
    /// <summary>For people and proofs: <c>rdma0 mr 0x1a2b3c4d</c>.</summary>
    string Name { get; }

    ImporterKind Kind { get; }

    /// <summary>Whether the importer takes addresses of another device's memory (<c>allow_peer2peer</c>).</summary>
    bool AllowPeerToPeer { get; }

    /// <summary>
    /// On whose behalf, for the accounts of a <see cref="Retirement.Quarantine"/>: a process, a peer, a lease. Null
    /// means the device that the importer belongs to.
    /// </summary>
    string? Holder => null;
}

/// <summary>An importer that gives memory back on demand.</summary>
public interface IRevocableImporter : IImporter
{
    /// <summary>
    /// The owner moves the memory or takes it back (<c>invalidate_mappings</c>); <see cref="SharedBuffer.IsRevoked"/>
    /// tells which. Called with the host lock held and the reservation locked by the caller of the invalidation,
    /// whether or not a mapping exists. Never blocks: it closes the gate of the current translation and returns.
    /// </summary>
    /// <returns>
    /// Done when nobody is inside and the importer has called <see cref="Attachment.UnmapInvalidated"/>; or a fence
    /// that the importer signals, after unmapping, when the last user is out. Core adds that fence as BOOKKEEP.
    /// </returns>
    InvalidateOutcome InvalidateMappings(Attachment attachment);
}

/// <summary>What an importer answered to an invalidation.</summary>
public readonly record struct InvalidateOutcome(Fence? Fence)
{
    /// <summary>No access is under way and none can start.</summary>
    public static InvalidateOutcome Done => default;

    /// <summary>
    /// Accesses that had started are under way; <paramref name="fence"/> says when the last one ended.
    /// </summary>
    public static InvalidateOutcome Draining(Fence fence) => new(fence);
}
