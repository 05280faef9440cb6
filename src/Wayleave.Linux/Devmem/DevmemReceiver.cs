using System.Net.Sockets;
using System.Runtime.CompilerServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Devmem;

/// <summary>A piece that a read of the kernel's devmem TCP returned (<c>struct dmabuf_cmsg</c>).</summary>
/// <param name="IsLinear">Copied to the caller's memory: it could not be split from its header.</param>
/// <param name="Offset">Of the first byte in the dma-buf; 0 if linear.</param>
/// <param name="LengthBytes">Of the piece.</param>
/// <param name="Token">What is returned for it; 0 if linear.</param>
/// <param name="BindingId">Of the binding; see <see cref="NetdevSocket.BindReceive"/>.</param>
public readonly record struct DevmemPiece(bool IsLinear, ulong Offset, uint LengthBytes, uint Token, uint BindingId);

/// <summary>Tokens that are returned together (<c>struct dmabuf_token</c>).</summary>
public readonly record struct DevmemTokens(uint Start, uint Count);

/// <summary>
/// The kernel's own devmem TCP, data side: reads of a connection whose receive queue is bound
/// (<c>tcp_recvmsg_dmabuf</c>), and the return of what they handed out. Not exercised on hardware.
/// </summary>
public static unsafe class DevmemReceiver
{
    /// <summary>Most ranges of one return (<c>MAX_DONTNEED_TOKENS</c>).</summary>
    public const int RangesMax = 128;

    private const int MSG_SOCK_DEVMEM = 0x2000000; // include/linux/socket.h has it, no header for programs does
    private const int PiecesMax = 64;

    /// <summary>Reads what has come. Never blocks.</summary>
    /// <param name="connection">A connected TCP socket.</param>
    /// <param name="linear">For bytes that are not in the dma-buf.</param>
    /// <param name="pieces">For descriptions, 64 at most in one call.</param>
    /// <param name="bytes">All that came; 0 with Success: the end.</param>
    /// <param name="count">Descriptions; none for bytes of a queue that is not bound.</param>
    /// <returns>EAGAIN; ETOOSMALL: no room for one description; ENODEV: unreadable for another reason.</returns>
    public static Errno TryReceive(
        Socket connection, Span<byte> linear, Span<DevmemPiece> pieces, out int bytes, out int count)
    {
        ArgumentNullException.ThrowIfNull(connection);
        (bytes, count) = (0, 0);
        int room = Math.Min(pieces.Length, PiecesMax);
        int space = DevmemControl.PieceSpace;
        byte* control = stackalloc byte[PiecesMax * space];
        nint received;
        fixed (byte* data = linear)
        {
            iovec part = new() { iov_base = data, iov_len = (nuint)linear.Length };
            msghdr message = new()
            {
                msg_iov = &part,
                msg_iovlen = 1,
                msg_control = control,
                msg_controllen = (nuint)(room * space),
            };
            Errno errno = Receive(connection, &message, out received);
            if (errno != Errno.Success)
            {
                return errno;
            }

            count = DevmemControl.ReadPieces(new ReadOnlySpan<byte>(control, (int)message.msg_controllen), pieces);
        }

        bytes = (int)received;
        return Errno.Success;
    }

    /// <summary>Gives pieces back (<c>SO_DEVMEM_DONTNEED</c>): their chunks may be filled again.</summary>
    /// <param name="connection">The one that handed them out.</param>
    /// <param name="ranges">At most <see cref="RangesMax"/>; the kernel looks at 1024 tokens and stops.</param>
    /// <param name="freed">How many were given back: unknown ones are skipped.</param>
    /// <returns>
    /// EINVAL for too many ranges; ENOPROTOOPT by a kernel without devmem TCP; EBADF for no TCP socket.
    /// </returns>
    public static Errno DontNeed(Socket connection, ReadOnlySpan<DevmemTokens> ranges, out int freed)
    {
        ArgumentNullException.ThrowIfNull(connection);
        freed = 0;
        Span<dmabuf_token> tokens = stackalloc dmabuf_token[RangesMax + 1];
        int length = Math.Min(ranges.Length, tokens.Length); // one too many is the kernel's to refuse
        for (int i = 0; i < length; i++)
        {
            tokens[i] = new dmabuf_token { token_start = ranges[i].Start, token_count = ranges[i].Count };
        }

        using FileDescriptor fd = Borrow(connection);
        fixed (dmabuf_token* data = tokens)
        {
            int result = Libc.setsockopt(
                fd,
                socket.SOL_SOCKET,
                socket_devmem.SO_DEVMEM_DONTNEED,
                data,
                (uint)(length * Unsafe.SizeOf<dmabuf_token>()));
            if (result < 0)
            {
                return (Errno)System.Runtime.InteropServices.Marshal.GetLastPInvokeError();
            }

            freed = result; // positive, unlike any other option's
            GC.KeepAlive(connection);
            return Errno.Success;
        }
    }

    private static Errno Receive(Socket connection, msghdr* message, out nint received)
    {
        using FileDescriptor fd = Borrow(connection);
        using FileDescriptor.Borrowed borrowed = fd.Borrow();
        while (true)
        {
            received = Libc.recvmsg(borrowed.Number, message, MSG_SOCK_DEVMEM | socket.MSG_DONTWAIT);
            Errno errno = received >= 0 ? Errno.Success : LinuxException.LastErrno();
            if (errno != Errno.EINTR)
            {
                GC.KeepAlive(connection);
                return errno;
            }
        }
    }

    // The socket stays the owner; it is kept alive by whoever calls.
    internal static FileDescriptor Borrow(Socket connection) => new((int)connection.Handle, ownsHandle: false);
}
