using System.Runtime.InteropServices;
using System.Text;
using Wayleave.Core;
using Wayleave.Linux.Buffers;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Drm;

/// <summary>What a DRM driver can do (<c>DRM_CAP_*</c>, same numbers).</summary>
public enum DrmCapability : ulong
{
    /// <summary>Buffers of plain memory for drawing by the processor.</summary>
    DumbBuffer = 0x1,

    /// <summary>Bit 0: it imports dma-bufs; bit 1: it exports them.</summary>
    Prime = 0x5,

    /// <summary>Fences with a handle.</summary>
    SyncObject = 0x13,

    /// <summary>Those with a point in time each.</summary>
    SyncObjectTimeline = 0x14,
}

/// <summary>
/// A DRM node, as far as buffers are shared through it: PRIME turns its handles into dma-bufs and back
/// (<c>drivers/gpu/drm/drm_prime.c</c>). A handle belongs to the open file: two objects have different ones.
/// </summary>
public sealed unsafe class DrmDevice : IDisposable
{
    /// <summary>Where the nodes are.</summary>
    public const string Folder = "/dev/dri";

    private const int NameBytesMax = 64;

    private DrmDevice(FileDescriptor descriptor, string path, string driver) =>
        (Descriptor, Path, Driver) = (descriptor, path, driver);

    public string Path { get; }

    /// <summary>As <c>DRM_IOCTL_VERSION</c> names it: <c>amdgpu</c>, <c>vgem</c>.</summary>
    public string Driver { get; }

    /// <summary>Whether it imports dma-bufs.</summary>
    public bool Imports => HasPrime(drm.DRM_PRIME_CAP_IMPORT);

    /// <summary>Whether it exports its buffers as dma-bufs.</summary>
    public bool Exports => HasPrime(drm.DRM_PRIME_CAP_EXPORT);

    internal FileDescriptor Descriptor { get; }

    /// <summary>Every card and render node, sorted; empty when there is none.</summary>
    public static IReadOnlyList<string> ListNodes() => !Directory.Exists(Folder)
        ? []
        : [.. Directory.GetFiles(Folder)
            .Where(f => System.IO.Path.GetFileName(f) is { } name
                && (name.StartsWith("card", StringComparison.Ordinal)
                    || name.StartsWith("renderD", StringComparison.Ordinal)))
            .Order(StringComparer.Ordinal)];

    /// <param name="path">A card or a render node.</param>
    /// <exception cref="LinuxException">ENOENT, EACCES; ENOTTY or EINVAL: it is no DRM node.</exception>
    public static DrmDevice Open(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        FileDescriptor descriptor = DeviceFile.Open(path);
        byte* name = stackalloc byte[NameBytesMax];
        drm_version argument = new() { name_len = NameBytesMax, name = name };
        if (Libc.ioctl(descriptor, drm.DRM_IOCTL_VERSION, &argument) < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            descriptor.Dispose();
            throw new LinuxException("DRM_IOCTL_VERSION", path, errno);
        }

        int length = (int)Math.Min(argument.name_len, NameBytesMax);
        return new DrmDevice(descriptor, path, Encoding.UTF8.GetString(name, length));
    }

    /// <summary><c>DRM_IOCTL_GET_CAP</c>.</summary>
    /// <returns>EINVAL: the kernel does not know it. EOPNOTSUPP: the driver has no such thing.</returns>
    public Errno TryGetCapability(DrmCapability capability, out ulong value)
    {
        drm_get_cap argument = new() { capability = (ulong)capability };
        Errno errno = Control(drm.DRM_IOCTL_GET_CAP, &argument);
        value = argument.value;
        return errno;
    }

    /// <summary><c>DRM_IOCTL_MODE_CREATE_DUMB</c>: a buffer of at least that many bytes, zeroed.</summary>
    /// <param name="sizeBytes">Rounded up as the driver likes: one row of 32-bit pixels.</param>
    /// <param name="handle">Owned by the caller until <see cref="TryClose"/>, or the end of this object.</param>
    /// <returns>EINVAL, ENOSYS (the driver has none), EACCES (render nodes have none), ENOMEM.</returns>
    public Errno TryCreateDumb(uint sizeBytes, out uint handle)
    {
        drm_mode_create_dumb argument = new() { height = 1, width = (sizeBytes + 3) / 4, bpp = 32 };
        Errno errno = Control(drm.DRM_IOCTL_MODE_CREATE_DUMB, &argument);
        handle = argument.handle;
        return errno;
    }

    /// <summary><c>DRM_IOCTL_PRIME_HANDLE_TO_FD</c>.</summary>
    /// <param name="handle">Of this object. Stays the caller's.</param>
    /// <param name="buffer">The same buffer for whoever gets its descriptor; owned by the caller.</param>
    public Errno TryExport(uint handle, out DmaBuf? buffer)
    {
        buffer = null;
        drm_prime_handle argument = new() { handle = handle, flags = fcntl.O_RDWR | fcntl.O_CLOEXEC, fd = -1 };
        Errno errno = Control(drm.DRM_IOCTL_PRIME_HANDLE_TO_FD, &argument);
        if (errno == Errno.Success)
        {
            buffer = DmaBuf.Open(new FileDescriptor(argument.fd, ownsHandle: true));
        }

        return errno;
    }

    /// <summary>
    /// <c>DRM_IOCTL_PRIME_FD_TO_HANDLE</c>: the driver attaches. One dma-buf has one handle in one open file.
    /// </summary>
    /// <param name="buffer">Any descriptor. Stays the caller's.</param>
    /// <param name="handle">Owned by the caller until <see cref="TryClose"/>, or the end of this object.</param>
    /// <returns>EINVAL: no dma-buf. EBADF. Otherwise what its exporter says to the attachment.</returns>
    public Errno TryImport(FileDescriptor buffer, out uint handle)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        using FileDescriptor.Borrowed fd = buffer.Borrow();
        drm_prime_handle argument = new() { fd = fd.Number };
        Errno errno = Control(drm.DRM_IOCTL_PRIME_FD_TO_HANDLE, &argument);
        handle = argument.handle;
        return errno;
    }

    /// <summary><c>DRM_IOCTL_GEM_CLOSE</c>: the handle is free again; the buffer lives while others use it.</summary>
    public Errno TryClose(uint handle)
    {
        drm_gem_close argument = new() { handle = handle };
        return Control(drm.DRM_IOCTL_GEM_CLOSE, &argument);
    }

    public void Dispose() => Descriptor.Dispose();

    // drmIoctl of libdrm repeats for both.
    internal Errno Control(nuint request, void* argument)
    {
        while (Libc.ioctl(Descriptor, request, argument) < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            if (errno is not (Errno.EINTR or Errno.EAGAIN))
            {
                return errno;
            }
        }

        return Errno.Success;
    }

    private bool HasPrime(ulong bit) =>
        TryGetCapability(DrmCapability.Prime, out ulong prime) == Errno.Success && (prime & bit) != 0;
}
