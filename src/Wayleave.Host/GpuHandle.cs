using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;
using Wayleave.Host.Removal;
using Wayleave.Host.Runners;
using Wayleave.Linux;

namespace Wayleave.Host;

/// <summary>A software GPU of a running host: the device, its memory and the thread of its copy engine.</summary>
public sealed class GpuHandle : IObjectDevice, IDisposable
{
    // A window is less than 2 GiB, so that a Memory<byte> can hold it.
    private const int WindowBytes = 1 << 30;

    // Much shorter than a copy's time-out, so that a hang is noticed about when it says.
    private static readonly TimeSpan s_watchInterval = TimeSpan.FromSeconds(1);

    private readonly MappedMemory[] _vram;
    private readonly MappedMemory[] _systemPool;
    private readonly HostContext _host;
    private readonly CopyEngineRunner _runner;
    private readonly ITimer _watchdog;

    internal GpuHandle(HostContext host, PciFabric fabric, PciFunction function, GpuConfig config, TimeProvider clock)
    {
        _host = host;
        Name = config.Name;
        Presence = new DevicePresence(Name);
        _vram = MappedMemory.AllocateWindows(config.VramBytes, WindowBytes, hugePages: true);
        _systemPool = config.SystemPoolBytes == 0
            ? []
            : MappedMemory.AllocateWindows(config.SystemPoolBytes, WindowBytes, hugePages: true);
        using (host.Enter())
        {
            Device = new GpuDevice(
                host,
                fabric,
                function,
                new GpuOptions { VisibleBytes = (ulong?)config.VisibleBytes },
                [.. _vram.Select(m => m.Memory)],
                [.. _systemPool.Select(m => m.Memory)]);
        }

        _runner = new CopyEngineRunner(Device.CopyEngine, host, $"wayleave {config.Name} copy engine");
        _watchdog = clock.CreateTimer(_ => Watch(), null, s_watchInterval, s_watchInterval);
    }

    public string Name { get; }

    public DevicePresence Presence { get; }

    public PciFunction Function => Device.Function;

    public GpuDevice Device { get; }

    public StorageKind DefaultStorage => StorageKind.Movable;

    /// <summary>What stopped the copy engine, or null.</summary>
    public Exception? Failure => _runner.Failure;

    public bool CanStore(StorageKind storage) => true;

    /// <inheritdoc/>
    /// <remarks>When VRAM is full the least recently used movable objects are evicted first.</remarks>
    public async Task<ObjectMemory> TakeAsync(
        ObjectRequest request, string operation, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(request);
        while (true)
        {
            cancellation.ThrowIfCancellationRequested();
            Errno errno;
            IReadOnlyList<MoveOperation> evictions = [];
            using (_host.Enter())
            {
                GpuBufferInfo info = new(request.Name, request.SizeBytes, request.Storage);
                errno = Device.TryCreate(info, out GpuBuffer? buffer);
                if (buffer is not null)
                {
                    return new GpuObjectMemory(buffer);
                }

                if (errno == Errno.ENOSPC)
                {
                    errno = Device.TryMakeRoom(request.SizeBytes, out evictions);
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
                await Task.Yield();
            }
        }
    }

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

    /// <summary>Stops the engine, then unmaps the memory: nobody may be inside any gate of it.</summary>
    public void Dispose()
    {
        _watchdog.Dispose();
        _runner.Dispose();
        foreach (MappedMemory memory in _vram.Concat(_systemPool))
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

    // On a thread of the pool: the engine's own may be the one that hangs.
    private void Watch()
    {
        using (_host.Enter())
        {
            Device.CopyEngine.Hangs.HandleTimeout(_host.Now);
        }
    }
}
