using System.Net.Sockets;
using System.Runtime.CompilerServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Devmem;

/// <summary>Sends that are done with their memory: the peer has acknowledged them (<c>MSG_ERRQUEUE</c>).</summary>
/// <param name="First">Of the first of them, counted from 0 for each connection; wraps.</param>
/// <param name="Last">Of the last, itself among them.</param>
/// <param name="WasCopied">The kernel copied what it sent, which it cannot do with a dma-buf.</param>
public readonly record struct DevmemCompletion(uint First, uint Last, bool WasCopied);

/// <summary>
/// The kernel's own devmem TCP, transmit side: sends of ranges of a dma-buf that is bound to the NIC that the
/// connection leaves by (<c>tcp_sendmsg_locked</c>, Linux 6.16). Not exercised on hardware.
/// </summary>
public static unsafe class DevmemSender
{
    private const int ControlBytes = 256;

    /// <summary>Sends by reference are allowed from now on (<c>SO_ZEROCOPY</c>).</summary>
    /// <param name="connection">A TCP socket.</param>
    public static Errno Enable(Socket connection)
    {
        ArgumentNullException.ThrowIfNull(connection);
        using FileDescriptor fd = DevmemReceiver.Borrow(connection);
        int one = 1;
        int result = Libc.setsockopt(fd, socket.SOL_SOCKET, socket.SO_ZEROCOPY, &one, sizeof(int));
        Errno errno = result < 0 ? (Errno)System.Runtime.InteropServices.Marshal.GetLastPInvokeError() : Errno.Success;
        GC.KeepAlive(connection);
        return errno;
    }

    /// <summary>Sends a range. Never blocks; the range is the kernel's until its completion was read.</summary>
    /// <param name="connection">Connected, and <see cref="Enable"/>d.</param>
    /// <param name="bindingId">As <see cref="NetdevSocket.BindTransmit"/> gave it.</param>
    /// <param name="offset">Of the first byte in the dma-buf.</param>
    /// <param name="lengthBytes">Positive.</param>
    /// <param name="sent">How many of them are on their way; each success is one number of a completion.</param>
    /// <returns>
    /// EAGAIN; EINVAL: no such binding, one for receiving, or not enabled; EFAULT: beyond the end; ENODEV: the
    /// connection leaves by another NIC than the bound one; EHOSTUNREACH; EPIPE, ECONNRESET.
    /// </returns>
    public static Errno TrySend(
        Socket connection, uint bindingId, ulong offset, uint lengthBytes, out int sent)
    {
        ArgumentNullException.ThrowIfNull(connection);
        int length = Unsafe.SizeOf<cmsghdr>() + sizeof(uint);
        byte* control = stackalloc byte[(length + 7) & ~7];
        *(cmsghdr*)control = new cmsghdr
        {
            cmsg_len = (nuint)length,
            cmsg_level = socket.SOL_SOCKET,
            cmsg_type = socket_devmem.SCM_DEVMEM_DMABUF,
        };
        *(uint*)(control + sizeof(cmsghdr)) = bindingId;
        iovec part = new() { iov_base = (void*)offset, iov_len = lengthBytes }; // an offset, and no address
        msghdr message = new()
        {
            msg_iov = &part,
            msg_iovlen = 1,
            msg_control = control,
            msg_controllen = (nuint)((length + 7) & ~7),
        };
        const int Flags = socket.MSG_ZEROCOPY | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL;
        using FileDescriptor fd = DevmemReceiver.Borrow(connection);
        using FileDescriptor.Borrowed borrowed = fd.Borrow();
        while (true)
        {
            nint count = Libc.sendmsg(borrowed.Number, &message, Flags);
            Errno errno = count >= 0 ? Errno.Success : LinuxException.LastErrno();
            if (errno != Errno.EINTR)
            {
                sent = (int)Math.Max(count, 0);
                GC.KeepAlive(connection);
                return errno;
            }
        }
    }

    /// <summary>Sends that are done, in order of their numbers. Never blocks.</summary>
    /// <returns>EAGAIN when there is none.</returns>
    public static Errno TryReadCompletion(Socket connection, out DevmemCompletion completion)
    {
        ArgumentNullException.ThrowIfNull(connection);
        completion = default;
        byte* control = stackalloc byte[ControlBytes];
        using FileDescriptor fd = DevmemReceiver.Borrow(connection);
        using FileDescriptor.Borrowed borrowed = fd.Borrow();
        while (true)
        {
            msghdr message = new() { msg_control = control, msg_controllen = ControlBytes };
            nint count = Libc.recvmsg(borrowed.Number, &message, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT);
            Errno errno = count >= 0 ? Errno.Success : LinuxException.LastErrno();
            if (errno == Errno.EINTR)
            {
                continue;
            }

            GC.KeepAlive(connection);
            if (errno != Errno.Success
                || DevmemControl.TryReadCompletion(new(control, (int)message.msg_controllen), out completion))
            {
                return errno;
            }
        }
    }
}
