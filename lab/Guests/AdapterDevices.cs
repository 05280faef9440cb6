using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Buffers;
using Wayleave.Linux.Drm;

namespace Wayleave.Lab.Guests;

/// <summary>The guest's exporters and vgem, by the product's own adapters.</summary>
internal sealed class AdapterDevices : IDisposable
{
    private readonly UdmabufDevice _udmabuf = UdmabufDevice.Open();
    private readonly DmaHeap _heap = DmaHeap.Open(DmaHeap.System);

    internal AdapterDevices()
    {
        Card = OpenVgem();
        Fences = new VgemFences(Card);
    }

    internal DrmDevice Card { get; }

    internal VgemFences Fences { get; }

    /// <summary>A buffer of the exporter that records call so.</summary>
    internal DmaBuf Create(string exporter, int size)
    {
        switch (exporter)
        {
            case "udmabuf":
                return _udmabuf.Create("lab", size);
            case "dma-heap":
                Required(_heap.TryAllocate((ulong)size, 0, out DmaBuf? allocated), "DMA_HEAP_IOCTL_ALLOC");
                return allocated!;
            default:
                Required(Card.TryCreateDumb((uint)size, out uint handle), "CREATE_DUMB");
                Required(Card.TryExport(handle, out DmaBuf? exported), "PRIME_HANDLE_TO_FD");
                return exported!;
        }
    }

    /// <summary>A fence on a buffer, by its number.</summary>
    internal uint Attach(DmaBuf buffer, bool isWriter)
    {
        Required(Card.TryImport(buffer.Descriptor, out uint handle), "PRIME_FD_TO_HANDLE");
        Required(Fences.TryAttach(handle, isWriter, out uint fence), "VGEM_FENCE_ATTACH");
        return fence;
    }

    /// <summary>A fence that no other buffer knows, as a file, and its number.</summary>
    internal (KernelSyncFile File, uint Fence) Pending()
    {
        using DmaBuf own = Create("vgem", 4096);
        uint fence = Attach(own, isWriter: true);
        Required(own.TryExportSyncFile(Core.Buffers.BufferSync.Write, out KernelSyncFile? file), "EXPORT_SYNC_FILE");
        return (file!, fence);
    }

    internal static void Required(Errno errno, string what)
    {
        if (errno != Errno.Success)
        {
            throw new LinuxException(what, "vgem", errno);
        }
    }

    public void Dispose()
    {
        Card.Dispose();
        _heap.Dispose();
        _udmabuf.Dispose();
    }

    private static DrmDevice OpenVgem()
    {
        foreach (string node in DrmDevice.ListNodes())
        {
            DrmDevice device = DrmDevice.Open(node);
            if (device.Driver == VgemFences.Driver)
            {
                return device;
            }

            device.Dispose();
        }

        throw new LinuxException("open", DrmDevice.Folder, Errno.ENODEV, "modprobe vgem");
    }
}
