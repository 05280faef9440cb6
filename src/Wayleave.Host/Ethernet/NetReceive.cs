using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Ethernet;

// object taken --> bound to the queue --> port steered --> listening --> connections, each into a sink
//
// and at the end all of it the other way round. Runs on threads of the pool; no lock and no token is held while it
// waits. A revoke is told by the NIC's thread, which only cancels.

/// <summary>
/// Receives TCP connections into device memory: memory of a device is bound to a receive queue, a port is steered
/// there, and the content is hashed where it lies or becomes objects of the device.
/// </summary>
public sealed class NetReceive : NetOperation
{
    private const int BacklogMax = 128;
    private const int ConnectionsMax = 256;

    private readonly ReceiveRequest _request;
    private readonly string _bufferName;
    private DeviceObject? _buffer;
    private IReceiveBinding? _binding;
    private IDisposable? _steering;
    private IDevmemListener? _listener;
    private long _bytes;
    private volatile bool _isClosing;

    private NetReceive(WayleaveHost host, NetNic nic, ReceiveRequest request)
        : base(host, nic, $"receive by queue {request.Queue} of {nic.Name} into {request.Device}")
    {
        _request = request;
        _bufferName = request.BufferName ?? $"{nic.Name}-rx{request.Queue}";
    }

    /// <summary>The object that is bound.</summary>
    public DeviceObject Buffer => _buffer!;

    public IReceiveBinding Binding => _binding!;

    /// <summary>Whether what is bound is no device memory: its owner shows the NIC other.</summary>
    internal bool IsStaged => Binding.Route == PeerRoute.HostMemory;

    /// <summary>Bytes of content so far, of all connections.</summary>
    public long Bytes => Interlocked.Read(ref _bytes);

    /// <summary>Binds, steers and listens.</summary>
    /// <exception cref="WayleaveException">
    /// What the NIC, the route, the device or the owner says against it: EINVAL, EBUSY, EEXIST, EADDRINUSE, ...
    /// </exception>
    public static async Task<NetReceive> OpenAsync(
        WayleaveHost host, NetNic nic, ReceiveRequest request, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(nic);
        ArgumentNullException.ThrowIfNull(request);
        NetReceive receive = new(host, nic, request);
        try
        {
            receive.Check();
            await receive.BindAsync(cancellation).ConfigureAwait(false);
            receive._steering = nic.Steer(request.Port, request.Address, request.Queue);
            receive._listener = nic.ListenDevmem(request.Port, request.Address, BacklogMax);
            return receive;
        }
        catch (Exception e) when (e is WayleaveException or OperationCanceledException or ObjectDisposedException)
        {
            Exception told = receive.Explain(e);
            await receive.DisposeAsync().ConfigureAwait(false);
            if (ReferenceEquals(told, e))
            {
                throw;
            }

            throw told;
        }
    }

    /// <summary>
    /// Receives: one connection, or with HTTP each that comes until <paramref name="cancellation"/>. When this returns
    /// or throws, no connection is left.
    /// </summary>
    /// <param name="received">Told of each connection that brought its content; by one caller at a time.</param>
    /// <param name="refused">Told of each HTTP request that was refused; as above.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <exception cref="WayleaveException">
    /// ENODEV: the memory or the NIC was taken away. ECONNRESET, ETIMEDOUT of the one connection.
    /// </exception>
    public async Task RunAsync(
        Func<ReceivedContent, Task> received, Func<RefusedRequest, Task> refused, CancellationToken cancellation)
    {
        using CancellationTokenSource over = CancellationTokenSource.CreateLinkedTokenSource(cancellation, Over);
        try
        {
            await (_request.IsHttp
                ? ServeAsync(received, refused, over.Token)
                : TakeOneAsync(received, over.Token)).ConfigureAwait(false);
        }
        catch (Exception e) when (
            e is WayleaveException or ObjectDisposedException
            || (e is OperationCanceledException && !cancellation.IsCancellationRequested))
        {
            Exception told = Explain(ExplainRevoke(e));
            if (ReferenceEquals(told, e))
            {
                throw;
            }

            throw told;
        }
    }

    internal override bool Uses(DeviceObject o) => !_isClosing && ReferenceEquals(o, _buffer);

    private protected override DeviceObject? Used => _buffer;

    private protected override async Task CloseAsync()
    {
        _isClosing = true; // the revoke below is not to wait for this
        _listener?.Dispose();
        _steering?.Dispose();
        if (_binding is not null)
        {
            await _binding.DisposeAsync().ConfigureAwait(false);
        }

        if (_buffer is not null && !IsFreed(_buffer))
        {
            RevokePolicy policy = new() { Reason = "the reception is over" };
            await Host.Objects.RevokeAsync(_buffer, policy).ConfigureAwait(false);
        }
    }

    private bool IsFreed(DeviceObject o)
    {
        using (Host.Context.Enter())
        {
            return o.Memory.IsFreed;
        }
    }

    private void Check()
    {
        if (_request.Address is { } address && !Nic.Addresses.Contains(address))
        {
            string known = string.Join(", ", Nic.Addresses);
            throw new WayleaveException(
                Errno.EADDRNOTAVAIL, $"listen on {address}", $"it is no address of {Nic.Name}", $"it has {known}");
        }

        if (_request.Port == 0)
        {
            throw new WayleaveException(Errno.EINVAL, What, "port 0 is none to listen on");
        }

        if (!_request.IsHttp && _request.Name is not null && _request.SizeBytes is null)
        {
            throw new WayleaveException(
                Errno.EINVAL, What, $"{_request.Name} needs a size before the first byte comes", "give it: --size");
        }

        ulong chunk = (ulong)Math.Max(_request.ChunkBytes, 1);
        if (_request.BufferBytes == 0 || _request.BufferBytes % chunk != 0)
        {
            throw new WayleaveException(
                Errno.EINVAL,
                What,
                $"a buffer of {_request.BufferBytes} bytes is no positive multiple of chunks of {chunk} bytes");
        }

        if (_request.Name == _bufferName)
        {
            throw new WayleaveException(
                Errno.EEXIST,
                What,
                $"{_bufferName} is the name of what is bound",
                "name the buffer otherwise: --buffer-name");
        }

        if (Host.Objects.Find(_request.Device, _bufferName) is { } other)
        {
            throw new WayleaveException(
                Errno.EEXIST, What, $"{other} exists already", "name the buffer otherwise: --buffer-name");
        }
    }

    private async Task BindAsync(CancellationToken cancellation)
    {
        ImporterKind kind = _request.Kind ?? (LendsForGood() ? ImporterKind.Static : ImporterKind.PinnedRevocable);
        bool staysPut = _request.Kind is null && IsAlwaysStatic();
        StorageKind? storage = kind == ImporterKind.PinnedRevocable
            ? staysPut ? null : StorageKind.Revocable
            : StorageKind.Static;
        _buffer = await Host.Objects
            .CreateAsync(_request.Device, _bufferName, _request.BufferBytes, storage, cancellation)
            .ConfigureAwait(false);
        await Host.Objects.CommitAsync(_buffer, sha256: null).ConfigureAwait(false);
        BindRequest bind = new()
        {
            Queues = [_request.Queue],
            Kind = kind,
            ChunkBytes = _request.ChunkBytes,
            Provider = _buffer.Owner.Function,
        };
        _binding = await Nic.BindReceiveAsync(Host, _buffer, bind, HandleRevoked).ConfigureAwait(false);
        if (_binding.IsRevoked)
        {
            throw TakenBack(null); // before anybody was told of it
        }
    }

    // Others refuse an importer that takes no peer addresses, at its attach or its map.
    private bool LendsForGood() => Host.Gpus.Any(g => g.Name == _request.Device);

    private bool IsAlwaysStatic() =>
        Host.MemoryDevices.FirstOrDefault(d => d.Name == _request.Device) is { } owner
        && !owner.CanStore(StorageKind.Revocable);

    // By the NIC's thread, under its token: whoever waits is only told.
    private void HandleRevoked() =>
        ThreadPool.UnsafeQueueUserWorkItem(static self => self.EndAsync(self.TakenBack(null)), this, false);

    private Exception ExplainRevoke(Exception e) =>
        _binding is { IsRevoked: true } ? TakenBack(e) : e;

    private WayleaveException TakenBack(Exception? inner) => TakenBack(
        $"{_request.Device}/{_bufferName} was taken back by its owner after {ByteSize.Format((ulong)Bytes)}", inner);

    private async Task TakeOneAsync(Func<ReceivedContent, Task> received, CancellationToken over)
    {
        await using IDevmemConnection connection = await _listener!.AcceptAsync(over).ConfigureAwait(false);
        _listener.Dispose(); // the next one is told that nobody listens
        ReceivedPieces pieces = new(connection);
        await using ContentSink sink = _request.Name is { } name
            ? await ObjectSink.OpenAsync(Host, this, name, _request.SizeBytes!.Value, over).ConfigureAwait(false)
            : new HashSink(Host, this);
        ContentReader reader = new(pieces, _request.StallMax ?? Timeout.InfiniteTimeSpan, CountBytes);
        ReceivedContent stream = await reader
            .ReadAllAsync(connection, sink, _request.SizeBytes, over).ConfigureAwait(false);
        await received(stream with { Target = _request.Name is { } made ? $"{_request.Device}/{made}" : null })
            .ConfigureAwait(false);
    }

    private async Task ServeAsync(
        Func<ReceivedContent, Task> received, Func<RefusedRequest, Task> refused, CancellationToken over)
    {
        using SemaphoreSlim places = new(ConnectionsMax, ConnectionsMax);
        using SemaphoreSlim telling = new(1, 1);
        using CancellationTokenSource stop = CancellationTokenSource.CreateLinkedTokenSource(over);
        HttpReceiver receiver = new(
            Host, this, _request.StallMax ?? HttpReceiver.StallMaxDefault, CountBytes, _request.HttpDefences);
        List<Task> serving = [];
        try
        {
            while (true)
            {
                await places.WaitAsync(stop.Token).ConfigureAwait(false);
                IDevmemConnection connection = await _listener!.AcceptAsync(stop.Token).ConfigureAwait(false);
                serving.RemoveAll(t => t.IsCompletedSuccessfully);
                serving.Add(Task.Run(() => ServeOneAsync(connection), CancellationToken.None));
            }
        }
        finally
        {
            await stop.CancelAsync().ConfigureAwait(false);
            await Task.WhenAll(serving).ConfigureAwait(false);
        }

        async Task ServeOneAsync(IDevmemConnection connection)
        {
            await using (connection)
            {
                try
                {
                    (ReceivedContent? stream, RefusedRequest? refusal) = await receiver
                        .ServeAsync(connection, stop.Token).ConfigureAwait(false);
                    await telling.WaitAsync(CancellationToken.None).ConfigureAwait(false); // it has happened
                    try
                    {
                        await (stream is not null ? received(stream) : refused(refusal!)).ConfigureAwait(false);
                    }
                    finally
                    {
                        telling.Release();
                    }
                }
                catch (Exception e) when (e is OperationCanceledException or ObjectDisposedException)
                {
                    connection.Abort(); // the reception is over, and says why itself
                }
                catch
                {
                    await stop.CancelAsync().ConfigureAwait(false);
                    throw;
                }
            }

            places.Release();
        }
    }

    private void CountBytes(long bytes) => Interlocked.Add(ref _bytes, bytes);
}
