using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Transfers;

/// <summary>Where the bytes go: memory that another host has lent to exactly this connection.</summary>
/// <param name="Peer">The other host's end.</param>
/// <param name="RKey">The key of its region.</param>
/// <param name="Address">Of the first byte, as the region names it.</param>
public sealed record TransferTarget(ConnectionEnd Peer, uint RKey, ulong Address);

//   opened --Start--> running --> Completion: how it ended
//      |                 |
//      +----Dispose------+--> the queue pair is gone, the region deregistered
//
// Whoever asked learns our end first, has the other host lend memory to that end, and tells us what to use. So no host
// ever holds a credential for another: what it gets is one key, of one region, for one of its queue pairs.

/// <summary>
/// One object on its way from this host into memory that another host lends. It reads the object by a dynamic region:
/// the owner may move it meanwhile, and may take it back, which ends this. Members take the host lock and the port
/// token themselves.
/// </summary>
public sealed class OutgoingTransfer : IAsyncDisposable
{
    private readonly WayleaveHost _host;
    private readonly Connection _connection;
    private readonly CancellationTokenSource _stopping = new();
    private readonly TaskCompletionSource<WorkCompletionStatus> _ended =
        new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock _lock = new();
    private volatile WayleaveException? _reason; // why it was stopped, if not by who asked for it
    private ulong _completedBytes;
    private State _state; // under the lock
    private TransferTarget? _target;

    private OutgoingTransfer(WayleaveHost host, ulong id, DeviceObject source, Connection connection)
    {
        (_host, Id, Source, _connection) = (host, id, source, connection);
    }

    private enum State
    {
        Opened,
        Running,
        Over,
    }

    /// <summary>Unique in the host, never used again.</summary>
    public ulong Id { get; }

    public DeviceObject Source { get; }

    internal NicHandle Nic => _connection.Nic;

    /// <summary>Our end, for the host that will lend memory to it.</summary>
    public ConnectionEnd Local => _connection.Local;

    /// <summary>Where it goes; null before the start. Readable from any thread.</summary>
    public Gid? Peer => Volatile.Read(ref _target)?.Peer.Gid;

    /// <summary>Bytes that have arrived; readable from any thread.</summary>
    public ulong CompletedBytes => Volatile.Read(ref _completedBytes);

    /// <summary>From the start to the end, or to now.</summary>
    public TimeSpan Elapsed { get; private set; }

    /// <summary>
    /// How it ended: success, or the status of the first request that failed. With a
    /// <see cref="TransferStalledException"/> when the peer acknowledged nothing for too long, and cancelled when this
    /// was disposed before.
    /// </summary>
    public Task<WorkCompletionStatus> Completion => _ended.Task;

    internal static async Task<OutgoingTransfer> OpenAsync(
        WayleaveHost host, ulong id, DeviceObject source, int? port)
    {
        NicHandle nic = host.FindNic($"send {source}");
        using IDisposable use = nic.Presence.Use($"send {source}");
        Connection connection = await Connection
            .OpenAsync(nic, source, ImporterKind.Dynamic, AccessFlags.None, port).ConfigureAwait(false);
        return new OutgoingTransfer(host, id, source, connection);
    }

    /// <summary>Connects to the other host and sends the whole object, on a thread of its own.</summary>
    /// <param name="target">Where to.</param>
    /// <param name="stallMax">See <see cref="BulkTransfer.StallMax"/>.</param>
    /// <exception cref="WayleaveException">
    /// EALREADY: it was started before. EINVAL: the peer's numbers make no sense; then it can be started again.
    /// </exception>
    public void Start(TransferTarget target, TimeSpan stallMax)
    {
        ArgumentNullException.ThrowIfNull(target);
        lock (_lock)
        {
            if (_state != State.Opened)
            {
                throw new WayleaveException(Errno.EALREADY, $"start transfer {Id}", "it was started before");
            }

            _connection.Connect(target.Peer);
            Volatile.Write(ref _target, target);
            _state = State.Running;
        }

        _ = Task.Factory.StartNew(
            () => Run(target, stallMax),
            CancellationToken.None,
            TaskCreationOptions.LongRunning,
            TaskScheduler.Default); // reports by the completion source alone
    }

    /// <summary>
    /// As <see cref="DisposeAsync"/>; <see cref="Completion"/> fails with the reason, unless it has ended.
    /// </summary>
    internal ValueTask FailAsync(WayleaveException reason)
    {
        _reason = reason;
        return DisposeAsync();
    }

    /// <summary>Stops what is under way and ends the connection. Disposing twice is fine.</summary>
    public async ValueTask DisposeAsync()
    {
        State before;
        lock (_lock)
        {
            (before, _state) = (_state, State.Over);
        }

        if (before == State.Over)
        {
            return;
        }

        await _stopping.CancelAsync().ConfigureAwait(false);
        if (before == State.Opened)
        {
            HandleStopped();
        }
        else
        {
            _connection.Abort();
        }

        // Whoever awaits Completion has seen how it ended.
        await ((Task)_ended.Task).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        await _connection.DisposeAsync().ConfigureAwait(false);
        _stopping.Dispose();
    }

    private void HandleStopped()
    {
        if (_reason is { } reason)
        {
            _ended.SetException(reason);
        }
        else
        {
            _ended.SetCanceled(_stopping.Token);
        }
    }

    private void Run(TransferTarget target, TimeSpan stallMax)
    {
        TimeSpan start = _host.Context.Now;
        BulkTransfer bulk = new(
            _connection.Nic.Driver, _connection.QueuePair, _connection.Completions, _host.Context)
        {
            Progress = bytes => Volatile.Write(ref _completedBytes, bytes),
            StallMax = stallMax,
        };
        BulkRange range = new(0, _connection.Region.Key, target.Address, target.RKey, Source.SizeBytes);
        try
        {
            WorkCompletionStatus status = bulk.Run(BulkDirection.Write, range, _stopping.Token);
            Elapsed = _host.Context.Now - start;
            _ended.SetResult(status);
        }
        catch (OperationCanceledException)
        {
            HandleStopped();
        }
        catch (Exception e)
        {
            _ended.SetException(e);
        }
    }
}
