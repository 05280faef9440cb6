using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Ethernet;

/// <summary>How a buffer is to be bound. The defaults are those of Linux, but for <see cref="FallsBack"/>.</summary>
public sealed record BindRequest
{
    /// <summary>The queues; each may have one binding.</summary>
    public IReadOnlyList<int> Queues { get; init; } = [];

    /// <summary>
    /// Static, as Linux binds: nobody can make the NIC stop. PinnedRevocable is an extension: the owner can,
    /// connections with unread payload are reset, and tokens fail.
    /// </summary>
    public ImporterKind Kind { get; init; } = ImporterKind.Static;

    /// <summary>Bytes of a chunk, the unit in which memory comes back: a power of two, at least 4096.</summary>
    public int ChunkBytes { get; init; } = NicOptions.PageBytes;

    /// <summary>
    /// Payload that is shorter goes to host memory: a byte must not cost a chunk. 0 places every payload.
    /// </summary>
    public int LinearBelowBytes { get; init; }

    /// <summary>
    /// Whether payload that finds no chunk goes to host memory. Linux drops it, and so does a binding without: what was
    /// promised to a sender is then lost on the way, and sent again.
    /// </summary>
    public bool FallsBack { get; init; } = true;

    /// <summary>Whether a queue may be bound that RSS spreads flows over: anybody's payload lands there.</summary>
    public bool AllowsRss { get; init; }

    /// <summary>
    /// Whose memory it is, so that the route is looked at before anything is attached; null for no look.
    /// </summary>
    public PciFunction? Provider { get; init; }

    /// <summary>On whose behalf, for the accounts of a quarantine; null for the NIC's own.</summary>
    public string? Holder { get; init; }
}
