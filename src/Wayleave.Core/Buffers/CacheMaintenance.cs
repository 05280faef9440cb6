namespace Wayleave.Core.Buffers;

/// <summary>
/// What caches need around an access of the processor, as data: the exporter says it, and the edge does it with
/// whatever instruction or register it has. Nothing, where the processor snoops.
/// </summary>
[Flags]
public enum CacheMaintenance
{
    None = 0,

    /// <summary>Before a read: lines that a device made stale are thrown away (<c>dma_sync_*_for_cpu</c>).</summary>
    InvalidateBeforeRead = 1,

    /// <summary>After a write: dirty lines are written back (<c>dma_sync_*_for_device</c>).</summary>
    CleanAfterWrite = 2,

    /// <summary>
    /// After a write through a write-combining mapping of a BAR: posted writes are pushed to the device.
    /// </summary>
    FlushWriteCombining = 4,
}
