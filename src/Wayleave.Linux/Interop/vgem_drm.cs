namespace Wayleave.Linux.Interop;

// include/uapi/drm/vgem_drm.h
internal static unsafe class vgem_drm
{
    internal const uint VGEM_FENCE_WRITE = 0x1;

    internal static readonly nuint DRM_IOCTL_VGEM_FENCE_ATTACH =
        ioctl._IOWR('d', 0x41, sizeof(drm_vgem_fence_attach));
    internal static readonly nuint DRM_IOCTL_VGEM_FENCE_SIGNAL = ioctl._IOW('d', 0x42, sizeof(drm_vgem_fence_signal));
}

internal struct drm_vgem_fence_attach
{
    internal uint handle;
    internal uint flags;
    internal uint out_fence;
    internal uint pad;
}

internal struct drm_vgem_fence_signal
{
    internal uint fence;
    internal uint flags;
}
