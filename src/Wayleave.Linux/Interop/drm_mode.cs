namespace Wayleave.Linux.Interop;

// include/uapi/drm/drm_mode.h
internal struct drm_mode_create_dumb
{
    internal uint height;
    internal uint width;
    internal uint bpp;
    internal uint flags;
    internal uint handle;
    internal uint pitch;
    internal ulong size;
}
