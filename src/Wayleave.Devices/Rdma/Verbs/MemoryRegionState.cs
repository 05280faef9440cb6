namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>What a use of a region's key meets.</summary>
public enum MemoryRegionState
{
    /// <summary>Mapped: the current translation may be entered.</summary>
    Valid,

    /// <summary>The owner moved the memory, or the first map waits for a fence: map again on the next use.</summary>
    Invalidated,

    /// <summary>
    /// Revoked or being deregistered. The key keeps its number until deregistration ends; every use is refused.
    /// </summary>
    Dead,
}
