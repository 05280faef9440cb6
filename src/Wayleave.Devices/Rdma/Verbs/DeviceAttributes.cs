namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// What a device can do (<c>struct ibv_device_attr</c>, the members that mean something here). Numbers of objects are
/// bounded by memory only, so those that verbs wants are the largest that its numbers can name.
/// </summary>
public sealed record DeviceAttributes
{
    /// <summary>Those of a device with one port; see <see cref="RdmaDevice.Attributes"/>.</summary>
    public static DeviceAttributes Instance { get; } = new();

    /// <summary>Longest region.</summary>
    public ulong MaxRegionBytes { get; } = long.MaxValue;

    public int MaxQueuePairs { get; } = 1 << 20;

    /// <summary>Requests that a send, a receive or a shared receive queue may hold.</summary>
    public int MaxWorkRequests { get; } = 1 << 16;

    public int MaxSge { get; } = RdmaDevice.MaxSge;

    public int MaxCompletionQueues { get; } = 1 << 20;

    public int MaxCompletions { get; } = 1 << 22;

    public int MaxRegions { get; } = 1 << 23;

    public int MaxWindows { get; } = 1 << 23;

    public int MaxInlineBytes { get; } = 4096;

    /// <summary>READs and atomics that a queue pair may have outstanding, and that it answers at a time.</summary>
    public int MaxRdAtomic { get; } = RdmaDevice.MaxRdAtomic;

    /// <summary>
    /// <c>IBV_ATOMIC_GLOB</c>: atomics exclude those of other devices and of the host's processors.
    /// </summary>
    public bool AtomicsAreGlobal { get; } = true;

    /// <summary>Both types of memory windows; of type 2, 2B.</summary>
    public bool HasMemoryWindows { get; } = true;

    public bool HasSharedReceiveQueues { get; } = true;

    /// <summary>Groups that queue pairs of the device are attached to (<c>max_mcast_grp</c>).</summary>
    public int MaxMulticastGroups { get; init; } = 8192;

    /// <summary>Queue pairs that are attached to one group (<c>max_mcast_qp_attach</c>).</summary>
    public int MaxMulticastPairs { get; init; } = 56;

    /// <summary>Attachments together (<c>max_total_mcast_qp_attach</c>).</summary>
    public int MaxMulticastAttachments { get; init; } = 8192 * 56;

    public int Ports { get; init; } = 1;

    public int PartitionKeys { get; } = 1;
}
