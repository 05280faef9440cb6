using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Vfio;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;
using Wayleave.Host.Removal;
using Wayleave.Host.Runners;
using Wayleave.Linux;

namespace Wayleave.Host;

/// <summary>
/// A function in the hands of VFIO: its BARs, which the host hands out as objects, and its resets. Members take the
/// host lock themselves unless they say otherwise.
/// </summary>
public sealed class VfioHandle : IObjectDevice, IDisposable
{
    private const int PageBytes = 4096;

    private readonly HostContext _host;
    private readonly PciFabric _fabric;
    private readonly DeadlineWatch _deadlines;
    private readonly List<(PciBar Bar, MappedMemory Memory, BlockAllocator Ranges)> _bars = [];
    private int _resets; // host lock
    private Task _clearing = Task.CompletedTask; // host lock

    internal VfioHandle(
        HostContext host, PciFabric fabric, PciFunction function, VfioConfig config, DeadlineWatch deadlines)
    {
        (_host, _fabric, _deadlines, Name) = (host, fabric, deadlines, config.Name);
        Presence = new DevicePresence(Name);
        foreach (VfioBarConfig bar in config.Bars)
        {
            MappedMemory memory = MappedMemory.AllocateAnonymous(bar.SizeBytes, hugePages: true);
            using (host.Enter())
            {
                fabric.Plug(function);
                PciBar made = function.Bars[bar.Index]
                    ?? fabric.AddBar(function, bar.Index, PciBarKind.Memory, (ulong)bar.SizeBytes);
                fabric.AddWindow(memory.Memory, made, 0);
                DeviceRange range = new(made.Range.Start, (ulong)bar.SizeBytes);
                BlockAllocator ranges = new($"{Name} BAR {bar.Index}", [range], PageBytes, Errno.ENOSPC);
                _bars.Add((made, memory, ranges));
            }
        }

        using (host.Enter())
        {
            VfioOptions options = new() { Patience = config.Patience };
            Device = new VfioDevice(host, fabric, function, options, HandleReset);
            Quarantine = new Quarantine(host);
            deadlines.Add(() => Device.Transition?.NextDeadline, now => Device.Transition?.HandleTimeout(now));
        }
    }

    public string Name { get; }

    public DevicePresence Presence { get; }

    public PciFunction Function => Device.Function;

    public VfioDevice Device { get; }

    /// <summary>Ranges that were taken back and may still be in use.</summary>
    public Quarantine Quarantine { get; }

    public StorageKind DefaultStorage => StorageKind.Revocable;

    /// <summary>Resets that have happened. Host lock held by the caller.</summary>
    public int Resets => _resets;

    /// <summary>Bytes of all BARs. Host lock held by the caller.</summary>
    public ulong TotalBytes => Sum(r => r.TotalBytes);

    /// <summary>Bytes that no object has. Host lock held by the caller.</summary>
    public ulong FreeBytes => Sum(r => r.FreeBytes);

    public bool CanStore(StorageKind storage) => storage == StorageKind.Revocable;

    /// <inheritdoc/>
    /// <remarks>The bytes are cleared by the processor, without the lock, before anybody has the buffer.</remarks>
    public Task<ObjectMemory> TakeAsync(ObjectRequest request, string operation, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(request);
        (PciBar bar, BlockAllocator ranges, MemoryBlock[] blocks) = Allocate(request, operation);
        Errno errno = Clear(blocks);
        using (_host.Enter())
        {
            SharedBuffer? shared = null;
            VfioRange[] parts =
            [
                .. blocks.Select(b => new VfioRange(b.Range.Start.Value - bar.Range.Start.Value, b.Range.LengthBytes)),
            ];
            errno = errno == Errno.Success
                ? Device.TryExport(request.Name, bar.Index, parts, flags: 0, out shared)
                : errno;
            if (errno != Errno.Success)
            {
                GiveBack(ranges, blocks);
                throw new WayleaveException(
                    errno,
                    operation,
                    Device.IsMemoryEnabled ? ErrnoMap.Describe(errno) : $"the BARs of {Name} are switched off");
            }

            VfioBuffer buffer = (VfioBuffer)shared!.Exporter;
            return Task.FromResult<ObjectMemory>(new FixedObjectMemory(
                shared, request.SizeBytes, ObjectPlace.Bar, buffer.Physical, Quarantine, () =>
                {
                    buffer.GiveUp();
                    GiveBack(ranges, blocks);
                }));
        }
    }

    /// <summary>
    /// Resets the function: every importer is told to stop and waited for without a limit, the memory behind the BARs
    /// is cleared, and buffers come back to life for importers that map again.
    /// </summary>
    /// <param name="cancellation">Ends the wait, not the reset: it happens as soon as it can.</param>
    /// <returns>The change, completed, with a proof per buffer that was alive.</returns>
    /// <exception cref="WayleaveException">ENODEV: the function is closed or gone.</exception>
    public async Task<VfioTransition> ResetAsync(CancellationToken cancellation = default)
    {
        TaskCompletionSource done = new(TaskCreationOptions.RunContinuationsAsynchronously);
        VfioTransition reset;
        using (_host.Enter())
        {
            if (!Presence.IsPresent)
            {
                throw Presence.Gone($"reset {Name}");
            }

            reset = Device.Reset();
            if (!reset.TryAddCompletion(done.SetResult))
            {
                done.SetResult();
            }
        }

        _deadlines.Arm();
        await done.Task.WaitAsync(cancellation).ConfigureAwait(false);
        return reset;
    }

    /// <summary>
    /// The user closes the function: its buffers die. Ends when every importer has unmapped; the second call waits for
    /// the same.
    /// </summary>
    public async Task CloseAsync()
    {
        TaskCompletionSource done = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (_host.Enter())
        {
            if (!Device.Close().TryAddCompletion(done.SetResult))
            {
                return;
            }
        }

        _deadlines.Arm();
        await done.Task.ConfigureAwait(false);
    }

    /// <summary>Unmaps the memory: nobody may be inside any gate of it. Waits for a reset that clears it.</summary>
    public void Dispose()
    {
        Task clearing;
        using (_host.Enter())
        {
            clearing = _clearing;
        }

        clearing.Wait();
        foreach ((_, MappedMemory memory, _) in _bars)
        {
            ((IDisposable)memory).Dispose();
        }
    }

    private (PciBar Bar, BlockAllocator Ranges, MemoryBlock[] Blocks) Allocate(ObjectRequest request, string operation)
    {
        using (_host.Enter())
        {
            foreach ((PciBar bar, _, BlockAllocator ranges) in _bars.OrderByDescending(b => b.Ranges.FreeBytes))
            {
                if (ranges.TryAllocate(request.SizeBytes, PageBytes, request.Name, out MemoryBlock[] blocks)
                    == Errno.Success)
                {
                    return (bar, ranges, blocks);
                }
            }

            throw new WayleaveException(
                Errno.ENOSPC,
                operation,
                $"{ByteSize.ToText((long)FreeBytes)} of {ByteSize.ToText((long)TotalBytes)} are free on {Name}, and an "
                    + "object is in one BAR",
                "revoke an object, or give it a larger BAR");
        }
    }

    // The blocks are nobody's but ours, so nobody can be told to stop meanwhile.
    private Errno Clear(MemoryBlock[] blocks)
    {
        DmaPort port = new(_fabric.Processor);
        foreach (MemoryBlock block in blocks)
        {
            for (ulong done = 0; done < block.Range.LengthBytes;)
            {
                int length = (int)Math.Min(block.Range.LengthBytes - done, OwnerAccess.PieceBytes);
                Errno errno = port.TryWrite(block.Range.Start + done, length, out Span<byte> bytes);
                if (errno != Errno.Success)
                {
                    return Errno.ENODEV;
                }

                bytes.Clear();
                done += (ulong)bytes.Length;
            }
        }

        return Errno.Success;
    }

    private static void GiveBack(BlockAllocator ranges, MemoryBlock[] blocks)
    {
        foreach (MemoryBlock block in blocks)
        {
            ranges.Free(block);
        }
    }

    // What a function-level reset does to device memory. Nobody uses the BARs until it is done, so that the lock is
    // free meanwhile: clearing takes as long as the BARs are large.
    private void HandleReset(Action done) =>
        _clearing = Task.Run(() =>
        {
            foreach ((_, MappedMemory memory, _) in _bars)
            {
                memory.Memory.Span.Clear();
            }

            using (_host.Enter())
            {
                _resets++;
                done();
            }
        });

    private ulong Sum(Func<BlockAllocator, ulong> of) => _bars.Aggregate(0UL, (sum, b) => sum + of(b.Ranges));
}
