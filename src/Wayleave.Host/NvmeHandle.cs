using System.Collections.Concurrent;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Nvme;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;
using Wayleave.Host.Removal;
using Wayleave.Host.Runners;
using Wayleave.Linux;

namespace Wayleave.Host;

/// <summary>
/// A software NVMe drive of a running host: the controller, the host's driver for it, their memory and their threads.
/// Files become namespaces while somebody copies from or to them.
/// </summary>
public sealed class NvmeHandle : IObjectDevice, IDisposable
{
    /// <summary>Log2 of the block size of every namespace: what O_DIRECT takes on any device.</summary>
    public const int BlockShift = 12;

    private const int Requests = 16;
    private const int Workers = 4;
    private static readonly TimeSpan s_watchInterval = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan s_readyMax = TimeSpan.FromSeconds(10); // CAP.TO

    private readonly HostContext _host;
    private readonly MappedMemory _buffers;
    private readonly MappedMemory _queues;
    private readonly MappedMemory? _memoryBuffer;
    private readonly NvmeRunner _runner;
    private readonly ITimer _watchdog;
    private readonly ConcurrentDictionary<uint, DirectFile> _media = new();
    private uint _nextNamespace = 1; // host lock
    private bool _isGone; // host lock: stopped for good

    internal NvmeHandle(
        HostContext host, PciFabric fabric, PciFunction function, NvmeConfig config, TimeProvider clock)
    {
        _host = host;
        Name = config.Name;
        Presence = new DevicePresence(Name);
        Function = function;
        Folder = config.Folder;
        long buffers = (long)Requests * NvmeControllerOptions.TransferBytesMax;
        _buffers = MappedMemory.AllocateAnonymous(buffers, hugePages: true);
        _queues = MappedMemory.AllocateAnonymous(NvmeDriver.MemoryBytes, hugePages: false);
        _memoryBuffer = config.MemoryBufferBytes == 0
            ? null
            : MappedMemory.AllocateAnonymous(config.MemoryBufferBytes, hugePages: false);
        using (host.Enter())
        {
            NvmeControllerOptions options = new() { SerialNumber = $"WL-{config.Name}", RequestsMax = Requests };
            Memory<byte> memoryBuffer = _memoryBuffer?.Memory ?? default;
            Controller = new NvmeController(fabric, Function, options, _buffers.Memory, memoryBuffer);
            if (_memoryBuffer is not null)
            {
                // Whoever asks for memory of the drive gets it here; the drive itself keeps none.
                PeerDevice.TryAddResource(
                    host, fabric.Topology, function, NvmeController.MemoryBufferBar, 0, 0, out PeerPool? pool)
                    .ThrowIfFailed($"offer the memory buffer of {Name}");
                pool!.Publish(true);
                Lender = new PeerPoolLender(host, fabric, pool);
                LentClearing clearing = Lender.Clearing;
                clearing.WorkAvailable = () => ThreadPool.QueueUserWorkItem(static c => c.Drive(), clearing, false);
            }

            Driver = new NvmeDriver(host, fabric, Controller, _queues.Memory);
        }

        _watchdog = clock.CreateTimer(_ => Watch(), null, s_watchInterval, s_watchInterval);
        _runner = new NvmeRunner(Controller, Driver, host, Serve, Workers, $"wayleave {config.Name}");
        using (host.Enter())
        {
            Driver.Start();
        }
    }

    public string Name { get; }

    public DevicePresence Presence { get; }

    public PciFunction Function { get; }

    public NvmeController Controller { get; }

    public NvmeDriver Driver { get; }

    /// <summary>Lends the controller memory buffer; null for a drive that has none.</summary>
    public PeerPoolLender? Lender { get; }

    /// <summary>Where the files are that peers may write; null when they may write none.</summary>
    public string? Folder { get; }

    public StorageKind DefaultStorage => StorageKind.Revocable;

    /// <summary>What stopped the drive, or null.</summary>
    public Exception? Failure => _runner.Failure;

    /// <summary>Ends when the drive's thread has died, with success: nothing that is under way will end.</summary>
    internal Task WhenFailed => _runner.WhenFailed;

    public bool CanStore(StorageKind storage) => storage == StorageKind.Revocable;

    /// <inheritdoc/>
    /// <remarks>
    /// A resource with a handle of the controller memory buffer, which is the host's; clear on return.
    /// </remarks>
    public async Task<ObjectMemory> TakeAsync(
        ObjectRequest request, string operation, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(request);
        if (Lender is not { } lender || Function.PeerDevice is not { } device)
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP, operation, $"{Name} has no memory buffer", "give it memory_buffer_bytes");
        }

        PeerHandle? handle;
        using (_host.Enter())
        {
            Errno errno = PeerResource.TryAdd(
                _host, device, request.Name, request.SizeBytes, "the host", out handle);
            if (errno != Errno.Success)
            {
                string size = ByteSize.ToText((long)(device.Pool?.SizeBytes ?? 0));
                string free = ByteSize.ToText((long)(device.Pool?.AvailableBytes ?? 0));
                throw new WayleaveException(
                    errno, operation, $"{free} of the {size} of its memory buffer are free", "wait, or ask for less");
            }
        }

        // In time proportional to the size, outside of the lock.
        Reservation reservation = handle!.Resource.Buffer.Reservation;
        await reservation.WaitAsync(_host, ReservationUsage.Kernel).ConfigureAwait(false);
        using (_host.Enter())
        {
            if (handle.Resource.Buffer.IsRevoked)
            {
                handle.Close();
                throw new WayleaveException(Errno.ENODEV, operation, $"{Name} left before its memory was clear");
            }
        }

        return new ResourceObjectMemory(handle.Resource, request.SizeBytes, lender);
    }

    /// <summary>Waits until commands can be sent.</summary>
    /// <exception cref="WayleaveException">EIO: the drive failed or does not answer.</exception>
    public async Task WaitReadyAsync(CancellationToken cancellation = default)
    {
        NvmeDriverState state = await WaitAsync(
            s => s is NvmeDriverState.Ready or NvmeDriverState.Failed || !Presence.IsPresent, cancellation)
            .ConfigureAwait(false);
        if (!Presence.IsPresent)
        {
            throw Presence.Gone($"use {Name}");
        }

        if (state != NvmeDriverState.Ready)
        {
            string reason = _runner.Failure?.Message ?? $"its driver is in state {state}";
            throw new WayleaveException(Errno.EIO, $"use {Name}", reason, "restart the host");
        }
    }

    /// <summary>
    /// Takes the controller down and up again, for commands that do not end: all of them end, those of others too, and
    /// no DMA happens for them any more. What <c>nvme_timeout</c> does when an abort has not helped.
    /// </summary>
    /// <exception cref="WayleaveException">EIO: the drive does not come back.</exception>
    public async Task ResetAsync(CancellationToken cancellation = default)
    {
        using (_host.Enter())
        {
            Driver.Reset();
        }

        // Whoever comes first starts it again: another copy, or the driver itself after a late command.
        await WaitAsync(s => s != NvmeDriverState.Resetting, cancellation).ConfigureAwait(false);
        using (_host.Enter())
        {
            if (Driver.State == NvmeDriverState.Stopped && !_isGone)
            {
                Driver.Start();
            }
        }

        await WaitReadyAsync(cancellation).ConfigureAwait(false);
    }

    /// <summary>Puts a file into the drive as a namespace. Give it back by <see cref="Close"/>.</summary>
    /// <param name="path">A regular file or a block device.</param>
    /// <param name="isWritable">Whether commands may write it.</param>
    /// <param name="lengthBytes">
    /// How many bytes the namespace has, rounded up to whole blocks; null for those that the file has.
    /// </param>
    /// <exception cref="WayleaveException">The file cannot be opened, or is empty.</exception>
    public NvmeNamespace Open(string path, bool isWritable, long? lengthBytes = null)
    {
        DirectFile file;
        try
        {
            file = DirectFile.Open(path, isWritable);
        }
        catch (LinuxException e)
        {
            throw ErrnoMap.ToException(e, $"open {path} as a namespace of {Name}", "check the name and your rights");
        }

        ulong blocks = ((ulong)(lengthBytes ?? file.LengthBytes) + (1UL << BlockShift) - 1) >> BlockShift;
        if (blocks == 0)
        {
            file.Dispose();
            throw new WayleaveException(
                Errno.ENODATA, $"read {path}", "it is empty", "device memory has no objects of zero bytes");
        }

        using (_host.Enter())
        {
            NvmeNamespace made = new(_nextNamespace++, BlockShift, blocks, !isWritable);
            _media[made.Id] = file;
            Controller.Attach(made);
            return made;
        }
    }

    /// <summary>How long the file of a namespace was when it was opened, in bytes.</summary>
    public long LengthBytes(NvmeNamespace @namespace)
    {
        ArgumentNullException.ThrowIfNull(@namespace);
        return _media[@namespace.Id].LengthBytes;
    }

    /// <summary>Takes a namespace out again; its transfers have ended.</summary>
    public void Close(NvmeNamespace @namespace)
    {
        ArgumentNullException.ThrowIfNull(@namespace);
        using (_host.Enter())
        {
            Controller.Detach(@namespace.Id);
        }

        if (_media.TryRemove(@namespace.Id, out DirectFile? file))
        {
            file.Dispose();
        }
    }

    /// <summary>
    /// Takes the controller down for good: when this has ended it does no DMA any more, and every command has ended.
    /// </summary>
    public async Task StopAsync()
    {
        await _watchdog.DisposeAsync().ConfigureAwait(false);
        using (_host.Enter())
        {
            _isGone = true;
            Driver.Reset();
        }

        await WaitAsync(s => s == NvmeDriverState.Stopped, CancellationToken.None).ConfigureAwait(false);
    }

    /// <summary>
    /// Ends the threads and unmaps the memory; not the buffers that a file has not given back. After
    /// <see cref="StopAsync"/>, whose end it waits for otherwise.
    /// </summary>
    public void Dispose()
    {
        StopAsync().GetAwaiter().GetResult();
        _runner.Dispose();
        foreach (DirectFile file in _media.Values)
        {
            file.Dispose();
        }

        IDisposable? buffers = _runner.Unanswered == 0 ? _buffers : null;
        foreach (IDisposable? memory in new[] { buffers, _queues, _memoryBuffer })
        {
            memory?.Dispose();
        }
    }

    // On a thread of the pool: the drive's own may be the one that hangs.
    private void Watch()
    {
        using (_host.Enter())
        {
            Driver.Hangs.HandleTimeout(_host.Now);
        }
    }

    /// <summary>
    /// Waits until the driver is in a state that is meant, for as long as a controller may take, or until nothing will
    /// change it any more.
    /// </summary>
    /// <returns>The state in which it is then.</returns>
    private async Task<NvmeDriverState> WaitAsync(Func<NvmeDriverState, bool> isMeant, CancellationToken cancellation)
    {
        using CancellationTokenSource over = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        Task limit = Task.Delay(s_readyMax, over.Token);
        while (true)
        {
            TaskCompletionSource changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
            NvmeDriverState state;
            using (_host.Enter())
            {
                state = Driver.State;
                Driver.ObserveChange(changed.SetResult);
            }

            if (isMeant(state) || limit.IsCompleted || WhenFailed.IsCompleted)
            {
                await over.CancelAsync().ConfigureAwait(false);
                cancellation.ThrowIfCancellationRequested();
                return state;
            }

            await Task.WhenAny(changed.Task, limit, WhenFailed).ConfigureAwait(false);
        }
    }

    /// <summary>Does a request in place of the file; null does the file's. For tests of files that hang.</summary>
    internal Func<NvmeMediaRequest, Errno?>? Medium { get; set; }

    private Errno Serve(NvmeMediaRequest request)
    {
        if (Medium?.Invoke(request) is { } answer)
        {
            return answer;
        }

        if (!_media.TryGetValue(request.Namespace.Id, out DirectFile? file))
        {
            return Errno.ENODEV;
        }

        return request.Kind switch
        {
            NvmeMediaKind.Read => file.Read(request.OffsetBytes, request.Buffer.Span),
            NvmeMediaKind.Write => file.Write(request.OffsetBytes, request.Buffer.Span),
            _ => file.Flush(),
        };
    }
}
