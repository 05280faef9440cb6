using Wayleave.Core;

namespace Wayleave.Devices.Gpu;

/// <summary>
/// What the edge puts behind the storage of a movable buffer, so that others reach the bytes without the device: pages
/// that a process may map. They follow the buffer. Host lock held; nothing here waits.
/// </summary>
public interface IPlacementBacking
{
    /// <summary>
    /// The buffer is about to move to storage that nobody uses yet: its bytes may become others, and are all written
    /// afterwards.
    /// </summary>
    /// <returns>Anything but success refuses the move, and nothing is left behind.</returns>
    Errno TryBack(GpuPlacement placement);

    /// <summary>
    /// The buffer has left that storage, and no engine works there: from the return on, who still has the pages
    /// reaches nothing of the device by them. For storage that was never backed there is nothing to do.
    /// </summary>
    /// <returns>Anything but success means that they may: the storage is never handed out again.</returns>
    Errno Unback(GpuPlacement placement);
}
