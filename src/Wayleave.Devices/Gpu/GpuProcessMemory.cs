using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu;

// kfd_migrate.c, drm_pagemap. Pages that a queue faults on migrate here first, and are mapped for the GPU where they
// are then; whoever else touches one gets it home, but for devices that may reach it by the BAR (PeerReach).
//
// The copy engine copies. Where its ring is full the processor does (ttm_bo_move_memcpy): a page that somebody waits
// for must not fail for want of a slot. Where the device is gone so are its pages, and the copy fails.

/// <summary>
/// A part of a GPU's memory that pages of processes migrate to (<c>struct dev_pagemap</c>, device private). Host lock
/// held by the caller.
/// </summary>
public sealed class GpuProcessMemory : IPeerReachableMemory
{
    private readonly GpuDevice _device;
    private readonly Timeline _copies;
    private readonly PeerReach _reach;

    private GpuProcessMemory(GpuDevice device, MemorySystem memory, Memory<byte> bytes, DeviceAddress address)
    {
        (_device, Name) = (device, $"{device.Function.Name} process memory");
        _copies = new Timeline(device.Host, Name);
        _reach = new PeerReach(device.Fabric, device.Function);
        Pages = new DeviceMemory(memory, this, bytes, PageFrameKind.DevicePrivate, address);
        System = memory;
    }

    public string Name { get; }

    /// <summary>The device, for its own mirrors.</summary>
    public object Owner => _device;

    /// <summary>The pages.</summary>
    public DeviceMemory Pages { get; }

    /// <summary>Whose processes use them.</summary>
    public MemorySystem System { get; }

    /// <summary>Pages that the processor had to copy.</summary>
    public long ProcessorCopies { get; private set; }

    /// <inheritdoc/>
    public bool TakesFolios => true;

    /// <summary>Sets memory aside for good, one piece of what the BAR shows.</summary>
    /// <param name="device">That has none yet.</param>
    /// <param name="memory">Of the machine.</param>
    /// <param name="sizeBytes">Whole pages.</param>
    /// <param name="made">Null unless Success; <see cref="GpuDevice.ProcessMemory"/> from then on.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for no whole pages; <see cref="Errno.EEXIST"/> the second time;
    /// <see cref="Errno.ENOSPC"/> when there is no such piece; <see cref="Errno.EOPNOTSUPP"/> behind an IOMMU that
    /// translates.
    /// </returns>
    public static Errno TryCreate(
        GpuDevice device, MemorySystem memory, ulong sizeBytes, out GpuProcessMemory? made)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(memory);
        device.Host.AssertHeld();
        made = null;
        if (sizeBytes == 0 || sizeBytes % PageFrame.SizeBytes != 0)
        {
            return Errno.EINVAL;
        }

        if (device.ProcessMemory is not null)
        {
            return Errno.EEXIST;
        }

        if (device.Function.Root is { Iommu: IommuMode.Strict })
        {
            return Errno.EOPNOTSUPP;
        }

        BlockAllocator vram = device.Memory(GpuDomain.Vram);
        Errno errno = vram.TryAllocate(sizeBytes, PageFrame.SizeBytes, "pages of processes", out MemoryBlock[] blocks);
        if (errno != Errno.Success)
        {
            return errno;
        }

        if (blocks.Length != 1 || !device.TryFindBytes(blocks[0].Range, out Memory<byte> bytes))
        {
            Array.ForEach(blocks, vram.Free);
            return Errno.ENOSPC;
        }

        made = new GpuProcessMemory(device, memory, bytes[..(int)sizeBytes], blocks[0].Range.Start);
        device.ProcessMemory = made;
        return Errno.Success;
    }

    /// <inheritdoc/>
    /// <remarks>
    /// A page whose address answers nothing stays where it is, and so does all that a hung or dead engine has not done.
    /// </remarks>
    public Errno Copy(PageCopies copies, out Fence? fence)
    {
        ArgumentNullException.ThrowIfNull(copies);
        _device.Host.AssertHeld();
        fence = null;
        if (_device.CopyEngine.Refusal == Errno.ENODEV)
        {
            return Errno.ENODEV;
        }

        fence = new PageCopyRun(_device.Host, _device.CopyEngine, copies, _copies)
        {
            CopiedByProcessor = pages => ProcessorCopies += pages,
        }.Start();
        return Errno.Success;
    }

    /// <summary>The next process finds it cleared, or has its own bytes there.</summary>
    public void HandleFree(PageFrame frame)
    {
    }

    /// <inheritdoc/>
    public bool TryGetPeerAddress(PageFrame frame, PciFunction client, out DeviceAddress address) =>
        _reach.TryGetAddress(frame, client, out address);
}
