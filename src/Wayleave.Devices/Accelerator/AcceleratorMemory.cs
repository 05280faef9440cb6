using Wayleave.Core.Buffers;
using Wayleave.Devices.Gpu;

namespace Wayleave.Devices.Accelerator;

/// <summary>
/// Memory behind one handle or one host mapping (<c>struct hl_vm_phys_pg_pack</c>): pages that need not follow one
/// another. Counted: it returns to the allocator with the last of its handle, its mappings and the engine's jobs.
/// </summary>
internal sealed class AcceleratorMemory
{
    private readonly AcceleratorDevice _device;
    private readonly MemoryBlock[] _blocks;
    private int _references = 1; // the handle's, or the mapping's of host memory

    public AcceleratorMemory(AcceleratorDevice device, MemoryBlock[] blocks, ulong sizeBytes)
    {
        (_device, _blocks, SizeBytes, IsDevice) = (device, blocks, sizeBytes, true);
        Physical = new DmaAddressList([.. blocks.Select(b => b.Range)]);
        Local = Physical;
    }

    /// <summary>The host's memory as the device reaches it; ends with the mapping.</summary>
    public AcceleratorMemory(AcceleratorDevice device, DmaAddressList physical, DmaAddressList local) =>
        (_device, _blocks, SizeBytes, Physical, Local) = (device, [], physical.LengthBytes, physical, local);

    public ulong SizeBytes { get; }

    /// <summary>Whether it is the device's own, and not the host's.</summary>
    public bool IsDevice { get; }

    /// <summary>Neighbouring pages are one entry.</summary>
    public DmaAddressList Physical { get; }

    /// <summary>As the device's engine reaches it.</summary>
    public DmaAddressList Local { get; set; }

    /// <summary>How many addresses it is mapped at.</summary>
    public int MappingCount { get; set; }

    /// <summary>What everybody waits for before the first access; null for memory of the host.</summary>
    public AcceleratorClearing? Clearing { get; set; }

    public void Get() => _references++;

    public void Put()
    {
        if (--_references > 0)
        {
            return;
        }

        _device.Fabric.Unmap(_device.Function, Local);
        foreach (MemoryBlock block in _blocks)
        {
            _device.Memory.Free(block);
        }
    }
}

/// <summary>One address at which memory is mapped (<c>struct hl_vm_hash_node</c>).</summary>
internal sealed class AcceleratorMapping(ulong address, AcceleratorMemory memory)
{
    public ulong Address { get; } = address;

    public AcceleratorMemory Memory { get; } = memory;

    /// <summary>Dma-bufs that were made of it and are not released (<c>export_cnt</c>).</summary>
    public int ExportCount { get; set; }
}
