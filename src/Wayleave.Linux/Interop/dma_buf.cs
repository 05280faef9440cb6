namespace Wayleave.Linux.Interop;

// include/uapi/linux/dma-buf.h
internal static unsafe class dma_buf
{
    internal const ulong DMA_BUF_SYNC_READ = 1;
    internal const ulong DMA_BUF_SYNC_WRITE = 2;
    internal const ulong DMA_BUF_SYNC_END = 4;

    internal const int DMA_BUF_NAME_LEN = 32;

    internal static readonly nuint DMA_BUF_IOCTL_SYNC = ioctl._IOW('b', 0, sizeof(dma_buf_sync));
    internal static readonly nuint DMA_BUF_SET_NAME_B = ioctl._IOW('b', 1, sizeof(ulong));
    internal static readonly nuint DMA_BUF_IOCTL_EXPORT_SYNC_FILE =
        ioctl._IOWR('b', 2, sizeof(dma_buf_export_sync_file));
    internal static readonly nuint DMA_BUF_IOCTL_IMPORT_SYNC_FILE =
        ioctl._IOW('b', 3, sizeof(dma_buf_import_sync_file));
}

internal struct dma_buf_sync
{
    internal ulong flags;
}

internal struct dma_buf_export_sync_file
{
    internal uint flags;
    internal int fd;
}

internal struct dma_buf_import_sync_file
{
    internal uint flags;
    internal int fd;
}
