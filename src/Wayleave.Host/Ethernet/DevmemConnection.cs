using System.Globalization;
using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Tcp;

namespace Wayleave.Host.Ethernet;

/// <summary>
/// A TCP connection whose received bytes may lie in device memory. One reader and one writer at a time; returning
/// tokens needs neither. Reads and writes drive the NIC when nobody else does.
/// </summary>
public sealed class DevmemConnection : IDevmemConnection
{
    private readonly HostedNic _nic;
    private readonly TcpConnection _connection;
    private readonly AsyncSignal _readable = new();
    private readonly AsyncSignal _writable = new();
    private bool _isDisposed;

    /// <summary>Called under the port token.</summary>
    internal DevmemConnection(HostedNic nic, TcpConnection connection)
    {
        (_nic, _connection) = (nic, connection);
        connection.Tag = this;
        nic.Remember(this);
    }

    /// <summary>The two ends.</summary>
    public TcpFlow Flow => _connection.Flow;

    /// <inheritdoc/>
    public string Peer => string.Create(CultureInfo.InvariantCulture, $"{Flow.Remote} port {Flow.RemotePort}");

    /// <summary>The NIC it belongs to.</summary>
    public HostedNic Nic => _nic;

    /// <summary>Small segments are sent at once (TCP_NODELAY).</summary>
    public bool NoDelay
    {
        get => _nic.Driver.WithToken(() => _connection.NoDelay);
        set => _nic.Driver.WithToken(() => _connection.NoDelay = value);
    }

    /// <summary>How long unacknowledged data is kept up (TCP_USER_TIMEOUT); zero for the retries.</summary>
    public TimeSpan UserTimeout
    {
        get => _nic.Driver.WithToken(() => _connection.UserTimeout);
        set => _nic.Driver.WithToken(() => _connection.UserTimeout = value);
    }

    /// <summary>A silent peer is probed (SO_KEEPALIVE).</summary>
    public bool KeepAlive
    {
        get => _nic.Driver.WithToken(() => _connection.KeepAlive);
        set => _nic.Driver.WithToken(() => _connection.KeepAlive = value);
    }

    /// <summary>Numbers of this moment.</summary>
    public TcpConnectionInfo GetInfo() => _nic.Driver.WithToken(() => _connection.Info);

    /// <summary>Bytes read that were in device memory, and bytes that were copied to host memory.</summary>
    public (long ByToken, long Copied) GetReceived() => _nic.Driver.WithToken(
        () => (_connection.Received.BytesByToken, _connection.Received.BytesCopied));

    /// <summary>
    /// Reads what has come: pieces of device memory are described, with a token each to be returned by
    /// <see cref="ReturnTokens"/>; other bytes are copied. Allocates nothing.
    /// </summary>
    /// <param name="linear">For bytes that are not in device memory; at least one.</param>
    /// <param name="fragments">For descriptions; at least one.</param>
    /// <param name="cancellation">Ends the wait, and nothing else.</param>
    /// <returns>What came; zero bytes are the end of what the peer sends.</returns>
    /// <exception cref="WayleaveException">
    /// ECONNRESET, ETIMEDOUT; ENODEV when the owner took the memory of unread bytes back.
    /// </exception>
    public async ValueTask<ReceiveResult> ReadAsync(
        Memory<byte> linear, Memory<DevmemFragment> fragments, CancellationToken cancellation = default)
    {
        while (true)
        {
            Errno errno = TryRead(linear.Span, fragments.Span, out ReceiveResult result);
            if (errno != Errno.EAGAIN)
            {
                errno.ThrowIfFailed($"read from {Flow}");
                return result;
            }

            if (!_nic.Driver.TryProgress())
            {
                await _readable.WaitAsync(cancellation).ConfigureAwait(false);
            }
        }
    }

    /// <summary>As <see cref="ReadAsync"/> without waiting.</summary>
    /// <returns>EAGAIN when nothing has come; success with no bytes at the end.</returns>
    public Errno TryRead(Span<byte> linear, Span<DevmemFragment> fragments, out ReceiveResult result)
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        _nic.Driver.Enter();
        try
        {
            Errno errno = _connection.Received.Receive(
                ReceiveFlags.Devmem, int.MaxValue, linear, fragments, out result);
            if (errno == Errno.Success)
            {
                _connection.HandleRead();
            }
            else if (errno == Errno.EAGAIN && (_connection.IsAtEnd || _connection.State == TcpState.Closed))
            {
                errno = _connection.Error;
            }

            return errno;
        }
        finally
        {
            _nic.Driver.Exit();
        }
    }

    /// <summary>
    /// All pieces until the end, one after the other. Each is the caller's until it asks for the next: then its token
    /// is returned. Linear pieces are in <paramref name="linear"/> if it is given, from its start on.
    /// </summary>
    /// <param name="linear">For bytes that are not in device memory; null for a buffer that nobody looks at.</param>
    /// <param name="cancellation">Ends the enumeration.</param>
    public IAsyncEnumerable<DevmemFragment> ReadAllAsync(
        Memory<byte>? linear = null, CancellationToken cancellation = default) =>
        DevmemReading.ReadAllAsync(this, linear, cancellation);

    /// <summary>
    /// Gives pieces of device memory back (<c>SO_DEVMEM_DONTNEED</c>): they may be written again at once.
    /// </summary>
    /// <returns>How many were given back: tokens that are not held here are skipped.</returns>
    /// <exception cref="WayleaveException">EINVAL for more than 128 ranges, ENODEV for memory that was taken
    /// back.</exception>
    public int ReturnTokens(ReadOnlySpan<TokenRange> ranges)
    {
        int freed;
        Errno errno;
        _nic.Driver.Enter();
        try
        {
            errno = _connection.Received.DontNeed(ranges, out freed);
            _connection.HandleRead();
        }
        finally
        {
            _nic.Driver.Exit();
        }

        errno.ThrowIfFailed($"return tokens of {Flow}");
        return freed;
    }

    /// <summary>Copies as many bytes to be sent as there is room for. Never blocks, allocates nothing.</summary>
    /// <param name="bytes">Not used after the return.</param>
    /// <param name="taken">How many of them.</param>
    /// <returns>EAGAIN when none was taken; EPIPE, ECONNRESET, ETIMEDOUT.</returns>
    public Errno TryWrite(ReadOnlySpan<byte> bytes, out int taken)
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        _nic.Driver.Enter();
        try
        {
            return _connection.Send(bytes, out taken);
        }
        finally
        {
            _nic.Driver.Exit();
        }
    }

    /// <summary>Copies bytes to be sent, and waits while the buffer is full.</summary>
    /// <exception cref="WayleaveException">EPIPE, ECONNRESET, ETIMEDOUT.</exception>
    public async ValueTask WriteAsync(ReadOnlyMemory<byte> bytes, CancellationToken cancellation = default)
    {
        while (!bytes.IsEmpty)
        {
            Errno errno = TryWrite(bytes.Span, out int taken);
            bytes = bytes[taken..];
            if (errno == Errno.EAGAIN)
            {
                await _writable.WaitAsync(cancellation).ConfigureAwait(false);
                continue;
            }

            errno.ThrowIfFailed($"send to {Flow}");
        }
    }

    /// <summary>
    /// Sends a range of device memory and waits until the peer has acknowledged it: only then may its owner change it.
    /// Canceling ends the wait; the range stays in use until it is acknowledged or the connection is over.
    /// </summary>
    /// <exception cref="WayleaveException">EINVAL, ENODEV, EFAULT of the binding; EPIPE, ECONNRESET,
    /// ETIMEDOUT.</exception>
    public async ValueTask SendAsync(
        TransmitBinding binding, ulong offset, long lengthBytes, CancellationToken cancellation = default)
    {
        long completesAt = 0;
        while (true)
        {
            Errno errno = _nic.Driver.WithToken(
                () => _connection.SendDevice(binding, offset, lengthBytes, out completesAt));
            if (errno != Errno.EAGAIN)
            {
                errno.ThrowIfFailed($"send from {binding} to {Flow}");
                break;
            }

            await _writable.WaitAsync(cancellation).ConfigureAwait(false);
        }

        await WaitForAcknowledgedAsync(completesAt, cancellation).ConfigureAwait(false);
    }

    /// <summary>Waits until the peer has acknowledged everything handed over so far.</summary>
    /// <exception cref="WayleaveException">The connection failed before.</exception>
    public ValueTask FlushAsync(CancellationToken cancellation = default) => WaitForAcknowledgedAsync(
        _nic.Driver.WithToken(() => _connection.QueuedBytes), cancellation);

    /// <summary>Nothing more is sent; the peer sees the end behind what is queued, and may go on itself.</summary>
    public void Shutdown() => _nic.Driver.WithToken(_connection.Shutdown);

    /// <summary>Resets the peer.</summary>
    public void Abort() => _nic.Driver.WithToken(_connection.Abort);

    /// <summary>As <see cref="Abort"/>, and nothing once the NIC is closed.</summary>
    internal void AbortIfOpen() => _nic.Driver.TryWithToken(_connection.Abort);

    void IDevmemConnection.Abort() => AbortIfOpen();

    /// <summary>
    /// Closes: every token goes back, what is queued is still sent. With unread data the peer is reset. Twice is fine.
    /// </summary>
    public ValueTask DisposeAsync()
    {
        if (!_isDisposed)
        {
            _isDisposed = true;
            _nic.Forget(this);
            _nic.Driver.TryWithToken(_connection.Close);
        }

        return ValueTask.CompletedTask;
    }

    /// <summary>Resets the peer; a wait ends with that.</summary>
    internal void HandleNicClosing()
    {
        _nic.Driver.TryWithToken(_connection.Abort);
        _readable.Set();
        _writable.Set();
    }

    internal async ValueTask WaitForConnectedAsync(CancellationToken cancellation)
    {
        while (true)
        {
            (TcpState state, Errno error) = _nic.Driver.WithToken(() => (_connection.State, _connection.Error));
            error.ThrowIfFailed($"connect to {Flow.Remote} port {Flow.RemotePort}");
            if (state.IsSynchronized())
            {
                return;
            }

            await _writable.WaitAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Under the port token: waiters are only marked.</summary>
    internal void HandleEvents(TcpEvents events)
    {
        if ((events & (TcpEvents.Readable | TcpEvents.Closed)) != 0)
        {
            _readable.Set();
        }

        if ((events & (TcpEvents.Acknowledged | TcpEvents.Connected | TcpEvents.Closed)) != 0)
        {
            _writable.Set();
        }
    }

    private async ValueTask WaitForAcknowledgedAsync(long position, CancellationToken cancellation)
    {
        while (true)
        {
            (long acknowledged, Errno error) =
                _nic.Driver.WithToken(() => (_connection.AcknowledgedBytes, _connection.Error));
            if (acknowledged >= position)
            {
                return;
            }

            error.ThrowIfFailed($"send to {Flow}");
            await _writable.WaitAsync(cancellation).ConfigureAwait(false);
        }
    }
}
