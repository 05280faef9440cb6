using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Devmem;

// Read first: linux:Documentation/networking/devmem.rst, Documentation/netlink/specs/netdev.yaml, and
// net/core/netdev-genl.c, netdev_nl_bind_rx_doit. A binding is the socket's: closing it unbinds, also when its process
// dies. Not exercised on hardware: no NIC that can do it was at hand; what a kernel refuses was.

/// <summary>
/// The kernel's own devmem TCP, control side: binds a dma-buf to receive queues of a NIC over generic netlink (family
/// netdev, Linux 6.12). Bindings end with this object. One thread at a time.
/// </summary>
public sealed unsafe class NetdevSocket : IDisposable
{
    private const int BufferBytes = 8192;
    private const byte ControlVersion = 2;

    private readonly FileDescriptor _socket;
    private readonly byte[] _buffer = new byte[BufferBytes];
    private readonly ushort _family;
    private uint _sequence;

    private NetdevSocket(FileDescriptor socket)
    {
        _socket = socket;
        (_family, HasReceiveBinding, HasTransmitBinding) = FindFamily();
    }

    /// <summary>Whether the kernel knows bind-rx. Whether a NIC does is said by <see cref="BindReceive"/>.</summary>
    public bool HasReceiveBinding { get; }

    /// <summary>Whether the kernel knows bind-tx; a NIC as above.</summary>
    public bool HasTransmitBinding { get; }

    /// <summary>Needs no privilege: binding to receive does.</summary>
    /// <exception cref="LinuxException">ENOENT: the kernel has no family netdev (Linux 6.3).</exception>
    public static NetdevSocket Open()
    {
        FileDescriptor fd = Libc.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink.NETLINK_GENERIC);
        if (fd.IsInvalid)
        {
            LinuxException.Throw("socket", "AF_NETLINK, NETLINK_GENERIC");
        }

        try
        {
            int one = 1;
            foreach (int option in (ReadOnlySpan<int>)[netlink.NETLINK_CAP_ACK, netlink.NETLINK_EXT_ACK])
            {
                if (Libc.setsockopt(fd, socket.SOL_NETLINK, option, &one, sizeof(int)) < 0)
                {
                    LinuxException.Throw("setsockopt", "NETLINK_CAP_ACK, NETLINK_EXT_ACK");
                }
            }

            return new NetdevSocket(fd);
        }
        catch
        {
            fd.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Binds a dma-buf to receive queues (<c>NETDEV_CMD_BIND_RX</c>): payload that is split from its headers lands
    /// there from now on. All queues or none; ends when this object is disposed.
    /// </summary>
    /// <param name="interfaceIndex">Of the NIC, in the network namespace of this socket.</param>
    /// <param name="dmaBuf">Still the caller's; the kernel holds a reference of its own.</param>
    /// <param name="queues">Receive queues by number.</param>
    /// <param name="id">What a reader's descriptions name; 0 after a refusal.</param>
    /// <param name="reason">What the kernel says about a refusal, or null: not every one has words.</param>
    /// <returns>
    /// EPERM without CAP_NET_ADMIN; ENODEV: no such NIC; EOPNOTSUPP: its driver cannot, or the kernel; EINVAL: a queue
    /// that does not exist, header split not on; EEXIST: bound already, or an XDP program; EBUSY: AF_XDP; EBADF; or
    /// what attaching to the buffer failed with.
    /// </returns>
    public Errno BindReceive(
        uint interfaceIndex, FileDescriptor dmaBuf, ReadOnlySpan<uint> queues, out uint id, out string? reason)
    {
        ArgumentNullException.ThrowIfNull(dmaBuf);
        (id, reason) = (0, null);
        if (!HasReceiveBinding)
        {
            reason = "this kernel has no bind-rx (Linux 6.12, CONFIG_NET_DEVMEM)";
            return Errno.EOPNOTSUPP;
        }

        if (queues.Length > NetdevRequests.QueuesMax)
        {
            reason = $"{queues.Length} queues do not fit into one request, {NetdevRequests.QueuesMax} do";
            return Errno.EINVAL;
        }

        using FileDescriptor.Borrowed borrowed = dmaBuf.Borrow();
        return AskForId(
            NetdevRequests.BindReceive(
                _buffer, _family, ++_sequence, interfaceIndex, (uint)borrowed.Number, queues),
            out id,
            out reason);
    }

    /// <summary>
    /// Binds a dma-buf to be sent from by a NIC (<c>NETDEV_CMD_BIND_TX</c>); ends when this object is disposed, and the
    /// memory is let go of when the last of what was sent from it is acknowledged. Needs no privilege.
    /// </summary>
    /// <param name="interfaceIndex">Of the NIC, in the network namespace of this socket.</param>
    /// <param name="dmaBuf">Whole pages; still the caller's, the kernel holds a reference of its own.</param>
    /// <param name="id">What <see cref="DevmemSender.TrySend"/> names; 0 after a refusal.</param>
    /// <param name="reason">As <see cref="BindReceive"/>.</param>
    /// <returns>
    /// ENODEV: no such NIC; EOPNOTSUPP: its driver cannot, or the kernel; EINVAL: not whole pages; EBADF; or what
    /// attaching to the buffer failed with.
    /// </returns>
    public Errno BindTransmit(uint interfaceIndex, FileDescriptor dmaBuf, out uint id, out string? reason)
    {
        ArgumentNullException.ThrowIfNull(dmaBuf);
        (id, reason) = (0, null);
        if (!HasTransmitBinding)
        {
            reason = "this kernel has no bind-tx (Linux 6.16, CONFIG_NET_DEVMEM)";
            return Errno.EOPNOTSUPP;
        }

        using FileDescriptor.Borrowed borrowed = dmaBuf.Borrow();
        return AskForId(
            NetdevRequests.BindTransmit(_buffer, _family, ++_sequence, interfaceIndex, (uint)borrowed.Number),
            out id,
            out reason);
    }

    /// <summary>Why a bind was refused, for people, where the kernel gave no words of its own.</summary>
    public static string DescribeRefusal(Errno errno) => errno switch
    {
        Errno.EPERM => "it needs CAP_NET_ADMIN",
        Errno.ENODEV => "there is no such NIC",
        Errno.EOPNOTSUPP => "its driver has no queues that memory can be bound to",
        Errno.EINVAL => "no such queue, or header split is not on: ethtool -G NIC tcp-data-split on hds-thresh 0",
        Errno.EEXIST => "the queue is bound already, or the NIC runs an XDP program",
        Errno.EBUSY => "AF_XDP has the queue, or it is leased to another interface",
        _ => errno.ToString(),
    };

    /// <summary>Every binding made here ends; chunks that readers hold keep their memory attached.</summary>
    public void Dispose() => _socket.Dispose();

    private delegate void Reader(ReadOnlySpan<byte> attributes);

    private Errno AskForId(ReadOnlySpan<byte> request, out uint id, out string? reason)
    {
        uint bound = 0;
        Errno errno = Ask(request, attributes =>
        {
            while (NetlinkMessage.TryRead(ref attributes, out ushort type, out ReadOnlySpan<byte> value))
            {
                bound = type == netdev.NETDEV_A_DMABUF_ID && MemoryMarshal.TryRead(value, out uint read) ? read : bound;
            }
        }, out reason);
        id = bound;
        return errno;
    }

    private (ushort Family, bool HasBindRx, bool HasBindTx) FindFamily()
    {
        NetlinkMessage message = new(
            _buffer, genetlink.GENL_ID_CTRL, genetlink.CTRL_CMD_GETFAMILY, ControlVersion, ++_sequence);
        message.Add(genetlink.CTRL_ATTR_FAMILY_NAME, "netdev\0"u8);
        ushort family = 0;
        bool hasBindRx = false, hasBindTx = false;
        Errno errno = Ask(message.Bytes, attributes =>
        {
            while (NetlinkMessage.TryRead(ref attributes, out ushort type, out ReadOnlySpan<byte> value))
            {
                bool isNumber = type == genetlink.CTRL_ATTR_FAMILY_ID;
                family = isNumber && MemoryMarshal.TryRead(value, out ushort read) ? read : family;
                hasBindRx |= type == genetlink.CTRL_ATTR_OPS && HasOperation(value, netdev.NETDEV_CMD_BIND_RX);
                hasBindTx |= type == genetlink.CTRL_ATTR_OPS && HasOperation(value, netdev_tx.NETDEV_CMD_BIND_TX);
            }
        }, out _);
        return errno == Errno.Success
            ? (family, hasBindRx, hasBindTx)
            : throw new LinuxException("find the netlink family", "netdev", errno, "Linux 6.3 has it");
    }

    private static bool HasOperation(ReadOnlySpan<byte> operations, uint wanted)
    {
        while (NetlinkMessage.TryRead(ref operations, out _, out ReadOnlySpan<byte> operation))
        {
            while (NetlinkMessage.TryRead(ref operation, out ushort type, out ReadOnlySpan<byte> value))
            {
                if (type == genetlink.CTRL_ATTR_OP_ID
                    && MemoryMarshal.TryRead(value, out uint number)
                    && number == wanted)
                {
                    return true;
                }
            }
        }

        return false;
    }

    // Sends a request, hands its reply to the reader, and ends with the kernel's verdict.
    private Errno Ask(ReadOnlySpan<byte> request, Reader read, out string? reason)
    {
        reason = null;
        if (Transfer(request, isSend: true, out int _) is var sent && sent != Errno.Success)
        {
            return sent;
        }

        Span<byte> buffer = _buffer;
        while (true)
        {
            Errno errno = Transfer(buffer, isSend: false, out int length);
            if (errno != Errno.Success)
            {
                return errno;
            }

            ReadOnlySpan<byte> left = buffer[..length];
            while (MemoryMarshal.TryRead(left, out nlmsghdr header)
                && header.nlmsg_len >= Unsafe.SizeOf<nlmsghdr>()
                && header.nlmsg_len <= left.Length)
            {
                ReadOnlySpan<byte> body = left[Unsafe.SizeOf<nlmsghdr>()..(int)header.nlmsg_len];
                left = left[Math.Min(((int)header.nlmsg_len + 3) & ~3, left.Length)..];
                if (header.nlmsg_seq != _sequence)
                {
                    continue;
                }

                if (header.nlmsg_type is netlink.NLMSG_ERROR or netlink.NLMSG_DONE)
                {
                    reason = ReadReason(header, body);
                    return body.Length >= sizeof(int) ? (Errno)(-MemoryMarshal.Read<int>(body)) : Errno.EPROTO;
                }

                if (body.Length >= Unsafe.SizeOf<genlmsghdr>())
                {
                    read(body[Unsafe.SizeOf<genlmsghdr>()..]);
                }
            }
        }
    }

    // struct nlmsgerr is an int and the header of the request; with NETLINK_CAP_ACK its attributes follow at once.
    private static string? ReadReason(in nlmsghdr header, ReadOnlySpan<byte> body)
    {
        int start = sizeof(int) + Unsafe.SizeOf<nlmsghdr>();
        if ((header.nlmsg_flags & netlink.NLM_F_ACK_TLVS) == 0 || body.Length < start)
        {
            return null;
        }

        ReadOnlySpan<byte> attributes = body[start..];
        while (NetlinkMessage.TryRead(ref attributes, out ushort type, out ReadOnlySpan<byte> value))
        {
            if (type == netlink.NLMSGERR_ATTR_MSG)
            {
                return Encoding.UTF8.GetString(value.TrimEnd((byte)0));
            }
        }

        return null;
    }

    private Errno Transfer(ReadOnlySpan<byte> bytes, bool isSend, out int length)
    {
        using FileDescriptor.Borrowed fd = _socket.Borrow();
        fixed (byte* data = bytes)
        {
            iovec part = new() { iov_base = data, iov_len = (nuint)bytes.Length };
            msghdr message = new() { msg_iov = &part, msg_iovlen = 1 };
            while (true)
            {
                nint count = isSend ? Libc.sendmsg(fd.Number, &message, 0) : Libc.recvmsg(fd.Number, &message, 0);
                length = (int)Math.Max(count, 0);
                Errno errno = count >= 0 ? Errno.Success : LinuxException.LastErrno();
                if (errno != Errno.EINTR)
                {
                    return errno;
                }
            }
        }
    }
}
