using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;

namespace Wayleave.Devices.Accelerator;

/// <summary>
/// What one user has on an accelerator, with the file by which it has it (<c>struct hl_ctx</c>, <c>hl_mem_ioctl</c>).
/// It lives until the file is closed and every dma-buf made of its memory is released. Host lock held by the caller.
/// </summary>
public sealed class AcceleratorContext
{
    private const ulong SystemPageBytes = 4096;
    private const ulong FirstAddress = 0x1000_0000_0000;

    private readonly AcceleratorDevice _device;
    private readonly SortedDictionary<ulong, AcceleratorMemory> _handles = [];
    private readonly SortedDictionary<ulong, AcceleratorMapping> _mappings = [];
    private int _references = 1; // the file's
    private ulong _nextHandle = 1;
    private ulong _nextAddress = FirstAddress;

    internal AcceleratorContext(AcceleratorDevice device, string holder) => (_device, Holder) = (device, holder);

    /// <summary>Who opened it, for people.</summary>
    public string Holder { get; }

    /// <summary>Whether the user still has its file.</summary>
    public bool IsOpen { get; private set; } = true;

    /// <summary>Whether the file and all exports are gone, and with them the memory.</summary>
    public bool IsReleased { get; private set; }

    /// <summary>Dma-bufs that are not released.</summary>
    public int ExportCount { get; private set; }

    /// <summary>
    /// What the user said it has taken: of a device without virtual memory all that is known, and its word alone.
    /// </summary>
    public ulong ClaimedBytes { get; private set; }

    /// <summary>The clearing of the whole memory, on a device without virtual memory.</summary>
    internal AcceleratorClearing? Clearing { get; set; }

    /// <summary>
    /// Takes device memory (<c>HL_MEM_OP_ALLOC</c>). Its bytes are zero before anybody reaches them. A device without
    /// virtual memory only counts, and gives the handle 0.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for no bytes, <see cref="Errno.ENOMEM"/> when there are not enough,
    /// <see cref="Errno.EAGAIN"/> when the engine's ring is full, <see cref="Errno.EBADF"/> after
    /// <see cref="Close"/>.
    /// </returns>
    public Errno TryAllocate(ulong sizeBytes, out ulong handle)
    {
        _device.Host.AssertHeld();
        handle = 0;
        if (!IsOpen)
        {
            return Errno.EBADF;
        }

        if (sizeBytes == 0)
        {
            return Errno.EINVAL;
        }

        if (!_device.Options.HasVirtualMemory)
        {
            ClaimedBytes += sizeBytes;
            return Errno.Success;
        }

        ulong page = (ulong)_device.Options.PageBytes;
        if (sizeBytes > _device.MemoryBytes)
        {
            return Errno.ENOMEM;
        }

        ulong size = (sizeBytes + page - 1) & ~(page - 1);
        Errno errno = _device.Memory.TryAllocate(size, page, Holder, out MemoryBlock[] blocks);
        if (errno != Errno.Success)
        {
            return errno;
        }

        AcceleratorMemory memory = new(_device, blocks, size);
        errno = _device.Fabric.TryMap(_device.Function, memory.Physical, out DmaAddressList? local);
        memory.Local = local ?? memory.Physical;
        memory.Get();
        AcceleratorClearing? clearing = null;
        errno = errno == Errno.Success
            ? _device.TryClear(memory.Physical, Holder, memory.Put, out clearing)
            : errno;
        if (errno != Errno.Success)
        {
            memory.Put();
            memory.Put();
            return errno;
        }

        memory.Clearing = clearing;
        handle = _nextHandle++;
        _handles.Add(handle, memory);
        ClaimedBytes += size;
        return Errno.Success;
    }

    /// <summary>Gives device memory back (<c>HL_MEM_OP_FREE</c>).</summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for a handle that is not there, and for memory that is mapped; and so exported memory
    /// is never freed.
    /// </returns>
    public Errno TryFree(ulong handle)
    {
        _device.Host.AssertHeld();
        if (!IsOpen)
        {
            return Errno.EBADF;
        }

        if (!_handles.TryGetValue(handle, out AcceleratorMemory? memory) || memory.MappingCount > 0)
        {
            return Errno.EINVAL;
        }

        _handles.Remove(handle);
        ClaimedBytes -= memory.SizeBytes;
        memory.Put();
        return Errno.Success;
    }

    /// <summary>Gives device memory an address (<c>HL_MEM_OP_MAP</c>); each map gives another.</summary>
    /// <returns><see cref="Errno.EINVAL"/> for a handle that is not there.</returns>
    public Errno TryMap(ulong handle, out ulong address)
    {
        _device.Host.AssertHeld();
        address = 0;
        if (!IsOpen)
        {
            return Errno.EBADF;
        }

        if (!_handles.TryGetValue(handle, out AcceleratorMemory? memory))
        {
            return Errno.EINVAL;
        }

        memory.Get();
        address = Map(memory);
        return Errno.Success;
    }

    /// <summary>Gives memory of the host an address in the device (<c>HL_MEM_OP_MAP</c> of a user pointer).</summary>
    /// <param name="physical">Physical ranges; the caller keeps the memory until the unmap.</param>
    /// <param name="address">In the device.</param>
    /// <returns><see cref="Errno.EOPNOTSUPP"/> without virtual memory, or what the fabric says.</returns>
    public Errno TryMapHost(DmaAddressList physical, out ulong address)
    {
        ArgumentNullException.ThrowIfNull(physical);
        _device.Host.AssertHeld();
        address = 0;
        if (!IsOpen || !_device.Options.HasVirtualMemory)
        {
            return IsOpen ? Errno.EOPNOTSUPP : Errno.EBADF;
        }

        Errno errno = _device.Fabric.TryMap(_device.Function, physical, out DmaAddressList? local);
        if (errno == Errno.Success)
        {
            address = Map(new AcceleratorMemory(_device, physical, local!));
        }

        return errno;
    }

    /// <summary>Ends an address (<c>HL_MEM_OP_UNMAP</c>).</summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for an address that is not the start of a mapping, and for one that is exported:
    /// importers have no way to be told.
    /// </returns>
    public Errno TryUnmap(ulong address)
    {
        _device.Host.AssertHeld();
        if (!IsOpen)
        {
            return Errno.EBADF;
        }

        if (!_mappings.TryGetValue(address, out AcceleratorMapping? mapping)
            || (mapping.ExportCount > 0 && _device.Options.KeepsExportedMemory))
        {
            return Errno.EINVAL;
        }

        Unmap(mapping);
        return Errno.Success;
    }

    /// <summary>
    /// Copies within the device's addresses, device or host memory, by its engine.
    /// </summary>
    /// <param name="source">First byte.</param>
    /// <param name="target">First byte.</param>
    /// <param name="lengthBytes">Positive; both ranges each inside one mapping.</param>
    /// <param name="copied">Signalled by the engine at the end.</param>
    /// <returns>
    /// <see cref="Errno.EFAULT"/> for an address that is not mapped so far, <see cref="Errno.EAGAIN"/> when the ring is
    /// full, <see cref="Errno.EIO"/> for memory that could not be cleared.
    /// </returns>
    public Errno TryCopy(ulong source, ulong target, ulong lengthBytes, out Fence? copied)
    {
        _device.Host.AssertHeld();
        copied = null;
        if (!IsOpen)
        {
            return Errno.EBADF;
        }

        if (FindLocal(source, lengthBytes, out AcceleratorMemory? from) is not DmaAddressList sourceList
            || FindLocal(target, lengthBytes, out AcceleratorMemory? to) is not DmaAddressList targetList)
        {
            return Errno.EFAULT;
        }

        if (from!.Clearing is { HasFailed: true } || to!.Clearing is { HasFailed: true })
        {
            return Errno.EIO;
        }

        using SignalingSection section = new(_device.Function.Name, "submission");
        Fence fence = new Timeline(_device.Host, $"{_device.Function.Name} copies for {Holder}").CreateFence();
        Errno errno = _device.Engine.TrySubmit(new CopyJob
        {
            Name = $"copy for {Holder}",
            Source = sourceList,
            Target = targetList,
            Waits = [.. new[] { from.Clearing?.Fence, to.Clearing?.Fence }.OfType<Fence>()],
            Fence = fence,
            Ended = _ =>
            {
                from.Put();
                to.Put();
            },
        });
        if (errno != Errno.Success)
        {
            return errno;
        }

        from.Get();
        to.Get();
        copied = fence;
        return Errno.Success;
    }

    /// <summary>
    /// Makes a buffer of a range of device memory (<c>HL_MEM_OP_EXPORT_DMABUF_FD</c>). It keeps the mapping, this
    /// context and the device's file until it is released.
    /// </summary>
    /// <param name="name">At most 31 bytes of UTF-8.</param>
    /// <param name="address">
    /// Where the memory was mapped, exactly; without virtual memory any address in the device that is a user's.
    /// </param>
    /// <param name="sizeBytes">Whole pages of 4 KiB.</param>
    /// <param name="offset">From the address on, whole pages; 0 without virtual memory.</param>
    /// <param name="buffer">The caller's until <see cref="SharedBuffer.Release"/>.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for what is not whole pages, for an address at which nothing or memory of the host is
    /// mapped, for a range outside the mapping or the memory, and for memory that the BAR does not show;
    /// <see cref="Errno.EBADF"/> after <see cref="Close"/>; <see cref="Errno.ENODEV"/> when the device was pulled out;
    /// <see cref="Errno.EIO"/> for memory that could not be cleared.
    /// </returns>
    public Errno TryExport(string name, ulong address, ulong sizeBytes, ulong offset, out SharedBuffer? buffer)
    {
        _device.Host.AssertHeld();
        buffer = null;
        if (!IsOpen)
        {
            return Errno.EBADF;
        }

        if (((address | sizeBytes | offset) & (SystemPageBytes - 1)) != 0 || sizeBytes == 0
            || !SharedBuffer.IsName(name))
        {
            return Errno.EINVAL;
        }

        AcceleratorMapping? mapping = null;
        DmaAddressList? physical = _device.Options.HasVirtualMemory
            ? FindMapped(address, sizeBytes, offset, out mapping)
            : FindPhysical(address, sizeBytes, offset);
        if (physical is null || !IsVisible(mapping?.Memory.Physical ?? physical))
        {
            return Errno.EINVAL;
        }

        if (_device.Provider is not PeerProvider provider)
        {
            return Errno.ENODEV;
        }

        AcceleratorClearing? clearing = mapping is null ? Clearing : mapping.Memory.Clearing;
        if (clearing is { HasFailed: true })
        {
            return Errno.EIO;
        }

        AcceleratorBuffer exporter = new(_device, this, provider, mapping, name, physical);
        Errno errno = SharedBuffer.TryExport(
            _device.Host, new ExportInfo(exporter, name, sizeBytes), out buffer);
        if (errno != Errno.Success)
        {
            return errno;
        }

        if (clearing is { Fence.IsSignaled: false })
        {
            AddKernelFence(buffer!.Reservation, clearing.Fence);
            clearing.HandleExported(buffer);
        }

        _references++;
        ExportCount++;
        if (mapping is not null)
        {
            mapping.ExportCount++;
        }

        return Errno.Success;
    }

    /// <summary>As <see cref="TryExport(string, ulong, ulong, ulong, out SharedBuffer?)"/>, with a handle.</summary>
    /// <returns>As above, and <see cref="Errno.EMFILE"/> when the table is full: nothing is exported then.</returns>
    public Errno TryExport(
        HandleTable table, string name, ulong address, ulong sizeBytes, ulong offset, out int handle)
    {
        ArgumentNullException.ThrowIfNull(table);
        handle = -1;
        Errno errno = TryExport(name, address, sizeBytes, offset, out SharedBuffer? buffer);
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = table.TryInstall(buffer, out handle);
        if (errno != Errno.Success)
        {
            buffer!.Put();
        }

        return errno;
    }

    /// <summary>The user closes its file, or is dead. The context goes now, or with the last dma-buf.</summary>
    public void Close()
    {
        _device.Host.AssertHeld();
        if (IsOpen)
        {
            IsOpen = false;
            _device.Host.Trace("accelerator.close", Holder, ExportCount);
            Put();
        }
    }

    /// <summary>A dma-buf is released: first it, then what it kept.</summary>
    internal void HandleReleased(AcceleratorBuffer buffer)
    {
        _device.Host.Trace("accelerator.buffer_release", buffer.Name);
        ExportCount--;
        if (buffer.Mapping is { } mapping)
        {
            mapping.ExportCount--;
        }

        Put();
    }

    private void AddKernelFence(Reservation reservation, Fence fence)
    {
        AcquireTicket ticket = new(_device.Host, $"export of {Holder}");
        reservation.TryLock(ticket); // nobody else knows the buffer yet
        reservation.ReserveFences(ticket, 1);
        reservation.AddFence(ticket, fence, ReservationUsage.Kernel);
        reservation.Unlock(ticket);
    }

    private ulong Map(AcceleratorMemory memory)
    {
        // An address is never given again: a stale one means nothing.
        ulong address = _nextAddress;
        ulong page = (ulong)_device.Options.PageBytes;
        _nextAddress += ((memory.SizeBytes + page - 1) & ~(page - 1)) + page;
        memory.MappingCount++;
        _mappings.Add(address, new AcceleratorMapping(address, memory));
        return address;
    }

    private void Unmap(AcceleratorMapping mapping)
    {
        _mappings.Remove(mapping.Address);
        mapping.Memory.MappingCount--;
        mapping.Memory.Put();
    }

    private DmaAddressList? FindMapped(
        ulong address, ulong sizeBytes, ulong offset, out AcceleratorMapping? mapping)
    {
        if (!_mappings.TryGetValue(address, out mapping) || !mapping.Memory.IsDevice
            || offset > mapping.Memory.SizeBytes || sizeBytes > mapping.Memory.SizeBytes - offset)
        {
            return null;
        }

        return Slice(mapping.Memory.Physical, offset, sizeBytes);
    }

    private DmaAddressList? FindPhysical(ulong address, ulong sizeBytes, ulong offset)
    {
        ulong from = _device.Options.MemoryBase + _device.Options.ReservedBytes;
        ulong end = _device.Options.MemoryBase + _device.MemoryBytes;
        return offset != 0 || address < from || address >= end || sizeBytes > end - address
            ? null
            : _device.Locate(address - _device.Options.MemoryBase, sizeBytes);
    }

    private bool IsVisible(DmaAddressList physical)
    {
        foreach (DeviceRange range in physical.Entries)
        {
            if (!_device.Bar.Range.Contains(range.Start, range.LengthBytes))
            {
                return false;
            }
        }

        return true;
    }

    private DmaAddressList? FindLocal(ulong address, ulong lengthBytes, out AcceleratorMemory? memory)
    {
        memory = null;
        foreach (AcceleratorMapping mapping in _mappings.Values)
        {
            ulong offset = address - mapping.Address;
            if (address >= mapping.Address && offset < mapping.Memory.SizeBytes)
            {
                memory = mapping.Memory;
                return lengthBytes == 0 || lengthBytes > memory.SizeBytes - offset
                    ? null
                    : Slice(memory.Local, offset, lengthBytes);
            }
        }

        return null;
    }

    private static DmaAddressList Slice(DmaAddressList list, ulong offset, ulong lengthBytes)
    {
        List<DeviceRange> entries = [];
        for (ulong done = 0; done < lengthBytes;)
        {
            list.TryLocate(offset + done, out DeviceAddress address, out ulong contiguous);
            ulong length = Math.Min(contiguous, lengthBytes - done);
            entries.Add(new DeviceRange(address, length));
            done += length;
        }

        return new DmaAddressList([.. entries]);
    }

    private void Put()
    {
        if (--_references > 0)
        {
            return;
        }

        foreach (AcceleratorMapping mapping in _mappings.Values.ToArray())
        {
            Unmap(mapping);
        }

        foreach (AcceleratorMemory memory in _handles.Values)
        {
            memory.Put();
        }

        _handles.Clear();
        IsReleased = true;
        _device.HandleReleased(this);
    }
}
