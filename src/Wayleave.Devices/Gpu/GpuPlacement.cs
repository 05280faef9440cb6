using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu;

/// <summary>The storage that holds a buffer's bytes (<c>ttm_resource</c>). Immutable: a move makes another.</summary>
public sealed class GpuPlacement
{
    internal GpuPlacement(GpuDomain domain, MemoryBlock[] blocks, ulong sizeBytes)
    {
        Domain = domain;
        Blocks = blocks;
        DeviceRange[] ranges = [.. blocks.Select(b => b.Range)];
        foreach (MemoryBlock block in blocks)
        {
            StorageBytes += block.Range.LengthBytes;
        }

        // The last block was rounded up; what lies behind the buffer's end is nobody's to reach.
        ranges[^1] = ranges[^1] with { LengthBytes = ranges[^1].LengthBytes - (StorageBytes - sizeBytes) };
        Addresses = new DmaAddressList(ranges);
        LocalAddresses = Addresses;
    }

    public GpuDomain Domain { get; }

    /// <summary>In the order of the buffer's bytes.</summary>
    public IReadOnlyList<MemoryBlock> Blocks { get; }

    /// <summary>Physical addresses, exactly the buffer's size; a map makes those of its device from them.</summary>
    public DmaAddressList Addresses { get; }

    /// <summary>The same bytes as the GPU's own engines reach them.</summary>
    public DmaAddressList LocalAddresses { get; internal set; }

    /// <summary>With what the allocator rounded up.</summary>
    public ulong StorageBytes { get; }
}
