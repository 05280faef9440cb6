namespace Wayleave.Devices.Ethernet;

/// <summary>
/// What a receive queue has done since the NIC was made (<c>ethtool -S</c>, <c>netdev qstats</c>). Plain counters,
/// written under the port token; a reader without it sees each number whole but not all of one moment.
/// </summary>
public struct RxQueueStats
{
    /// <summary>Frames; a super-packet is one.</summary>
    public long Frames { get; internal set; }

    /// <summary>TCP segments, as the sender counts them: those of a super-packet each.</summary>
    public long Segments { get; internal set; }

    /// <summary>Of frames, from the Ethernet header on.</summary>
    public long Bytes { get; internal set; }

    /// <summary>Frames whose payload was split off (<c>rx-hds-packets</c>).</summary>
    public long SplitFrames { get; internal set; }

    /// <summary>Payload bytes placed in memory of a binding.</summary>
    public long DeviceBytes { get; internal set; }

    /// <summary>
    /// Payload bytes that came by the queue while it was bound, and went to host memory all the same.
    /// </summary>
    public long FallbackBytes { get; internal set; }

    /// <summary>Payload bytes in host memory, those of fallbacks included.</summary>
    public long HostBytes { get; internal set; }

    /// <summary>Frames that found the ring full.</summary>
    public long RingFull { get; internal set; }

    /// <summary>Frames that were lost because no chunk was free (<c>rx-alloc-fail</c>).</summary>
    public long AllocationFailures { get; internal set; }

    /// <summary>Times the queue was reset, bound or unbound.</summary>
    public long Resets { get; internal set; }

    /// <summary>Frames that a reset threw away.</summary>
    public long ResetDrops { get; internal set; }
}
