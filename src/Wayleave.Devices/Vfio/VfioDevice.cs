using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Vfio;

// The reference is drivers/vfio/pci/vfio_pci_dmabuf.c (linux.md 8.2): a user-space driver exports parts of its BARs.
// They are there only while the function decodes memory, so everything that switches that off first makes every
// importer unmap, waits for it without a limit, and only then happens:
//
//   memory bit cleared, D3hot, runtime suspend, reset, close     stop all --> change --> if memory is on: revive all
//
// A buffer that was revived is told once more and can be mapped again by whoever can map twice; an importer that pins
// has stopped for good. After close its buffers are dead, and their handles stay valid.

/// <summary>
/// A PCI function in the hands of VFIO: memory decoding, power and reset, and its BARs as buffers. Host lock held by
/// the caller.
/// </summary>
public sealed class VfioDevice
{
    private const ulong PageBytes = 4096;

    private readonly Action<Action>? _reset;
    private readonly List<VfioBuffer> _buffers = [];
    private readonly Queue<VfioTransition> _queue = new();
    private bool _isMemoryBitSet = true;
    private bool _isSuspended;

    /// <param name="host">The host this function is part of.</param>
    /// <param name="fabric">Where it is plugged in.</param>
    /// <param name="function">With its BARs and the windows behind them.</param>
    /// <param name="options">Copied.</param>
    /// <param name="reset">
    /// Begins what a reset does to the device behind the BARs; called with the host lock held, when nobody uses them.
    /// Whoever does it calls what is passed once, with the host lock held: at once, or after work without the lock.
    /// </param>
    public VfioDevice(
        HostContext host, PciFabric fabric, PciFunction function, VfioOptions options, Action<Action>? reset = null)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(fabric);
        ArgumentNullException.ThrowIfNull(function);
        ArgumentNullException.ThrowIfNull(options);
        host.AssertHeld();
        (Host, Fabric, Function, Options, _reset) = (host, fabric, function, options, reset);
        PeerDevice.TryInitialize(fabric.Topology, function, out _); // refused, there is no provider to export by
    }

    public HostContext Host { get; }

    public PciFabric Fabric { get; }

    public PciFunction Function { get; }

    public PciPowerState PowerState { get; private set; }

    /// <summary>No export and no change any more; its buffers are dead.</summary>
    public bool IsClosed { get; private set; }

    /// <summary>Whether the BARs answer (<c>__vfio_pci_memory_enabled</c>).</summary>
    public bool IsMemoryEnabled =>
        _isMemoryBitSet && PowerState < PciPowerState.D3Hot && !_isSuspended && !IsClosed;

    /// <summary>Buffers that are not released, in the order they were made; none after <see cref="Close"/>.</summary>
    public IReadOnlyList<VfioBuffer> Buffers => _buffers;

    /// <summary>The change under way, or null.</summary>
    public VfioTransition? Transition => _queue.TryPeek(out VfioTransition? first) ? first : null;

    internal VfioOptions Options { get; }

    internal VfioTransition? Closing { get; private set; }

    /// <summary>Makes a buffer of parts of a BAR (<c>VFIO_DEVICE_FEATURE_DMA_BUF</c>).</summary>
    /// <param name="name">At most 31 bytes of UTF-8.</param>
    /// <param name="region">The number of the BAR.</param>
    /// <param name="ranges">One or more, in the order of the buffer's bytes.</param>
    /// <param name="flags">None is known.</param>
    /// <param name="buffer">
    /// The caller's until <see cref="SharedBuffer.Release"/>. Revoked from the start when memory decoding is off or
    /// about to be.
    /// </param>
    /// <returns>
    /// <see cref="Errno.EOPNOTSUPP"/> when the driver exports nothing; <see cref="Errno.EINVAL"/> for flags, for no
    /// ranges, for one that is empty, not whole pages or outside the BAR, for a sum that overflows, and for a BAR
    /// without a provider; <see cref="Errno.ENODEV"/> for a region that is no BAR or not claimed, and after
    /// <see cref="Close"/>; <see cref="Errno.EOVERFLOW"/> for an address that wraps.
    /// </returns>
    public Errno TryExport(
        string name, int region, ReadOnlySpan<VfioRange> ranges, uint flags, out SharedBuffer? buffer)
    {
        Host.AssertHeld();
        buffer = null;
        if (!Options.ExportsBars)
        {
            return Errno.EOPNOTSUPP;
        }

        if (flags != 0 || ranges.IsEmpty || !SharedBuffer.IsName(name))
        {
            return Errno.EINVAL;
        }

        if ((uint)region >= PciFunction.BarCountMax)
        {
            return Errno.ENODEV;
        }

        if (!AreWholePages(ranges))
        {
            return Errno.EINVAL;
        }

        if (Closing is not null || Function.Bars[region] is not PciBar bar
            || Options.ClaimedBars?.Contains(region) == false)
        {
            return Errno.ENODEV;
        }

        if (Function.PeerDevice?.Provider(region) is not PeerProvider provider)
        {
            return Errno.EINVAL;
        }

        Errno errno = TryLocate(bar, ranges, out DmaAddressList? physical);
        if (errno != Errno.Success)
        {
            return errno;
        }

        VfioBuffer exporter = new(this, provider, name, physical!);
        errno = SharedBuffer.TryExport(Host, new ExportInfo(exporter, name, physical!.LengthBytes), out buffer);
        if (errno != Errno.Success)
        {
            return errno;
        }

        exporter.Shared = buffer!;
        _buffers.Add(exporter);
        if (!IsMemoryEnabled || Transition is { State: VfioTransitionState.Stopping or VfioTransitionState.Changing })
        {
            exporter.IsStopped = true;
            RevokeOperation.Start(buffer!, Options.PolicyFor("memory decoding is off"));
        }

        return Errno.Success;
    }

    /// <summary>Writes the memory bit of the command register. Off ends when every importer has unmapped.</summary>
    public VfioTransition SetMemoryEnable(bool isEnabled) =>
        Enqueue(isEnabled ? "memory enable" : "memory disable", stops: !isEnabled, () =>
        {
            _isMemoryBitSet = isEnabled;
            Decode();
        });

    /// <summary>Writes the power state. D3 ends when every importer has unmapped.</summary>
    public VfioTransition SetPowerState(PciPowerState state) =>
        Enqueue($"power state {state}", stops: state >= PciPowerState.D3Hot, () =>
        {
            PowerState = state;
            Decode();
        });

    /// <summary>Runtime suspend: as D3 until <see cref="Resume"/>.</summary>
    public VfioTransition Suspend() => Enqueue("runtime suspend", stops: true, () =>
    {
        _isSuspended = true;
        Decode();
    });

    /// <summary>The end of <see cref="Suspend"/>.</summary>
    public VfioTransition Resume() => Enqueue("runtime resume", stops: false, () =>
    {
        _isSuspended = false;
        Decode();
    });

    /// <summary>
    /// Resets the function: by itself, by the device's ioctl, or with all of its bus. It starts when every importer has
    /// unmapped, and ends in D0 with the memory bit as it was.
    /// </summary>
    public VfioTransition Reset() => Enqueue("reset", stops: true, changed =>
    {
        PowerState = PciPowerState.D0;
        if (_reset is null)
        {
            HandleReset();
        }
        else
        {
            _reset(HandleReset);
        }

        void HandleReset()
        {
            Decode();
            changed();
        }
    });

    /// <summary>
    /// The user closes the device. Its buffers die; who has a handle to one keeps it, and gets ENODEV. The second call
    /// returns the same change.
    /// </summary>
    public VfioTransition Close()
    {
        Host.AssertHeld();
        return Closing ??= Enqueue("close", stops: true, () =>
        {
            IsClosed = true;
            _buffers.Clear();
        });
    }

    internal void HandleCompleted(VfioTransition transition)
    {
        _queue.Dequeue();
        if (Transition is { } next)
        {
            next.Start();
        }
    }

    internal void HandleReleased(VfioBuffer buffer) => _buffers.Remove(buffer);

    private static bool AreWholePages(ReadOnlySpan<VfioRange> ranges)
    {
        ulong sum = 0;
        foreach (VfioRange range in ranges)
        {
            if (range.LengthBytes == 0 || ((range.Offset | range.LengthBytes) & (PageBytes - 1)) != 0
                || range.LengthBytes > long.MaxValue - sum)
            {
                return false;
            }

            sum += range.LengthBytes;
        }

        return true;
    }

    private static Errno TryLocate(PciBar bar, ReadOnlySpan<VfioRange> ranges, out DmaAddressList? physical)
    {
        physical = null;
        DeviceRange[] located = new DeviceRange[ranges.Length];
        for (int i = 0; i < ranges.Length; i++)
        {
            (ulong offset, ulong length) = (ranges[i].Offset, ranges[i].LengthBytes);
            ulong start = bar.Range.Start.Value + offset;
            if (start < offset || start + length < start)
            {
                return Errno.EOVERFLOW;
            }

            located[i] = new DeviceRange(new DeviceAddress(start), length);
            if (!bar.Range.Contains(located[i].Start, length))
            {
                return Errno.EINVAL;
            }
        }

        physical = new DmaAddressList(located);
        return Errno.Success;
    }

    // Changes happen one after the other, in the order they were asked for (memory_lock).
    private VfioTransition Enqueue(string name, bool stops, Action apply) =>
        Enqueue(name, stops, changed =>
        {
            apply();
            changed();
        });

    private VfioTransition Enqueue(string name, bool stops, Action<Action> apply)
    {
        Host.AssertHeld();
        ObjectDisposedException.ThrowIf(Closing is not null, this);
        VfioTransition transition = new(this, name, stops, apply);
        _queue.Enqueue(transition);
        if (ReferenceEquals(Transition, transition))
        {
            transition.Start();
        }

        return transition;
    }

    private void Decode() => Fabric.SetMemoryDecoding(Function, IsMemoryEnabled);
}
