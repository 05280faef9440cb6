using System.Net;
using System.Net.Sockets;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Host.Ethernet;

/// <summary>A TCP port of the kernel.</summary>
internal sealed class LinuxDevmemListener : IDevmemListener
{
    private readonly Socket _socket;

    private LinuxDevmemListener(Socket socket) => _socket = socket;

    public ushort Port => (ushort)((IPEndPoint)_socket.LocalEndPoint!).Port;

    /// <param name="port">0 for one that the kernel chooses.</param>
    /// <param name="address">Null for each address of the machine, IPv4 and IPv6.</param>
    /// <param name="backlog">Connections that wait to be accepted.</param>
    /// <exception cref="WayleaveException">EADDRINUSE, EADDRNOTAVAIL, EACCES.</exception>
    public static LinuxDevmemListener Open(ushort port, IpAddress? address, int backlog)
    {
        IPAddress at = address is { } own ? IPAddress.Parse(own.ToString()) : IPAddress.IPv6Any;
        Socket socket = new(at.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            if (address is null)
            {
                socket.DualMode = true;
            }

            socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.ReuseAddress, true);
            socket.Bind(new IPEndPoint(at, port));
            socket.Listen(backlog);
            return new LinuxDevmemListener(socket);
        }
        catch (SocketException e)
        {
            socket.Dispose();
            throw ErrnoMap.ToException(e, $"listen on TCP port {port} of the kernel");
        }
    }

    public async ValueTask<IDevmemConnection> AcceptAsync(CancellationToken cancellation = default)
    {
        try
        {
            return new LinuxDevmemConnection(await _socket.AcceptAsync(cancellation).ConfigureAwait(false));
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.OperationAborted)
        {
            throw new ObjectDisposedException(nameof(LinuxDevmemListener), e);
        }
        catch (SocketException e)
        {
            throw ErrnoMap.ToException(e, $"accept on TCP port {Port}");
        }
    }

    public void Dispose() => _socket.Dispose();
}
