using System.Globalization;
using System.Net.Sockets;
using Wayleave.Core;

namespace Wayleave.Host.Service;

/// <summary>
/// The Unix socket on which a service manager already listens for this process, as sd_listen_fds(3) hands it over:
/// descriptor 3, when <c>LISTEN_PID</c> is this process. So clients may connect before the host has started, and wait.
/// </summary>
/// <param name="Descriptor">It listens. The manager keeps its own copy, and the file.</param>
/// <param name="Path">Of its file.</param>
public sealed record ActivatedSocket(int Descriptor, string Path)
{
    private const int FirstDescriptor = 3;

    /// <summary>What was handed over; null when nothing was.</summary>
    /// <param name="environment">Looks a variable up.</param>
    /// <exception cref="WayleaveException">
    /// EINVAL: more than one socket was handed over, or one that is no listening Unix stream socket with a file.
    /// </exception>
    public static ActivatedSocket? Find(Func<string, string?> environment)
    {
        ArgumentNullException.ThrowIfNull(environment);
        string ours = Environment.ProcessId.ToString(CultureInfo.InvariantCulture);
        if (environment("LISTEN_PID") != ours || environment("LISTEN_FDS") is not { } count || count == "0")
        {
            return null;
        }

        if (count != "1")
        {
            throw Refuse($"LISTEN_FDS={count}", "a host takes one socket");
        }

        // The Socket looks; the descriptor stays open for whoever listens.
        using Socket socket = new(new SafeSocketHandle(FirstDescriptor, ownsHandle: false));
        try
        {
            return socket.AddressFamily == AddressFamily.Unix && socket.SocketType == SocketType.Stream
                && (int)socket.GetSocketOption(SocketOptionLevel.Socket, SocketOptionName.AcceptConnection)! != 0
                && socket.LocalEndPoint?.ToString() is { Length: > 0 } path && path[0] == '/'
                ? new ActivatedSocket(FirstDescriptor, path)
                : throw Refuse("descriptor 3", "it is no listening Unix stream socket with a file");
        }
        catch (SocketException e)
        {
            throw Refuse("descriptor 3", ErrnoMap.FirstLine(e.Message));
        }
    }

    private static WayleaveException Refuse(string what, string reason) => new(
        Errno.EINVAL, $"take {what} from the service manager", reason, "see packaging/systemd for units that fit");
}
