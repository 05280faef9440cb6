using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Accelerator;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;
using Wayleave.Host.Removal;
using Wayleave.Host.Runners;
using Wayleave.Linux;

namespace Wayleave.Host;

// An object is an exported range: handle, mapping, dma-buf. The host is the device's one user. The device itself takes
// nothing back, so the range returns when the last user of the dma-buf has let go: first the proof, then the release,
// then unmap and free.

/// <summary>
/// A software accelerator of a running host: the device, its memory, the thread of its engine, and the context by which
/// the host uses it.
/// </summary>
public sealed class AcceleratorHandle : IObjectDevice, IDisposable
{
    // A window is less than 2 GiB, so that a Memory<byte> can hold it.
    private const int WindowBytes = 1 << 30;
    private const ulong SystemPageBytes = 4096;
    private static readonly TimeSpan s_watchInterval = TimeSpan.FromSeconds(1);

    private readonly MappedMemory[] _memory;
    private readonly HostContext _host;
    private readonly EngineRunner _runner;
    private readonly ITimer _watchdog;
    private readonly AcceleratorContext? _context;

    internal AcceleratorHandle(
        HostContext host, PciFabric fabric, PciFunction function, AcceleratorConfig config, TimeProvider clock)
    {
        _host = host;
        Name = config.Name;
        Presence = new DevicePresence(Name);
        _memory = MappedMemory.AllocateWindows(config.MemoryBytes, WindowBytes, hugePages: true);
        using (host.Enter())
        {
            AcceleratorOptions options = new()
            {
                VisibleBytes = (ulong?)config.VisibleBytes,
                PageBytes = (int)config.PageBytes,
            };
            Device = new AcceleratorDevice(host, fabric, function, options, [.. _memory.Select(m => m.Memory)]);
            Quarantine = new Quarantine(host);
            Device.TryOpen("the host", out _context).ThrowIfFailed($"open {Name}");
        }

        _runner = new EngineRunner(Device.Engine, host, $"wayleave {config.Name} engine");
        _watchdog = clock.CreateTimer(_ => Watch(), null, s_watchInterval, s_watchInterval);
    }

    public string Name { get; }

    public DevicePresence Presence { get; }

    public PciFunction Function => Device.Function;

    public AcceleratorDevice Device { get; }

    /// <summary>Ranges that were taken back and may still be in use.</summary>
    public Quarantine Quarantine { get; }

    public StorageKind DefaultStorage => StorageKind.Static;

    /// <summary>What stopped the engine, or null.</summary>
    public Exception? Failure => _runner.Failure;

    public bool CanStore(StorageKind storage) => storage == StorageKind.Static;

    /// <inheritdoc/>
    public Task<ObjectMemory> TakeAsync(ObjectRequest request, string operation, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(request);
        using (_host.Enter())
        {
            return Task.FromResult<ObjectMemory>(TakeLocked(request, operation));
        }
    }

    /// <summary>Stops the engine, then unmaps the memory: nobody may be inside any gate of it.</summary>
    public void Dispose()
    {
        _watchdog.Dispose();
        _runner.Dispose();
        foreach (MappedMemory memory in _memory)
        {
            ((IDisposable)memory).Dispose();
        }
    }

    private FixedObjectMemory TakeLocked(ObjectRequest request, string operation)
    {
        AcceleratorContext context = _context!;
        ulong page = SystemPageBytes;
        Errno errno = context.TryAllocate(request.SizeBytes, out ulong handle);
        if (errno != Errno.Success)
        {
            throw NoRoom(errno, operation);
        }

        context.TryMap(handle, out ulong address).ThrowIfFailed(operation);

        // A dma-buf is whole pages, and so are the addresses of an importer; what lies behind the object's end is its
        // own and was cleared with it.
        ulong size = (request.SizeBytes + page - 1) & ~(page - 1);
        errno = context.TryExport(request.Name, address, size, 0, out SharedBuffer? shared);
        if (errno != Errno.Success)
        {
            context.TryUnmap(address);
            context.TryFree(handle);
            string reason = errno == Errno.EINVAL
                ? $"its BAR shows {ByteSize.ToText((long)Device.Bar.Range.LengthBytes)} of "
                    + $"{ByteSize.ToText((long)Device.MemoryBytes)}, and what is free is beyond that"
                : ErrnoMap.Describe(errno);
            throw new WayleaveException(
                errno, operation, reason, "revoke an object, or give it a larger visible_bytes");
        }

        AcceleratorBuffer buffer = (AcceleratorBuffer)shared!.Exporter;
        buffer.Released = () =>
        {
            context.TryUnmap(address);
            context.TryFree(handle);
        };
        return new FixedObjectMemory(
            shared, request.SizeBytes, ObjectPlace.DeviceMemory, buffer.Addresses, Quarantine, static () => { });
    }

    private WayleaveException NoRoom(Errno errno, string operation) => new(
        errno,
        operation,
        $"{ByteSize.ToText((long)Device.Memory.FreeBytes)} of {ByteSize.ToText((long)Device.MemoryBytes)} are free on "
            + Name,
        "revoke an object, or give the accelerator more memory_bytes");

    // On a thread of the pool: the engine's own may be the one that hangs.
    private void Watch()
    {
        using (_host.Enter())
        {
            Device.Engine.Hangs.HandleTimeout(_host.Now);
        }
    }
}
