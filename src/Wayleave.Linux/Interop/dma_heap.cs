namespace Wayleave.Linux.Interop;

// include/uapi/linux/dma-heap.h
internal static unsafe class dma_heap
{
    internal static readonly nuint DMA_HEAP_IOCTL_ALLOC = ioctl._IOWR('H', 0, sizeof(dma_heap_allocation_data));
}

internal struct dma_heap_allocation_data
{
    internal ulong len;
    internal uint fd;
    internal uint fd_flags;
    internal ulong heap_flags;
}
