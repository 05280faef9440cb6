using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Devmem;

// Control messages as recvmsg(2) leaves them: each on eight bytes, its length without the padding behind it. The kernel
// is not doubted; but a length that does not fit ends the reading, so that what is read is never beyond what came.

/// <summary>Reads control messages of sockets whose payload is in a dma-buf.</summary>
internal static class DevmemControl
{
    private const int Alignment = 8; // CMSG_ALIGN: sizeof(long), and .NET's Linux is 64-bit

    /// <summary>Room that the kernel takes for one description (<c>CMSG_SPACE</c>).</summary>
    public static int PieceSpace => Align(Unsafe.SizeOf<cmsghdr>() + Unsafe.SizeOf<dmabuf_cmsg>());

    /// <summary>Descriptions of pieces (<c>SCM_DEVMEM_*</c>), in order; other messages are passed over.</summary>
    /// <returns>How many; the room ends the reading.</returns>
    public static int ReadPieces(ReadOnlySpan<byte> control, Span<DevmemPiece> pieces)
    {
        int count = 0;
        while (count < pieces.Length && TryRead(ref control, out cmsghdr header, out ReadOnlySpan<byte> body))
        {
            bool isLinear = header.cmsg_type == socket_devmem.SCM_DEVMEM_LINEAR;
            if (header.cmsg_level == socket.SOL_SOCKET
                && (isLinear || header.cmsg_type == socket_devmem.SCM_DEVMEM_DMABUF)
                && MemoryMarshal.TryRead(body, out dmabuf_cmsg piece))
            {
                pieces[count++] = new DevmemPiece(
                    isLinear, piece.frag_offset, piece.frag_size, piece.frag_token, piece.dmabuf_id);
            }
        }

        return count;
    }

    /// <summary>Which sends are done with their memory, of a message of the error queue.</summary>
    /// <returns>False when the message says something else.</returns>
    public static bool TryReadCompletion(ReadOnlySpan<byte> control, out DevmemCompletion completion)
    {
        while (TryRead(ref control, out cmsghdr header, out ReadOnlySpan<byte> body))
        {
            bool isError = (header.cmsg_level, header.cmsg_type) is
                (@in.IPPROTO_IP, @in.IP_RECVERR) or (@in.IPPROTO_IPV6, in6.IPV6_RECVERR);
            if (isError
                && MemoryMarshal.TryRead(body, out sock_extended_err error)
                && error is { ee_origin: errqueue.SO_EE_ORIGIN_ZEROCOPY, ee_errno: 0 })
            {
                bool wasCopied = (error.ee_code & errqueue.SO_EE_CODE_ZEROCOPY_COPIED) != 0;
                completion = new DevmemCompletion(error.ee_info, error.ee_data, wasCopied);
                return true;
            }
        }

        completion = default;
        return false;
    }

    private static bool TryRead(ref ReadOnlySpan<byte> control, out cmsghdr header, out ReadOnlySpan<byte> body)
    {
        body = default;
        int size = Unsafe.SizeOf<cmsghdr>();
        if (!MemoryMarshal.TryRead(control, out header)
            || header.cmsg_len < (nuint)size
            || header.cmsg_len > (nuint)control.Length)
        {
            return false;
        }

        int length = (int)header.cmsg_len;
        body = control[size..length];
        control = control[Math.Min(Align(length), control.Length)..];
        return true;
    }

    private static int Align(int length) => (length + Alignment - 1) & ~(Alignment - 1);
}
