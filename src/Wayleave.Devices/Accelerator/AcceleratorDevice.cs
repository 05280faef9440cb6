using System.Numerics;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;

namespace Wayleave.Devices.Accelerator;

// The reference is habanalabs (drivers/accel/habanalabs/common/memory.c; linux.md 8.1): device memory that is exported
// by address, has no struct page and no CPU mapping, never moves and is not taken back. What keeps it from being
// given on under an importer is counting: what is exported cannot be unmapped, what is mapped cannot be freed, and the
// context lives until its last dma-buf is gone.
//
//   TryOpen --> context --TryAllocate--> handle --TryMap--> address --TryExport--> dma-buf
//                  |                                                                  |
//                  +-- Close: lives on while there is one <---------------------------+

/// <summary>
/// A software accelerator: memory behind a BAR, one user context at a time, and an engine that fills and copies. Host
/// lock held by the caller; bytes move only when somebody drives <see cref="Engine"/>.
/// </summary>
public sealed class AcceleratorDevice
{
    /// <summary>The number of the BAR that the memory answers at.</summary>
    public const int MemoryBar = 4;

    private readonly AcceleratorOptions _options;
    private readonly BlockAllocator _memory;
    private readonly List<(ulong Offset, DeviceRange Range)> _windows = [];

    /// <param name="host">The host this device is part of.</param>
    /// <param name="fabric">Where the memory becomes reachable.</param>
    /// <param name="function">The device's identity.</param>
    /// <param name="options">Copied.</param>
    /// <param name="memory">
    /// The device's memory; each window less than 2 GiB and a multiple of the page size. Kept alive by the caller.
    /// </param>
    /// <exception cref="ArgumentException">An option or a window is out of range.</exception>
    public AcceleratorDevice(
        HostContext host,
        PciFabric fabric,
        PciFunction function,
        AcceleratorOptions options,
        IReadOnlyList<Memory<byte>> memory)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(fabric);
        ArgumentNullException.ThrowIfNull(options);
        host.AssertHeld();
        options.Validate();
        (Host, Fabric, Function, _options) = (host, fabric, function, options);
        MemoryBytes = memory.Aggregate(0UL, (sum, m) => sum + (ulong)m.Length);
        fabric.Plug(function);
        Bar = function.Bars[MemoryBar]
            ?? fabric.AddBar(
                function,
                MemoryBar,
                PciBarKind.Memory,
                options.VisibleBytes ?? BitOperations.RoundUpToPowerOf2(MemoryBytes));
        ulong offset = 0;
        foreach (Memory<byte> window in memory)
        {
            ulong left = Bar.Range.LengthBytes - Math.Min(Bar.Range.LengthBytes, offset);
            int visible = (int)Math.Min((ulong)window.Length, left);
            if (visible > 0)
            {
                _windows.Add((offset, fabric.AddWindow(window[..visible], Bar, offset).Range));
            }

            if (visible < window.Length)
            {
                MemoryWindow hidden = fabric.AddPrivateWindow(window[visible..], function);
                _windows.Add((offset + (ulong)visible, hidden.Range));
            }

            offset += (ulong)window.Length;
        }

        DeviceRange[] user = [.. Locate(options.ReservedBytes, MemoryBytes - options.ReservedBytes).Entries];
        _memory = new BlockAllocator($"{function.Name} memory", user, options.PageBytes, Errno.ENOMEM);
        GpuOptions engine = new() { GranularityBytes = options.PageBytes };
        Engine = new CopyEngine(host, new DmaPort(function, isPermanent: true), engine);
    }

    public HostContext Host { get; }

    public PciFabric Fabric { get; }

    public PciFunction Function { get; }

    /// <summary>Behind which the first bytes of the memory are.</summary>
    public PciBar Bar { get; }

    /// <summary>The DMA engine.</summary>
    public CopyEngine Engine { get; }

    public ulong MemoryBytes { get; }

    /// <summary>The user that the device has now; null when it can be opened.</summary>
    public AcceleratorContext? Context { get; private set; }

    /// <summary>The allocator, for looking at; idle on a device without virtual memory.</summary>
    public BlockAllocator Memory => _memory;

    internal AcceleratorOptions Options => _options;

    /// <summary>Null once the device was pulled out.</summary>
    internal PeerProvider? Provider => Function.PeerDevice?.Provider(MemoryBar);

    /// <summary>Opens the device: a context of one user.</summary>
    /// <param name="holder">Who, for people: <c>process 4711</c>.</param>
    /// <param name="context">Owned by the caller until <see cref="AcceleratorContext.Close"/>.</param>
    /// <returns>
    /// <see cref="Errno.EBUSY"/> while there is another context, closed ones with an open dma-buf among them;
    /// <see cref="Errno.EAGAIN"/> when the engine has no room to clear the memory.
    /// </returns>
    public Errno TryOpen(string holder, out AcceleratorContext? context)
    {
        Host.AssertHeld();
        context = null;
        if (Context is not null)
        {
            return Errno.EBUSY;
        }

        AcceleratorContext made = new(this, holder);
        if (!_options.HasVirtualMemory)
        {
            // The user may be anywhere in the memory, so all of it is cleared for it.
            Errno errno = TryClear(
                Locate(_options.ReservedBytes, MemoryBytes - _options.ReservedBytes),
                holder,
                null,
                out AcceleratorClearing? clearing);
            if (errno != Errno.Success)
            {
                return errno;
            }

            made.Clearing = clearing;
        }

        context = Context = made;
        Host.Trace("accelerator.open", holder);
        return Errno.Success;
    }

    internal void HandleReleased(AcceleratorContext context)
    {
        Host.Trace("accelerator.context_release", context.Holder);
        Context = null;
    }

    /// <summary>Physical addresses of a part of the memory, by its offset.</summary>
    internal DmaAddressList Locate(ulong offset, ulong lengthBytes)
    {
        List<DeviceRange> ranges = [];
        foreach ((ulong start, DeviceRange range) in _windows)
        {
            ulong first = Math.Max(start, offset);
            ulong end = Math.Min(start + range.LengthBytes, offset + lengthBytes);
            if (first < end)
            {
                Append(ranges, new DeviceRange(range.Start + (first - start), end - first));
            }
        }

        return new DmaAddressList([.. ranges]);
    }

    // Windows that follow one another in the BAR are one piece.
    private static void Append(List<DeviceRange> ranges, DeviceRange range)
    {
        if (ranges.Count > 0 && ranges[^1].Start + ranges[^1].LengthBytes == range.Start)
        {
            ranges[^1] = ranges[^1] with { LengthBytes = ranges[^1].LengthBytes + range.LengthBytes };
        }
        else
        {
            ranges.Add(range);
        }
    }

    /// <summary>
    /// Fills memory with zeros; <paramref name="ended"/> runs when the engine does not touch it any more.
    /// </summary>
    internal Errno TryClear(
        DmaAddressList physical, string name, Action? ended, out AcceleratorClearing? clearing)
    {
        clearing = null;
        if (!_options.ClearsNewMemory)
        {
            ended?.Invoke();
            return Errno.Success;
        }

        Errno errno = Fabric.TryMap(Function, physical, out DmaAddressList? target);
        if (errno != Errno.Success)
        {
            return errno;
        }

        // One timeline per job: jobs end in any order.
        using SignalingSection section = new(Function.Name, "submission");
        Fence fence = new Timeline(Host, $"{Function.Name} clears for {name}").CreateFence();
        AcceleratorClearing made = new(this, fence);
        errno = Engine.TrySubmit(new CopyJob
        {
            Name = $"clear for {name}",
            Target = target!,
            Fence = fence,
            Failed = _ => made.Fail(),
            Ended = _ =>
            {
                Fabric.Unmap(Function, target!);
                ended?.Invoke();
            },
        });
        if (errno != Errno.Success)
        {
            Fabric.Unmap(Function, target!);
            return errno;
        }

        clearing = made;
        return Errno.Success;
    }
}
