using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Guests;

/// <summary>
/// The virtual GEM driver: an importer of any dma-buf that can put a fence on it and signal it when told, which is
/// all of a device that dma-buf's rules can be asked with.
/// </summary>
internal sealed unsafe class Vgem : IDisposable
{
    private readonly int _card;

    internal Vgem() => _card = KernelResult.Required(Libc.open("/dev/dri/card0", Libc.O_RDWR | Libc.O_CLOEXEC), "vgem");

    /// <summary>A buffer of vgem's own.</summary>
    internal KernelBuffer Create(int size)
    {
        DmaBufUapi.DumbArgument dumb = new() { Height = 1, Width = (uint)size / 4, BitsPerPixel = 32 };
        KernelResult.Required(Libc.ioctl(_card, DmaBufUapi.CreateDumb, &dumb), "CREATE_DUMB");
        DmaBufUapi.PrimeArgument prime = new() { Handle = dumb.Handle, Flags = Libc.O_RDWR | Libc.O_CLOEXEC, Fd = -1 };
        KernelResult.Required(Libc.ioctl(_card, DmaBufUapi.HandleToFd, &prime), "PRIME_HANDLE_TO_FD");
        return new KernelBuffer(prime.Fd, (int)dumb.Size);
    }

    /// <summary>PRIME_FD_TO_HANDLE of any descriptor: negative with the errno set, or the handle.</summary>
    internal int TryImport(int fd)
    {
        DmaBufUapi.PrimeArgument prime = new() { Fd = fd };
        int result = Libc.ioctl(_card, DmaBufUapi.FdToHandle, &prime);
        return result < 0 ? result : (int)prime.Handle;
    }

    internal uint Import(KernelBuffer buffer) =>
        (uint)KernelResult.Required(TryImport(buffer.Fd), "PRIME_FD_TO_HANDLE");

    /// <summary>VGEM_FENCE_ATTACH: negative with the errno set, or the fence's number.</summary>
    internal int TryAttach(uint handle, uint flags)
    {
        DmaBufUapi.VgemAttachArgument argument = new() { Handle = handle, Flags = flags };
        int result = Libc.ioctl(_card, DmaBufUapi.VgemAttach, &argument);
        return result < 0 ? result : (int)argument.OutFence;
    }

    /// <summary>Puts a pending fence on a buffer that was imported: as of a writer, or of a reader.</summary>
    internal uint Attach(uint handle, bool isWriter) =>
        (uint)KernelResult.Required(TryAttach(handle, isWriter ? DmaBufUapi.VgemWrite : 0), "VGEM_FENCE_ATTACH");

    /// <summary>VGEM_FENCE_SIGNAL.</summary>
    internal string Signal(uint fence)
    {
        DmaBufUapi.VgemSignalArgument argument = new() { Fence = fence };
        return KernelResult.Ok(Libc.ioctl(_card, DmaBufUapi.VgemSignal, &argument));
    }

    /// <summary>A pending fence that no other buffer knows, as a file, and its number.</summary>
    internal (RawSyncFile File, uint Fence) Pending()
    {
        using KernelBuffer own = Create(4096);
        uint fence = Attach(Import(own), isWriter: true);
        return (own.Export(DmaBufUapi.SyncReadWrite), fence);
    }

    /// <summary>Signals every fence that is pending.</summary>
    public void Dispose() => Libc.close(_card);
}
