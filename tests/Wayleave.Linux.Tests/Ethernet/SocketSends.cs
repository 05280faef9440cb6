using System.Net.Sockets;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>Sends that end when everything is on its way.</summary>
internal static class SocketSends
{
    public static void SendAll(this Socket socket, ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            bytes = bytes[socket.Send(bytes)..];
        }
    }
}
