using System.Globalization;
using System.Net.Sockets;
using Wayleave.Core;

namespace Wayleave.Host.Service;

/// <summary>A Unix socket on which a service manager already listens for this process.</summary>
/// <param name="Descriptor">It listens. The manager keeps its own copy, and the file.</param>
/// <param name="Path">Of its file.</param>
public sealed record ActivatedSocket(int Descriptor, string Path);

/// <summary>
/// The sockets that a service manager hands over, as sd_listen_fds(3) has them: descriptors from 3 on, when
/// <c>LISTEN_PID</c> is this process. So clients may connect before the host has started, and wait. Which is which says
/// its type, whatever the order and the names.
/// </summary>
/// <param name="Control">Of the control interface: a stream; null when none was handed over.</param>
/// <param name="Broker">Of the broker: of whole messages (SOCK_SEQPACKET); null when none was handed over.</param>
public sealed record ActivatedSockets(ActivatedSocket? Control, ActivatedSocket? Broker)
{
    private const int FirstDescriptor = 3;

    /// <summary>What was handed over.</summary>
    /// <param name="environment">Looks a variable up.</param>
    /// <exception cref="WayleaveException">
    /// EINVAL: more than one socket of a kind was handed over, or one that is no listening Unix socket with a file.
    /// </exception>
    public static ActivatedSockets Find(Func<string, string?> environment)
    {
        ArgumentNullException.ThrowIfNull(environment);
        ActivatedSockets found = new(Control: null, Broker: null);
        string ours = Environment.ProcessId.ToString(CultureInfo.InvariantCulture);
        if (environment("LISTEN_PID") != ours || environment("LISTEN_FDS") is not { } text)
        {
            return found;
        }

        if (!int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int count) || count > 2)
        {
            throw Refuse($"LISTEN_FDS={text}", "a host takes one socket for control and one for the broker");
        }

        for (int descriptor = FirstDescriptor; descriptor < FirstDescriptor + count; descriptor++)
        {
            (SocketType type, ActivatedSocket socket) = Look(descriptor);
            bool isControl = type == SocketType.Stream;
            if ((isControl ? found.Control : found.Broker) is { } other)
            {
                throw Refuse($"descriptor {descriptor}", $"it is of the same kind as {other.Path}");
            }

            found = isControl ? found with { Control = socket } : found with { Broker = socket };
        }

        return found;
    }

    private static (SocketType Type, ActivatedSocket Socket) Look(int descriptor)
    {
        string what = $"descriptor {descriptor}";
        try
        {
            // The Socket looks; the descriptor stays open for whoever listens.
            using Socket socket = new(new SafeSocketHandle(descriptor, ownsHandle: false));
            return socket.AddressFamily == AddressFamily.Unix
                && socket.SocketType is SocketType.Stream or SocketType.Seqpacket
                && (int)socket.GetSocketOption(SocketOptionLevel.Socket, SocketOptionName.AcceptConnection)! != 0
                && socket.LocalEndPoint?.ToString() is { Length: > 0 } path && path[0] == '/'
                ? (socket.SocketType, new ActivatedSocket(descriptor, path))
                : throw Refuse(what, "it is no listening Unix socket with a file");
        }
        catch (SocketException e)
        {
            throw Refuse(what, ErrnoMap.FirstLine(e.Message));
        }
    }

    private static WayleaveException Refuse(string what, string reason) => new(
        Errno.EINVAL, $"take {what} from the service manager", reason, "see packaging/systemd for units that fit");
}
