using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using Wayleave.Core;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Service;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// Lets programs of this machine share a host's device memory, by descriptors that they pass on. Who gets in is decided
/// by the kernel's word for the peer's user; what a program reaches is what it opened, allocated or was given.
/// </summary>
public sealed class BrokerServer : IDisposable
{
    private const int Backlog = 64;
    private const int RefusedMax = 64;

    private static readonly TimeSpan s_askAgain = TimeSpan.FromMilliseconds(10);

    // When the process has no descriptor left: until one is closed, by nobody that is waited for.
    private static readonly TimeSpan s_acceptAgain = TimeSpan.FromMilliseconds(10);

    private readonly WayleaveHost _host;
    private readonly Socket _listener;
    private readonly bool _ownsFile;
    private readonly EventFd _stop = new();
    private readonly BrokerWatch _watch;
    private readonly Thread _thread;
    private readonly List<BrokerConnection> _connections = []; // under itself

    private readonly RefusedSockets _refused;
    private volatile bool _stopping;

    private BrokerServer(WayleaveHost host, string path, Socket listener, bool ownsFile)
    {
        (_host, SocketPath, _listener, _ownsFile) = (host, path, listener, ownsFile);
        Store = new BrokerStore(host, host.Config.Broker.Limits);
        host.Broker = Store;
        _watch = new BrokerWatch(Store);
        _refused = new RefusedSockets(RefusedMax, Store.Stopping.Token);
        _thread = new Thread(Accept) { IsBackground = true, Name = "wayleave broker" };
        _thread.Start();
    }

    /// <summary>Where programs connect.</summary>
    public string SocketPath { get; }

    internal BrokerStore Store { get; }

    /// <summary>A thread each.</summary>
    internal int ConnectionsMax { get; set; } = 1024;

    /// <summary>Of the programs of one user: no more than leave room for those of others.</summary>
    internal int ConnectionsPerUserMax { get; set; } = 512;

    /// <summary>Connections whose thread is there.</summary>
    internal int ConnectionCount
    {
        get
        {
            lock (_connections)
            {
                return _connections.Count;
            }
        }
    }

    /// <summary>Starts to listen at the socket of the host's configuration.</summary>
    /// <param name="host">Runs; disposed after this.</param>
    /// <param name="environment">Where the runtime directory is looked up.</param>
    /// <returns>Null when the configuration wants no broker.</returns>
    /// <exception cref="WayleaveException">The socket cannot be had.</exception>
    public static BrokerServer? Start(WayleaveHost host, Func<string, string?> environment)
    {
        ArgumentNullException.ThrowIfNull(host);
        BrokerConfig config = host.Config.Broker;
        ActivatedSocket? activated = ActivatedSockets.Find(environment).Broker;
        if (config.SocketPath == ControlConfig.None)
        {
            return activated is null
                ? null
                : throw new WayleaveException(
                    Errno.EINVAL,
                    $"listen on {activated.Path}",
                    "the service manager listens there, and the configuration wants no broker",
                    "disable its socket unit");
        }

        if (activated is not null)
        {
            return new BrokerServer(host, activated.Path, MessageSocket.Listening(activated.Descriptor), false);
        }

        string path = config.SocketPath
            ?? Path.Combine(RuntimeDirectory.Open(environment), host.Config.Name + ".broker.sock");
        string operation = $"listen on {path}";
        if (Encoding.UTF8.GetByteCount(path) > BrokerConfig.SocketPathBytesMax)
        {
            throw new WayleaveException(
                Errno.ENAMETOOLONG,
                operation,
                $"a socket's path has at most {BrokerConfig.SocketPathBytesMax} bytes",
                "name another by \"broker\": { \"socket\": ... }, or \"none\"");
        }

        if (FileStatus.TryRead(path, out FileStatus status))
        {
            // The name of the host is ours, so its socket is a killed host's.
            if (status.Kind != FileKind.Socket || status.UserId != FileStatus.CurrentUserId || IsListening(path))
            {
                throw new WayleaveException(
                    Errno.EADDRINUSE, operation, "the file exists and is in use or not ours", "name another");
            }

            File.Delete(path);
        }

        try
        {
            Socket listener = MessageSocket.Listen(path, Backlog, takesDescriptors: false);
            bool isShared = config.Users.Count > 0;
            const UnixFileMode Own = UnixFileMode.UserRead | UnixFileMode.UserWrite;
            const UnixFileMode Others = UnixFileMode.GroupRead | UnixFileMode.GroupWrite
                | UnixFileMode.OtherRead | UnixFileMode.OtherWrite;
            File.SetUnixFileMode(path, isShared ? Own | Others : Own);
            return new BrokerServer(host, path, listener, ownsFile: true);
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException)
        {
            throw ErrnoMap.ToException(e, operation, "name another by \"broker\": { \"socket\": ... }");
        }
    }

    /// <summary>
    /// Jobs and copies of engines that programs have submitted and that have not ended; requests of their queue pairs
    /// that have not completed, and completions that they have not taken.
    /// </summary>
    public long Running => Store.Running;

    /// <summary>
    /// Refuses programs new work (ESHUTDOWN), in rings and on connected queue pairs too, and waits for the end of what
    /// was submitted and posted. What programs have they keep: mappings, fences, keys; receives can still be posted,
    /// and peers reach what they reached.
    /// </summary>
    /// <param name="max">Waits no longer.</param>
    /// <returns>Whether all has ended.</returns>
    public async Task<bool> DrainAsync(TimeSpan max)
    {
        Store.BeginDrain();
        long start = Stopwatch.GetTimestamp();
        while (Running > 0)
        {
            TimeSpan left = max - Stopwatch.GetElapsedTime(start);
            if (left <= TimeSpan.Zero)
            {
                return false;
            }

            await Task.Delay(left < s_askAgain ? left : s_askAgain).ConfigureAwait(false);
        }

        return true;
    }

    /// <summary>Ends all connections, and takes everything back that programs have.</summary>
    public void Dispose()
    {
        if (_stopping)
        {
            return;
        }

        _stopping = true;
        Store.Stopping.Cancel();
        if (_ownsFile)
        {
            File.Delete(SocketPath);
        }

        // Nobody is in accept(2) then: to end that, .NET shuts a socket down, for the service manager as well.
        _stop.Signal();
        _thread.Join();
        _listener.Dispose();
        _stop.Dispose();
        _refused.Dispose();
        BrokerConnection[] connections;
        lock (_connections)
        {
            connections = [.. _connections];
        }

        foreach (BrokerConnection connection in connections)
        {
            connection.Dispose();
        }

        _watch.Dispose();
        Store.Buffers.ReleaseAll();
    }

    private static bool IsListening(string path)
    {
        try
        {
            MessageSocket.Connect(path).Dispose();
            return true;
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionRefused)
        {
            return false;
        }
    }

    private void Accept()
    {
        while (!_stopping)
        {
            Socket accepted;
            try
            {
                if (!MessageSocket.WaitToAccept(_listener, _stop))
                {
                    continue;
                }

                accepted = _listener.Accept();
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                if (!_stopping)
                {
                    _host.Context.Trace("broker.accept_failed", e.Message);
                    Thread.Sleep(s_acceptAgain);
                }

                continue;
            }

            Admit(accepted);
        }
    }

    private void Admit(Socket accepted)
    {
        MessageSocket socket = new(accepted);
        UnixPeer peer;
        try
        {
            peer = socket.Peer;
        }
        catch (ArgumentException)
        {
            _refused.Add(socket); // it has gone already
            return;
        }

        if (peer.UserId != 0 && peer.UserId != FileStatus.CurrentUserId
            && !_host.Config.Broker.Users.Contains(peer.UserId))
        {
            _host.Context.Trace("broker.stranger", $"user {peer.UserId}", peer.ProcessId);
            _refused.Add(socket);
            return;
        }

        BrokerConnection connection = new(_host, Store, socket, peer, Remove);
        lock (_connections)
        {
            if (_connections.Count >= ConnectionsMax
                || _connections.Count(c => c.UserId == peer.UserId) >= ConnectionsPerUserMax)
            {
                _host.Context.Trace("broker.full", $"user {peer.UserId}", peer.ProcessId);
                _refused.Add(socket);
                return;
            }

            _connections.Add(connection);
        }

        socket.TakeDescriptors();
        connection.Start();
    }

    private void Remove(BrokerConnection connection)
    {
        lock (_connections)
        {
            _connections.Remove(connection);
        }
    }
}
