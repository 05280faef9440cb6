namespace Wayleave.Linux.Interop;

// include/uapi/drm/drm.h
internal static unsafe class drm
{
    internal const ulong DRM_CAP_DUMB_BUFFER = 0x1;
    internal const ulong DRM_CAP_PRIME = 0x5;
    internal const ulong DRM_CAP_SYNCOBJ = 0x13;
    internal const ulong DRM_CAP_SYNCOBJ_TIMELINE = 0x14;

    internal const ulong DRM_PRIME_CAP_IMPORT = 0x1;
    internal const ulong DRM_PRIME_CAP_EXPORT = 0x2;

    internal static readonly nuint DRM_IOCTL_VERSION = ioctl._IOWR('d', 0x00, sizeof(drm_version));
    internal static readonly nuint DRM_IOCTL_GEM_CLOSE = ioctl._IOW('d', 0x09, sizeof(drm_gem_close));
    internal static readonly nuint DRM_IOCTL_GET_CAP = ioctl._IOWR('d', 0x0c, sizeof(drm_get_cap));
    internal static readonly nuint DRM_IOCTL_PRIME_HANDLE_TO_FD = ioctl._IOWR('d', 0x2d, sizeof(drm_prime_handle));
    internal static readonly nuint DRM_IOCTL_PRIME_FD_TO_HANDLE = ioctl._IOWR('d', 0x2e, sizeof(drm_prime_handle));
    internal static readonly nuint DRM_IOCTL_MODE_CREATE_DUMB = ioctl._IOWR('d', 0xb2, sizeof(drm_mode_create_dumb));
}

internal unsafe struct drm_version
{
    internal int version_major;
    internal int version_minor;
    internal int version_patchlevel;
    internal nuint name_len;
    internal byte* name;
    internal nuint date_len;
    internal byte* date;
    internal nuint desc_len;
    internal byte* desc;
}

internal struct drm_gem_close
{
    internal uint handle;
    internal uint pad;
}

internal struct drm_get_cap
{
    internal ulong capability;
    internal ulong value;
}

internal struct drm_prime_handle
{
    internal uint handle;
    internal uint flags;
    internal int fd;
}
