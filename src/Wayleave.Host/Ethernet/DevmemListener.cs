using Wayleave.Devices.Ethernet.Tcp;

namespace Wayleave.Host.Ethernet;

/// <summary>
/// A TCP port of a <see cref="HostedNic"/>, which closes it at its own end. One caller accepts at a time.
/// </summary>
public sealed class DevmemListener : IDevmemListener
{
    private readonly HostedNic _nic;
    private readonly TcpListener _listener;
    private readonly AsyncSignal _acceptable = new();
    private volatile bool _isClosed;

    internal DevmemListener(HostedNic nic, TcpListener listener)
    {
        (_nic, _listener) = (nic, listener);
        nic.Driver.WithToken(() => listener.Tag = this);
        nic.Remember(this);
    }

    public ushort Port => _listener.Port;

    /// <summary>The connection that waited longest. The payload it brought lies where its queue put it.</summary>
    /// <exception cref="ObjectDisposedException">The listener is closed.</exception>
    public async ValueTask<DevmemConnection> AcceptAsync(CancellationToken cancellation = default)
    {
        while (true)
        {
            ObjectDisposedException.ThrowIf(_isClosed, this);
            DevmemConnection? accepted = null;
            _nic.Driver.WithToken(() => accepted = _listener.TryAccept(out TcpConnection? connection)
                ? new DevmemConnection(_nic, connection)
                : null);
            if (accepted is not null)
            {
                return accepted;
            }

            await _acceptable.WaitAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Takes no more; connections that nobody accepted are reset. Twice is fine.</summary>
    public void Dispose()
    {
        if (!_isClosed)
        {
            _isClosed = true;
            _nic.Forget(this);
            _nic.Driver.TryWithToken(_listener.Close);
            _acceptable.Set();
        }
    }

    async ValueTask<IDevmemConnection> IDevmemListener.AcceptAsync(CancellationToken cancellation) =>
        await AcceptAsync(cancellation).ConfigureAwait(false);

    internal void HandleAcceptable() => _acceptable.Set();
}
