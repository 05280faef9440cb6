using System.Net.Sockets;
using System.Runtime.InteropServices;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// When TCP decides that the other end is gone. A process that dies is noticed at once; a machine that dies is not.
/// </summary>
public static class TcpLiveness
{
    /// <summary>
    /// Ends the connection when the other machine has been silent for <paramref name="limit"/>: by probes while nothing
    /// is under way, by TCP_USER_TIMEOUT while sent data is not acknowledged (probes do not run then). Does nothing to
    /// a Unix socket, whose other end cannot go silent.
    /// </summary>
    /// <param name="connected">A connected socket; still the caller's.</param>
    /// <param name="limit">At least three seconds, in whole seconds.</param>
    public static void Limit(Socket connected, TimeSpan limit)
    {
        ArgumentNullException.ThrowIfNull(connected);
        ArgumentOutOfRangeException.ThrowIfLessThan(limit, TimeSpan.FromSeconds(3));
        if (connected.AddressFamily == AddressFamily.Unix)
        {
            return;
        }

        // The kernel's keepalive looks at TCP_USER_TIMEOUT too once it is set, and then not at the count of probes.
        const int Probes = 2;
        int seconds = (int)limit.TotalSeconds;
        connected.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true);
        connected.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveTime, seconds / (Probes + 1));
        connected.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveInterval, seconds / (Probes + 1));
        connected.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveRetryCount, Probes);
        int milliseconds = (int)limit.TotalMilliseconds;
        ReadOnlySpan<byte> value = MemoryMarshal.AsBytes(new ReadOnlySpan<int>(in milliseconds));
        connected.SetRawSocketOption((int)SocketOptionLevel.Tcp, tcp.TCP_USER_TIMEOUT, value);
    }
}
