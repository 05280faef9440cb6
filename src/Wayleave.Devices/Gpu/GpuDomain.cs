namespace Wayleave.Devices.Gpu;

/// <summary>Where a buffer's bytes are (<c>AMDGPU_GEM_DOMAIN_*</c>).</summary>
public enum GpuDomain
{
    /// <summary>The device's own memory, reached by others through its BAR.</summary>
    Vram,

    /// <summary>The host's memory, where evicted buffers wait (GTT).</summary>
    System,

    /// <summary>
    /// The device's own memory beyond its BAR: reached by its own engines, and by nobody else. What is there moves, or
    /// is refused, when somebody else is to reach it.
    /// </summary>
    HiddenVram,
}
