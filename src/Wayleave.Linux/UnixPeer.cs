using System.Net.Sockets;
using System.Runtime.InteropServices;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// Who is at the other end of a connected Unix socket, as the kernel recorded it at connect(2) or listen(2):
/// SO_PEERCRED. The peer cannot forge it; but a process may since have passed its end to another.
/// </summary>
/// <param name="ProcessId">In this process's PID namespace; 0 if the peer is not visible from it.</param>
/// <param name="UserId">Effective user id; the overflow id (65534) if it has no name in this user namespace.</param>
/// <param name="GroupId">Effective group id.</param>
public readonly record struct UnixPeer(int ProcessId, uint UserId, uint GroupId)
{
    /// <exception cref="ArgumentException">
    /// Not a Unix socket, or not a connected one: nobody is at the other end.
    /// </exception>
    public static UnixPeer Of(Socket connected)
    {
        ArgumentNullException.ThrowIfNull(connected);
        if (connected.AddressFamily != AddressFamily.Unix)
        {
            throw new ArgumentException("only a Unix socket knows its peer's user", nameof(connected));
        }

        ucred peer = default;
        Span<byte> bytes = MemoryMarshal.AsBytes(new Span<ucred>(ref peer));
        int length = connected.GetRawSocketOption(socket.SOL_SOCKET, socket.SO_PEERCRED, bytes);
        if (length != bytes.Length || peer.uid == uint.MaxValue)
        {
            // The kernel says pid 0, uid -1.
            throw new ArgumentException("the socket is not connected", nameof(connected));
        }

        return new UnixPeer(peer.pid, peer.uid, peer.gid);
    }

    /// <summary>The user id of <see cref="Of"/>.</summary>
    public static uint GetUid(Socket connected) => Of(connected).UserId;
}
