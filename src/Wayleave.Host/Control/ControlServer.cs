using System.Net;

namespace Wayleave.Host.Control;

/// <summary>
/// The API of a running host, on TCP and on a Unix socket: <see cref="ControlListener"/> decides who gets in,
/// <see cref="ControlEndpoints"/> what is done. Disposed before the host.
/// </summary>
public sealed class ControlServer : IAsyncDisposable
{
    private readonly ControlListener _listener;
    private readonly ControlEndpoints _endpoints;
    private bool _disposed;

    private ControlServer(ControlListener listener, ControlEndpoints endpoints) =>
        (_listener, _endpoints) = (listener, endpoints);

    /// <summary>Where TCP listens; with the port that the system chose if the configuration said 0.</summary>
    public IPEndPoint EndPoint => _listener.EndPoint;

    /// <summary>The Unix socket, or null.</summary>
    public string? SocketPath => _listener.SocketPath;

    /// <summary>Where the token is; null if the user gave one.</summary>
    public string? TokenFile => _listener.TokenFile;

    /// <summary>
    /// Starts to listen where the host's configuration says. When this throws, nothing is left behind.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// The address, the socket, the name or the token file cannot be had; says what to do.
    /// </exception>
    public static async Task<ControlServer> StartAsync(
        WayleaveHost host, ControlListenerOptions? options = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(host);
        options ??= new ControlListenerOptions();
        ControlEndpoints endpoints = new(host, options);
        try
        {
            ControlListener listener =
                await ControlListener
                    .StartAsync(host.Config, options, endpoints.Map, cancellation).ConfigureAwait(false);
            endpoints.Listener = listener;
            return new ControlServer(listener, endpoints);
        }
        catch
        {
            endpoints.Dispose();
            throw;
        }
    }

    /// <summary>Requests that change something and have not ended, streams among them.</summary>
    public int Running => _listener.Running;

    /// <summary>
    /// Refuses new work (ESHUTDOWN) and waits until what was begun has ended: leases, transfers, audits, copies.
    /// </summary>
    /// <param name="max">How long at most; what has not ended by then is ended by <see cref="DisposeAsync"/>.</param>
    /// <returns>Whether everything ended by itself.</returns>
    public async Task<bool> DrainAsync(TimeSpan max)
    {
        Task drained = _listener.DrainAsync();
        return await Task.WhenAny(drained, Task.Delay(max)).ConfigureAwait(false) == drained;
    }

    /// <summary>
    /// Ends every lease that a client holds, gives up what was not committed, stops listening, and removes token,
    /// socket and registration. Disposing twice is fine.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        if (_disposed)
        {
            return;
        }

        _disposed = true;
        _endpoints.Stop();
        await _listener.DisposeAsync().ConfigureAwait(false);
        _endpoints.Dispose();
    }
}
