namespace Wayleave.Devices.Rdma.Regions;

/// <summary>What happens when pages that a region has pinned are wanted by somebody else.</summary>
public enum PinnedMemoryPolicy
{
    /// <summary>
    /// As in Linux: an unmap succeeds and leaves the pages to the region, and reclaim passes them over.
    /// </summary>
    Keep,

    /// <summary>
    /// The process may not unmap, move or throw away what peers reach (EBUSY); reclaim passes it over.
    /// </summary>
    Refuse,

    /// <summary>
    /// The process is ended: when it unmaps what peers reach, and when the host finds no other memory to take.
    /// </summary>
    EndProcess,
}
