using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;
using Wayleave.Host.Removal;
using Wayleave.Host.Runners;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host;

/// <summary>A software GPU of a running host: the device, its memory and the threads of its engines.</summary>
public sealed class GpuHandle : IObjectDevice, IDisposable
{
    // A window is less than 2 GiB, so that a Memory<byte> can hold it.
    private const int WindowBytes = 1 << 30;

    private const ulong PageBytes = 4096;

    // Much shorter than a copy's time-out, so that a hang is noticed about when it says.
    private static readonly TimeSpan s_watchIntervalMax = TimeSpan.FromSeconds(1);

    // What a process's user queues have to wait for at most when they may run again, or have to stop.
    private static readonly TimeSpan s_userQueueInterval = TimeSpan.FromMilliseconds(5);

    // Between two looks at a ring that has no room: shorter than most of its jobs take.
    private static readonly TimeSpan s_roomInterval = TimeSpan.FromMilliseconds(1);

    private readonly MappedMemory[] _vram;
    private readonly MappedMemory[] _systemPool;
    private readonly MappedMemory[] _userMemory;
    private readonly HostContext _host;
    private readonly TimeProvider _clock;
    private readonly ulong _vramStart; // of its BAR, also when that is gone
    private readonly EngineRunner _copyRunner;
    private readonly EngineRunner _computeRunner;
    private readonly EngineRunner _copyQueueRunner;
    private readonly TimeSpan _watchInterval;
    private readonly ITimer _watchdog;
    private readonly List<GpuProcess> _processes = []; // host lock
    private bool _watchesUserQueues; // host lock

    internal GpuHandle(HostContext host, PciFabric fabric, PciFunction function, GpuConfig config, TimeProvider clock)
    {
        (_host, _clock) = (host, clock);
        Name = config.Name;
        (Compute, PinPolicy) = (config.Compute, config.PinPolicy);
        Presence = new DevicePresence(Name);
        _vram = MappedMemory.AllocateWindows(config.VramBytes, WindowBytes, hugePages: true);
        _systemPool = config.SystemPoolBytes == 0
            ? []
            : MappedMemory.AllocateWindows(config.SystemPoolBytes, WindowBytes, hugePages: true);
        long userBytes = config.Compute.UserMemoryBytes;
        _userMemory = MappedMemory.AllocateWindows(userBytes, WindowBytes, hugePages: false);
        using (host.Enter())
        {
            UserMemory = new MemorySystem(host, $"{Name} processes", userBytes / PageFrame.SizeBytes);
            foreach (MappedMemory memory in _userMemory)
            {
                UserMemory.AddMemory(memory.Memory, fabric.AddWindow(memory.Memory, owner: null).Range.Start);
            }

            Device = new GpuDevice(
                host,
                fabric,
                function,
                OptionsOf(config),
                [.. _vram.Select(m => m.Memory)],
                [.. _systemPool.Select(m => m.Memory)]);
            _vramStart = Device.Function.Bars[GpuDevice.VramBar]!.Range.Start.Value;
            if (config.Compute.UserVramBytes is > 0 and long userVram)
            {
                GpuProcessMemory.TryCreate(Device, UserMemory, (ulong)userVram, out _).ThrowIfFailed(
                    $"set {ByteSize.ToText(userVram)} of {Name} aside for pages of clients",
                    "\"user_vram_bytes\" are one piece of what the BAR shows, and not behind an IOMMU that translates");
            }
        }

        _copyRunner = new EngineRunner(Device.CopyEngine, host, $"wayleave {config.Name} copy engine");
        _computeRunner = new EngineRunner(Device.ComputeEngine, host, $"wayleave {config.Name} compute engine");
        _copyQueueRunner = new EngineRunner(
            Device.CopyQueueEngine, host, $"wayleave {config.Name} copy queue engine");
        TimeSpan quarter = config.Compute.HangLimit / 4;
        _watchInterval = quarter < s_watchIntervalMax ? quarter : s_watchIntervalMax;
        _watchInterval = _watchInterval > s_userQueueInterval ? _watchInterval : s_userQueueInterval;
        _watchdog = clock.CreateTimer(_ => Watch(), null, _watchInterval, _watchInterval);
    }

    public string Name { get; }

    public DevicePresence Presence { get; }

    public PciFunction Function => Device.Function;

    public GpuDevice Device { get; }

    public StorageKind DefaultStorage => StorageKind.Movable;

    /// <summary>How its engines of queues were set up.</summary>
    public ComputeConfig Compute { get; }

    /// <summary>Where memory of clients comes from that is no buffer. Host lock held by whoever uses it.</summary>
    public MemorySystem UserMemory { get; }

    /// <summary>Where a buffer that somebody pins may stay.</summary>
    public GpuPinPolicy PinPolicy { get; }

    /// <summary>What stopped one of its engines, or null.</summary>
    public Exception? Failure => _copyRunner.Failure ?? _computeRunner.Failure ?? _copyQueueRunner.Failure;

    /// <summary>Where the thread of the copy engine runs.</summary>
    internal ProcessorMark CopyProcessor => _copyRunner.Processor;

    public bool CanStore(StorageKind storage) => true;

    /// <inheritdoc/>
    /// <remarks>When VRAM is full the least recently used movable objects are evicted first.</remarks>
    public async Task<ObjectMemory> TakeAsync(
        ObjectRequest request, string operation, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(request);

        // Buffers are whole pages, as those of DRM drivers are; the rest of the last one is zero.
        ulong pages = (request.SizeBytes + PageBytes - 1) / PageBytes;
        GpuBufferInfo info = new(request.Name, pages * PageBytes, request.Storage);
        GpuBuffer buffer = await TakeAsync(info, operation, cancellation).ConfigureAwait(false);
        return new GpuObjectMemory(buffer, request.SizeBytes);
    }

    /// <summary>
    /// As the other, for a buffer of any kind. One that processors may map is clear on return: they ask no reservation,
    /// and what they wrote before the engine came by would be lost (<c>ttm_bo_vm_fault_idle</c> waits for the same).
    /// </summary>
    internal async Task<GpuBuffer> TakeAsync(GpuBufferInfo info, string operation, CancellationToken cancellation)
    {
        GpuBuffer buffer = await PlaceAsync(info, operation, cancellation).ConfigureAwait(false);
        if (info.IsMappable)
        {
            await buffer.Shared.Reservation.WaitAsync(_host, ReservationUsage.Kernel).ConfigureAwait(false);
        }

        return buffer;
    }

    private async Task<GpuBuffer> PlaceAsync(GpuBufferInfo info, string operation, CancellationToken cancellation)
    {
        while (true)
        {
            cancellation.ThrowIfCancellationRequested();
            Errno errno;
            IReadOnlyList<MoveOperation> evictions = [];
            using (_host.Enter())
            {
                errno = Device.TryCreate(info, out GpuBuffer? buffer);
                if (buffer is not null)
                {
                    return buffer;
                }

                if (errno == Errno.ENOSPC)
                {
                    errno = Device.TryMakeRoom(info.SizeBytes, out evictions);
                }
            }

            if (errno is not (Errno.Success or Errno.EAGAIN) || (errno == Errno.Success && evictions.Count == 0))
            {
                throw NoRoom(errno == Errno.Success ? Errno.ENOSPC : errno, operation);
            }

            foreach (MoveOperation eviction in evictions)
            {
                await WaitAsync(eviction).ConfigureAwait(false);
            }

            if (errno == Errno.EAGAIN)
            {
                await Task.Delay(s_roomInterval, _clock, cancellation).ConfigureAwait(false);
            }
        }
    }

    /// <summary>
    /// Puts pages that other processes can map behind a buffer that nobody has used yet: its bytes are zero, and stay
    /// so. Host lock held by the caller.
    /// </summary>
    /// <exception cref="LinuxException">
    /// ENOMEM or EMFILE; the buffer has the pages that it had, or zeroed ones.
    /// </exception>
    internal SharedPages BackLocked(GpuBuffer buffer) => BackLocked(buffer.Name, buffer.Placement);

    /// <summary>As the other, for a place that no buffer has been to yet, in VRAM or in system memory.</summary>
    /// <exception cref="LinuxException">As of the other.</exception>
    internal SharedPages BackLocked(string name, GpuPlacement placement)
    {
        SharedPages pages = SharedPages.Create($"wayleave-{name}", (long)placement.StorageBytes);
        try
        {
            ForEachPart(placement, (memory, at, done, length) => pages.MapInto(memory, at, done, length));
            return pages;
        }
        catch
        {
            pages.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Puts zeroed pages of this process alone where those of <see cref="BackLocked(GpuBuffer)"/> are. Host lock held
    /// by the caller.
    /// </summary>
    /// <exception cref="LinuxException">ENOMEM; some of the pages may be others already.</exception>
    internal void UnbackLocked(GpuBuffer buffer) => UnbackLocked(buffer.Placement);

    /// <summary>As the other, for a place that a buffer has left. Host lock held.</summary>
    /// <exception cref="LinuxException">As of the other.</exception>
    internal void UnbackLocked(GpuPlacement placement) =>
        ForEachPart(placement, (memory, at, _, length) => memory.ReplaceByPrivate(at, length));

    /// <summary>Waits until a move has ended, good or bad. Host lock not held.</summary>
    internal async Task WaitAsync(MoveOperation move)
    {
        TaskCompletionSource ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (_host.Enter())
        {
            if (!move.TryAddCompletion(ended.SetResult))
            {
                return;
            }
        }

        await ended.Task.ConfigureAwait(false);
    }

    /// <summary>
    /// Opens the GPU for a process, which is watched until it is closed. Host lock held by the caller.
    /// </summary>
    internal GpuProcess OpenProcess(string name)
    {
        GpuProcess process = Device.OpenProcess(name);
        process.Faults.Available = () => ThreadPool.UnsafeQueueUserWorkItem(ServeFaults, process, preferLocal: false);
        _processes.Add(process);
        return process;
    }

    /// <summary>A process has queues of its own: they are stopped and restored without delay. Host lock held.</summary>
    internal void WatchUserQueues()
    {
        if (!_watchesUserQueues)
        {
            _watchesUserQueues = true;
            _watchdog.Change(s_userQueueInterval, s_userQueueInterval);
        }
    }

    /// <summary>Stops the engines, then unmaps the memory: nobody may be inside any gate of it.</summary>
    public void Dispose()
    {
        _watchdog.Dispose();
        _copyRunner.Dispose();
        _computeRunner.Dispose();
        _copyQueueRunner.Dispose();
        foreach (MappedMemory memory in _vram.Concat(_systemPool).Concat(_userMemory))
        {
            ((IDisposable)memory).Dispose();
        }
    }

    private WayleaveException NoRoom(Errno errno, string operation)
    {
        GpuStats stats;
        using (_host.Enter())
        {
            stats = Device.Stats;
        }

        string free =
            $"{ByteSize.ToText((long)stats.VramFreeBytes)} of {ByteSize.ToText((long)stats.VramTotalBytes)} are free "
            + $"on {Name}";
        string held = stats.VramQuarantinedBytes == 0
            ? ""
            : $", {ByteSize.ToText((long)stats.VramQuarantinedBytes)} in quarantine";
        string hidden = stats.HiddenVramTotalBytes == 0
            ? ""
            : $", and {ByteSize.ToText((long)stats.HiddenVramTotalBytes)} more are beyond its BAR";
        return new WayleaveException(
            errno, operation, free + held + hidden, "revoke an object, or start the host with a larger --vram");
    }

    private static GpuOptions OptionsOf(GpuConfig config) => new()
    {
        VisibleBytes = (ulong?)config.VisibleBytes,
        PinPolicy = config.PinPolicy,
        ComputeQueueSlots = config.Compute.QueueSlots,
        ComputeQuantumBlocks = config.Compute.QuantumBlocks,
        ComputeTimeout = config.Compute.HangLimit,
        ComputeStopGrace = config.Compute.StopGrace,
        ReachesPrivatePages = config.Compute.PrivatePages == PrivatePagePolicy.Direct,
    };

    // On a thread of the pool: it may have to reclaim, and fences wait for the engine's own.
    private void ServeFaults(GpuProcess process)
    {
        using (_host.Enter())
        {
            process.Faults.ServeAll();
        }
    }

    // Storage in the windows that memory is made of: window, offset there, offset in the storage, length.
    private void ForEachPart(GpuPlacement placement, Action<MappedMemory, long, long, long> handle)
    {
        bool isVram = placement.Domain == GpuDomain.Vram;
        MappedMemory[] windows = isVram ? _vram : _systemPool;
        long done = 0;
        foreach (MemoryBlock block in placement.Blocks)
        {
            long at = isVram ? (long)(block.Range.Start.Value - _vramStart) : InSystemPool(block.Range.Start);
            for (long left = (long)block.Range.LengthBytes; left > 0;)
            {
                long inWindow = Math.Min(left, WindowBytes - (at % WindowBytes));
                handle(windows[at / WindowBytes], at % WindowBytes, done, inWindow);
                (at, done, left) = (at + inWindow, done + inWindow, left - inWindow);
            }
        }
    }

    // As if its windows, which lie anywhere, were one after the other.
    private long InSystemPool(DeviceAddress address)
    {
        for (int i = 0; i < Device.SystemWindows.Count; i++)
        {
            DeviceRange window = Device.SystemWindows[i];
            if (address.Value - window.Start.Value < window.LengthBytes)
            {
                return ((long)i * WindowBytes) + (long)(address.Value - window.Start.Value);
            }
        }

        throw new ArgumentException($"{address} is in no memory of {Name} that could be shared", nameof(address));
    }

    // On a thread of the pool: an engine's own may be the one that hangs.
    private void Watch()
    {
        using (_host.Enter())
        {
            Device.CopyEngine.Hangs.HandleTimeout(_host.Now);
            Device.ComputeEngine.Hangs.HandleTimeout(_host.Now);
            _processes.RemoveAll(p => p.IsClosed && p.Eviction.NextDeadline is null);
            foreach (GpuProcess process in _processes)
            {
                if (process.Eviction.NextDeadline <= _host.Now)
                {
                    process.Eviction.HandleTimeout(_host.Now);
                }
            }

            if (_watchesUserQueues && !_processes.Exists(p => p.Queues.OfType<UserQueue>().Any()))
            {
                _watchesUserQueues = false;
                _watchdog.Change(_watchInterval, _watchInterval);
            }
        }
    }
}
