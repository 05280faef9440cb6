using System.Runtime.InteropServices;

namespace Wayleave.Lab.Interop;

/// <summary>
/// The ioctls of linux/dma-buf.h, sync_file.h, udmabuf.h, dma-heap.h, and those of drm.h and vgem_drm.h that the lab
/// needs, with the structures they take.
/// </summary>
internal static unsafe class DmaBufUapi
{
    internal const ulong SyncRead = 1;
    internal const ulong SyncWrite = 2;
    internal const ulong SyncReadWrite = 3;
    internal const ulong SyncEnd = 4;

    internal const uint VgemWrite = 1;

    internal static readonly nuint Sync = Iow('b', 0, sizeof(ulong));
    internal static readonly nuint SetName = Iow('b', 1, sizeof(ulong));
    internal static readonly nuint ExportSyncFile = Iowr('b', 2, sizeof(SyncFileArgument));
    internal static readonly nuint ImportSyncFile = Iow('b', 3, sizeof(SyncFileArgument));

    /// <summary>No ioctl of dma-buf's has this number.</summary>
    internal static readonly nuint Unknown = Iow('b', 99, sizeof(ulong));

    internal static readonly nuint Merge = Iowr('>', 3, sizeof(MergeArgument));
    internal static readonly nuint FileInfo = Iowr('>', 4, sizeof(FileInfoArgument));
    internal static readonly nuint SetDeadline = Iow('>', 5, 16);

    internal static readonly nuint UdmabufCreate = Iow('u', 0x42, sizeof(UdmabufArgument));
    internal static readonly nuint HeapAllocate = Iowr('H', 0, sizeof(HeapArgument));

    internal static readonly nuint CreateDumb = Iowr('d', 0xb2, sizeof(DumbArgument));
    internal static readonly nuint HandleToFd = Iowr('d', 0x2d, sizeof(PrimeArgument));
    internal static readonly nuint FdToHandle = Iowr('d', 0x2e, sizeof(PrimeArgument));
    internal static readonly nuint VgemAttach = Iowr('d', 0x41, sizeof(VgemAttachArgument));
    internal static readonly nuint VgemSignal = Iow('d', 0x42, sizeof(VgemSignalArgument));

    /// <summary>The same ioctl with another size of its structure, as an older or a newer header has it.</summary>
    internal static nuint WithSize(nuint request, int size) => (request & ~((nuint)0x3fff << 16)) | ((nuint)size << 16);

    private static nuint Iow(char type, int number, int size) => Encode(1, type, number, size);

    private static nuint Iowr(char type, int number, int size) => Encode(3, type, number, size);

    // asm-generic/ioctl.h
    private static nuint Encode(int direction, char type, int number, int size) =>
        ((nuint)direction << 30) | ((nuint)size << 16) | ((nuint)type << 8) | (nuint)number;

    /// <summary><c>struct dma_buf_export_sync_file</c> and <c>struct dma_buf_import_sync_file</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct SyncFileArgument
    {
        internal uint Flags;
        internal int Fd;
    }

    /// <summary><c>struct sync_merge_data</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct MergeArgument
    {
        internal fixed byte Name[32];
        internal int Fd2;
        internal int Fence;
        internal uint Flags;
        internal uint Pad;
    }

    /// <summary><c>struct sync_file_info</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct FileInfoArgument
    {
        internal fixed byte Name[32];
        internal int Status;
        internal uint Flags;
        internal uint FenceCount;
        internal uint Pad;
        internal ulong Fences;
    }

    /// <summary><c>struct sync_fence_info</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct FenceInfo
    {
        internal fixed byte Timeline[32];
        internal fixed byte Driver[32];
        internal int Status;
        internal uint Flags;
        internal ulong TimestampNs;
    }

    /// <summary><c>struct udmabuf_create</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct UdmabufArgument
    {
        internal uint MemFd;
        internal uint Flags;
        internal ulong Offset;
        internal ulong Size;
    }

    /// <summary><c>struct dma_heap_allocation_data</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct HeapArgument
    {
        internal ulong Length;
        internal uint Fd;
        internal uint FdFlags;
        internal ulong HeapFlags;
    }

    /// <summary><c>struct drm_mode_create_dumb</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct DumbArgument
    {
        internal uint Height;
        internal uint Width;
        internal uint BitsPerPixel;
        internal uint Flags;
        internal uint Handle;
        internal uint Pitch;
        internal ulong Size;
    }

    /// <summary><c>struct drm_prime_handle</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct PrimeArgument
    {
        internal uint Handle;
        internal uint Flags;
        internal int Fd;
    }

    /// <summary><c>struct drm_vgem_fence_attach</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct VgemAttachArgument
    {
        internal uint Handle;
        internal uint Flags;
        internal uint OutFence;
        internal uint Pad;
    }

    /// <summary><c>struct drm_vgem_fence_signal</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct VgemSignalArgument
    {
        internal uint Fence;
        internal uint Flags;
    }
}
