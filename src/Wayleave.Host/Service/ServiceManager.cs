using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using System.Text;
using Wayleave.Core;

namespace Wayleave.Host.Service;

/// <summary>
/// The service manager that started this process, as sd_notify(3) reaches it: datagrams to the socket that
/// <c>NOTIFY_SOCKET</c> names. Without that variable nobody is told anything. Threads may share one. A manager that
/// does not read has a full socket after a few datagrams (unix(7), <c>max_dgram_qlen</c>): who waited for room there
/// would neither serve nor end before it reads again, so nobody does for longer than is said here.
/// </summary>
public sealed class ServiceManager : IDisposable
{
    private const char Abstract = '@';

    private static readonly TimeSpan s_look = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan s_stoppingMax = TimeSpan.FromSeconds(1);

    private readonly Socket? _socket;
    private Timer? _watchdog;
    private volatile bool _isStopping;

    private ServiceManager(Socket? socket, TimeSpan? watchdogInterval) =>
        (_socket, WatchdogInterval) = (socket, watchdogInterval);

    /// <summary>Whether somebody listens.</summary>
    public bool IsPresent => _socket is not null;

    /// <summary>
    /// Half of what the manager allows between two signs of life, as sd_watchdog_enabled(3) advises; null when it wants
    /// none of this process.
    /// </summary>
    public TimeSpan? WatchdogInterval { get; }

    /// <summary>Finds the manager in the environment.</summary>
    /// <param name="environment">Looks a variable up.</param>
    /// <exception cref="WayleaveException">The variable names a socket that is not there; says which.</exception>
    public static ServiceManager Open(Func<string, string?> environment)
    {
        ArgumentNullException.ThrowIfNull(environment);
        string? path = environment("NOTIFY_SOCKET");
        if (string.IsNullOrEmpty(path))
        {
            return new ServiceManager(null, null);
        }

        Socket socket = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified) { Blocking = false };
        try
        {
            string address = path[0] == Abstract ? '\0' + path[1..] : path;
            socket.Connect(new UnixDomainSocketEndPoint(address));
            return new ServiceManager(socket, ReadWatchdog(environment));
        }
        catch (Exception e) when (e is SocketException or ArgumentException)
        {
            socket.Dispose();
            throw new WayleaveException(
                e is SocketException s ? ErrnoMap.ToErrno(s) : Errno.EINVAL,
                $"reach the service manager at NOTIFY_SOCKET={path}",
                ErrnoMap.FirstLine(e.Message),
                "unset the variable when no service manager runs");
        }
    }

    /// <summary>
    /// Everything listens: others may be started that need this. Returns at once; a manager that does not read is told
    /// as soon as it does, on a thread of its own, unless the end has begun.
    /// </summary>
    /// <param name="status">One line for <c>systemctl status</c>.</param>
    public void NotifyReady(string status)
    {
        string message = $"READY=1\nSTATUS={OneLine(status)}";
        if (!Notify(message, patience: TimeSpan.Zero))
        {
            new Thread(() => NotifyLate(message)) { IsBackground = true, Name = "wayleave is ready" }.Start();
        }
    }

    /// <summary>
    /// The end has begun; it may take a while. Waits up to a second for a manager that does not read, and then goes on
    /// without its knowledge.
    /// </summary>
    public void NotifyStopping(string status)
    {
        _isStopping = true;
        Notify($"STOPPING=1\nSTATUS={OneLine(status)}", s_stoppingMax);
    }

    /// <summary>
    /// Gives a sign of life at every <see cref="WatchdogInterval"/> at which <paramref name="probe"/> returns; one that
    /// hangs gives none, and the manager restarts the service. Does nothing without an interval. A sign for which there
    /// is no room is left out: those that lie there unread say the same.
    /// </summary>
    public void StartWatchdog(Action probe)
    {
        ArgumentNullException.ThrowIfNull(probe);
        if (WatchdogInterval is { } interval)
        {
            _watchdog = new Timer(
                _ =>
                {
                    probe();
                    Notify("WATCHDOG=1", patience: TimeSpan.Zero);
                },
                null,
                TimeSpan.Zero,
                interval);
        }
    }

    /// <summary>Tells nothing from now on.</summary>
    public void Dispose()
    {
        _isStopping = true;
        _watchdog?.Dispose();
        _socket?.Dispose();
    }

    private static TimeSpan? ReadWatchdog(Func<string, string?> environment)
    {
        string? process = environment("WATCHDOG_PID"); // a child inherits the variables of its parent
        bool isOurs = process is null
            || process == Environment.ProcessId.ToString(CultureInfo.InvariantCulture);
        return isOurs
            && long.TryParse(
                environment("WATCHDOG_USEC"), NumberStyles.None, CultureInfo.InvariantCulture, out long microseconds)
            && microseconds > 0
            ? TimeSpan.FromMicroseconds(microseconds / 2.0)
            : null;
    }

    private static string OneLine(string text) => text.ReplaceLineEndings(" ");

    private void NotifyLate(string message)
    {
        while (!_isStopping && !Notify(message, s_look))
        {
        }
    }

    // False when there was no room for so long.
    private bool Notify(string message, TimeSpan patience)
    {
        if (_socket is null)
        {
            return true;
        }

        byte[] datagram = Encoding.UTF8.GetBytes(message);
        long start = Stopwatch.GetTimestamp();
        try
        {
            while (!TrySend(_socket, datagram))
            {
                TimeSpan left = patience - Stopwatch.GetElapsedTime(start);
                if (left <= TimeSpan.Zero)
                {
                    return false;
                }

                _socket.Poll(left, SelectMode.SelectWrite); // others notify there too, and may take the room first
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // A manager that has gone wants to know nothing, and a service goes on without one.
        }

        return true;
    }

    // False when there is no room.
    private static bool TrySend(Socket socket, byte[] datagram)
    {
        try
        {
            socket.Send(datagram);
            return true;
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.WouldBlock)
        {
            return false;
        }
    }
}
