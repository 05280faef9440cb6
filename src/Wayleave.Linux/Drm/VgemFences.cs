using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Drm;

/// <summary>
/// Fences of the virtual GEM driver (<c>drivers/gpu/drm/vgem/vgem_fence.c</c>): put on an imported buffer, signalled
/// when this process says so. With them a program stands for a device that has jobs. A fence that nobody signals does
/// so itself after ten seconds, and those left when the device is closed do so then: without an error, both.
/// </summary>
/// <param name="device">A node of vgem's. Stays the caller's.</param>
public sealed unsafe class VgemFences(DrmDevice device)
{
    /// <summary>The driver's name, as <see cref="DrmDevice.Driver"/>.</summary>
    public const string Driver = "vgem";

    /// <summary><c>DRM_IOCTL_VGEM_FENCE_ATTACH</c>.</summary>
    /// <param name="handle">A buffer of the device: imported, or its own.</param>
    /// <param name="isWriter">As WRITE; otherwise as READ.</param>
    /// <param name="fence">Its number in the open file.</param>
    /// <returns>
    /// EBUSY while a pending fence conflicts: any for a writer, a writer's for a reader. ENOENT: no such handle.
    /// </returns>
    public Errno TryAttach(uint handle, bool isWriter, out uint fence)
    {
        drm_vgem_fence_attach argument = new()
        {
            handle = handle,
            flags = isWriter ? vgem_drm.VGEM_FENCE_WRITE : 0,
        };
        Errno errno = device.Control(vgem_drm.DRM_IOCTL_VGEM_FENCE_ATTACH, &argument);
        fence = argument.out_fence;
        return errno;
    }

    /// <summary><c>DRM_IOCTL_VGEM_FENCE_SIGNAL</c>.</summary>
    /// <returns>ENOENT: no such fence, or signalled here before. ETIMEDOUT: its ten seconds had passed.</returns>
    public Errno TrySignal(uint fence)
    {
        drm_vgem_fence_signal argument = new() { fence = fence };
        return device.Control(vgem_drm.DRM_IOCTL_VGEM_FENCE_SIGNAL, &argument);
    }
}
