using System.Threading.Channels;
using Wayleave.Devices.Rdma.Connections;

namespace Wayleave.Host.Connections;

/// <summary>A port that peers connect to (<c>rdma_listen</c>). Disposing rejects the requests that wait.</summary>
public sealed class RdmaListener : IDisposable
{
    private readonly ConnectionService _service;
    private readonly CmListener _id;

    // Bounded by the backlog: what waits here counts against it.
    private readonly Channel<RdmaConnectionRequest> _requests = Channel.CreateUnbounded<RdmaConnectionRequest>();
    private bool _disposed;

    internal RdmaListener(ConnectionService service, CmListener id) => (_service, _id) = (service, id);

    public ushort Port => _id.Port;

    /// <summary>The next request. Accept or reject it: the peer waits.</summary>
    /// <param name="cancellation">Ends the wait; no request is lost.</param>
    /// <exception cref="ChannelClosedException">The listener was disposed, or its NIC.</exception>
    public ValueTask<RdmaConnectionRequest> AcceptAsync(CancellationToken cancellation = default) =>
        _requests.Reader.ReadAsync(cancellation);

    public void Dispose()
    {
        if (!_disposed)
        {
            _disposed = true;
            _requests.Writer.TryComplete();
            _service.Close(_id);
        }
    }

    /// <summary>The NIC stops. Port token held.</summary>
    internal void Stop() => _requests.Writer.TryComplete();

    /// <summary>Port token held.</summary>
    internal void Add(RdmaConnectionRequest request) => _requests.Writer.TryWrite(request);
}
