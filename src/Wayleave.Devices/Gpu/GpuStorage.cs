using System.Numerics;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu;

// The resource managers of TTM (ttm_resource.c): a domain each, which knows ranges and nothing of buffers.
//
//   windows of VRAM: |---- the BAR shows them: Vram ----|---- the engines alone reach them: HiddenVram ----|
//   windows of the machine's memory: System

/// <summary>
/// The memory that buffers of a GPU may be in, by domain: what it is made of, and who has which part. Host lock held.
/// </summary>
internal sealed class GpuStorage
{
    private readonly PciFabric _fabric;
    private readonly PciFunction _function;
    private readonly List<(DeviceRange Range, Memory<byte> Bytes)> _bytes = []; // what the BAR shows
    private readonly BlockAllocator _vram;
    private readonly BlockAllocator _hidden;
    private readonly BlockAllocator _system;

    /// <summary>As the constructor of <see cref="GpuDevice"/> says, whose function is plugged in.</summary>
    public GpuStorage(
        PciFabric fabric,
        PciFunction function,
        GpuOptions options,
        IReadOnlyList<Memory<byte>> vram,
        IReadOnlyList<Memory<byte>> systemMemory)
    {
        (_fabric, _function) = (fabric, function);
        ulong vramBytes = vram.Aggregate(0UL, (sum, m) => sum + (ulong)m.Length);
        PciBar memory = function.Bars[GpuDevice.VramBar]
            ?? fabric.AddBar(
                function,
                GpuDevice.VramBar,
                PciBarKind.Memory,
                options.VisibleBytes ?? BitOperations.RoundUpToPowerOf2(vramBytes));
        ulong offset = 0;
        List<DeviceRange> bar = [];
        List<DeviceRange> hidden = [];
        foreach (Memory<byte> window in vram)
        {
            ulong left = memory.Range.LengthBytes - Math.Min(memory.Range.LengthBytes, offset);
            int visible = (int)Math.Min((ulong)window.Length, left);
            if (visible > 0)
            {
                bar.Add(fabric.AddWindow(window[..visible], memory, offset).Range);
                _bytes.Add((bar[^1], window[..visible]));
            }

            if (visible < window.Length)
            {
                hidden.Add(fabric.AddPrivateWindow(window[visible..], function).Range);
            }

            offset += (ulong)window.Length;
        }

        DeviceRange[] pool = [.. systemMemory.Select(m => fabric.AddWindow(m, owner: null).Range)];
        SystemWindows = pool;
        _vram = new BlockAllocator($"{function.Name} vram", bar, options.GranularityBytes, Errno.ENOSPC);
        _hidden = new BlockAllocator($"{function.Name} hidden vram", hidden, options.GranularityBytes, Errno.ENOSPC);
        _system = new BlockAllocator($"{function.Name} system memory", pool, options.GranularityBytes, Errno.ENOMEM);
    }

    /// <summary>Addresses of the system memory, a range for each of its windows.</summary>
    public IReadOnlyList<DeviceRange> SystemWindows { get; }

    public BlockAllocator Memory(GpuDomain domain) => domain switch
    {
        GpuDomain.Vram => _vram,
        GpuDomain.HiddenVram => _hidden,
        _ => _system,
    };

    /// <summary>Adds what is used and free of each domain.</summary>
    public GpuStats Count(GpuStats stats) => stats with
    {
        VramTotalBytes = _vram.TotalBytes,
        VramFreeBytes = _vram.FreeBytes,
        VramUsedBytes = _vram.UsedBytes,
        VramQuarantinedBytes = _vram.QuarantinedBytes,
        HiddenVramTotalBytes = _hidden.TotalBytes,
        HiddenVramFreeBytes = _hidden.FreeBytes,
        HiddenVramUsedBytes = _hidden.UsedBytes,
        HiddenVramQuarantinedBytes = _hidden.QuarantinedBytes,
        SystemTotalBytes = _system.TotalBytes,
        SystemFreeBytes = _system.FreeBytes,
        SystemUsedBytes = _system.UsedBytes,
        SystemQuarantinedBytes = _system.QuarantinedBytes,
    };

    /// <summary>The bytes behind addresses of the BAR. False unless they are in one window of it.</summary>
    public bool TryFindBytes(DeviceRange range, out Memory<byte> bytes)
    {
        foreach ((DeviceRange window, Memory<byte> all) in _bytes)
        {
            ulong offset = range.Start.Value - window.Start.Value;
            if (range.Start.Value >= window.Start.Value && offset + range.LengthBytes <= window.LengthBytes)
            {
                bytes = all.Slice((int)offset, (int)range.LengthBytes);
                return true;
            }
        }

        bytes = default;
        return false;
    }

    /// <summary>Takes storage in a domain, with the addresses at which the device itself reaches it.</summary>
    /// <returns>What the domain's allocator says, or the IOMMU.</returns>
    public Errno TryPlace(
        GpuDomain domain, ulong sizeBytes, ulong alignmentBytes, string owner, out GpuPlacement? placement)
    {
        placement = null;
        Errno errno = Memory(domain).TryAllocate(sizeBytes, alignmentBytes, owner, out MemoryBlock[] blocks);
        if (errno != Errno.Success)
        {
            return errno;
        }

        // The engine needs addresses of its own: below an IOMMU they are others than those of the storage.
        GpuPlacement made = new(domain, blocks, sizeBytes);
        errno = _fabric.TryMap(_function, made.Addresses, out DmaAddressList? local);
        if (errno != Errno.Success)
        {
            GiveBack(made);
            return errno;
        }

        made.LocalAddresses = local!;
        placement = made;
        return Errno.Success;
    }

    /// <summary>Somebody may still be in it: its blocks are used, but nobody's.</summary>
    public void SetQuarantined(GpuPlacement placement)
    {
        foreach (MemoryBlock block in placement.Blocks)
        {
            if (block.State == BlockState.Used)
            {
                Memory(placement.Domain).Quarantine(block);
            }
        }
    }

    /// <summary>Nobody is in it any more.</summary>
    public void GiveBack(GpuPlacement placement)
    {
        _fabric.Unmap(_function, placement.LocalAddresses);
        foreach (MemoryBlock block in placement.Blocks)
        {
            Memory(placement.Domain).Free(block);
        }
    }
}
