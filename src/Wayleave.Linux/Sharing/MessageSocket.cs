using System.Diagnostics;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Sharing;

/// <summary>
/// A connected Unix socket of whole messages (SOCK_SEQPACKET) that also carries descriptors (SCM_RIGHTS). One thread
/// receives, any may send.
/// </summary>
/// <param name="socket">Connected, blocking; owned by this object.</param>
public sealed unsafe class MessageSocket(Socket socket) : IDisposable
{
    /// <summary>Descriptors of one message, at most.</summary>
    public const int DescriptorsMax = 16;

    // A look costs about 400 ns, and to give way costs as much when nobody wants the processor. If somebody does it may
    // be the other end, which answers the sooner: with 16 looks before it, two ends on one processor took twice as
    // long.
    private const int LooksBeforeYield = 2;
    private const int LooksPerLookAtClock = 8;

    // One header and its numbers, as CMSG_SPACE has it: both are multiples of what the kernel aligns to.
    private static readonly int s_headerBytes = sizeof(cmsghdr);

    /// <summary>A socket that <see cref="Listen"/> or <see cref="Connect"/> can use.</summary>
    private static Socket NewSocket() => new(AddressFamily.Unix, SocketType.Seqpacket, ProtocolType.Unspecified);

    /// <summary>Who is at the other end.</summary>
    public UnixPeer Peer => UnixPeer.Of(socket);

    /// <summary>
    /// Who is at the other end, as a hold on the process that connected. The caller's.
    /// </summary>
    /// <exception cref="LinuxException">ESRCH: it has ended. EMFILE.</exception>
    public PidFd OpenPeer() => PidFd.OfPeer(socket);

    /// <summary>
    /// How long <see cref="Receive"/> waits for a message, after which it says EAGAIN; zero for as long as it takes.
    /// </summary>
    public TimeSpan ReceiveTimeout
    {
        set => socket.ReceiveTimeout = (int)value.TotalMilliseconds;
    }

    /// <summary>Listens at a path that nobody has; whoever accepts wraps what comes.</summary>
    /// <param name="path">Of the socket.</param>
    /// <param name="backlog">As of listen(2).</param>
    /// <param name="takesDescriptors">
    /// False for a server that wants none from whom it does not know: they are refused to the sender (EPERM) until
    /// <see cref="TakeDescriptors"/>, also before the connection is accepted. Before Linux 6.16 they arrive all the
    /// same.
    /// </param>
    /// <exception cref="SocketException">The path is taken, or its folder cannot be written.</exception>
    public static Socket Listen(string path, int backlog, bool takesDescriptors = true)
    {
        Socket listener = NewSocket();
        try
        {
            if (!takesDescriptors)
            {
                PassRights(listener, isOn: 0);
            }

            listener.Bind(new UnixDomainSocketEndPoint(path));
            listener.Listen(backlog);
            return listener;
        }
        catch
        {
            listener.Dispose();
            throw;
        }
    }

    /// <summary>
    /// A socket that listens already, of a service manager: as <see cref="Listen"/> makes one that takes no
    /// descriptors.
    /// </summary>
    /// <param name="descriptor">Becomes the result's.</param>
    public static Socket Listening(int descriptor)
    {
        Socket listener = new(new SafeSocketHandle(descriptor, ownsHandle: true));
        PassRights(listener, isOn: 0);
        return listener;
    }

    /// <summary>Waits until somebody has connected, or until <paramref name="wake"/> is signalled.</summary>
    /// <returns>Whether there is somebody to accept.</returns>
    public static bool WaitToAccept(Socket listener, EventFd wake)
    {
        ArgumentNullException.ThrowIfNull(listener);
        return WaitForInput(listener, wake);
    }

    /// <exception cref="SocketException">Nobody listens there, or this user may not connect.</exception>
    public static MessageSocket Connect(string path)
    {
        Socket connected = NewSocket();
        try
        {
            connected.Connect(new UnixDomainSocketEndPoint(path));
            return new MessageSocket(connected);
        }
        catch
        {
            connected.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Descriptors may be sent to this end from now on, if it comes from a listener that took none.
    /// </summary>
    public void TakeDescriptors() => PassRights(socket, isOn: 1);

    /// <summary>Sends one message, and copies of descriptors, which stay the caller's.</summary>
    /// <param name="message">Not empty.</param>
    /// <param name="descriptors">At most <see cref="DescriptorsMax"/>.</param>
    /// <param name="waits">Whether to wait for room; otherwise EAGAIN when the other end does not read.</param>
    /// <returns>EPIPE or ECONNRESET when the other end is gone.</returns>
    public Errno Send(ReadOnlySpan<byte> message, ReadOnlySpan<FileDescriptor> descriptors, bool waits = true)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(descriptors.Length, DescriptorsMax);
        byte* control = stackalloc byte[s_headerBytes + (DescriptorsMax * sizeof(int))];
        int* numbers = (int*)(control + s_headerBytes);
        int held = 0;
        try
        {
            foreach (FileDescriptor descriptor in descriptors)
            {
                bool added = false;
                descriptor.DangerousAddRef(ref added);
                numbers[held++] = (int)descriptor.DangerousGetHandle();
            }

            cmsghdr* header = (cmsghdr*)control;
            *header = new cmsghdr
            {
                cmsg_len = (nuint)(s_headerBytes + (held * sizeof(int))),
                cmsg_level = Interop.socket.SOL_SOCKET,
                cmsg_type = Interop.socket.SCM_RIGHTS,
            };
            fixed (byte* bytes = message)
            {
                iovec part = new() { iov_base = bytes, iov_len = (nuint)message.Length };
                msghdr sent = new()
                {
                    msg_iov = &part,
                    msg_iovlen = 1,
                    msg_control = held == 0 ? null : control,
                    msg_controllen = held == 0 ? 0 : Align(header->cmsg_len),
                };
                int flags = Interop.socket.MSG_NOSIGNAL | (waits ? 0 : Interop.socket.MSG_DONTWAIT);
                return Call(isSend: true, &sent, flags, out _);
            }
        }
        finally
        {
            for (int i = 0; i < held; i++)
            {
                descriptors[i].DangerousRelease();
            }
        }
    }

    /// <summary>Waits for one message.</summary>
    /// <param name="buffer">Longer than any message may be.</param>
    /// <param name="length">Bytes of it; 0 when the other end has closed.</param>
    /// <param name="descriptors">What came with it; the caller's.</param>
    /// <param name="spin">
    /// For so long it looks again and again, and only then sleeps: to be woken takes longer than many an answer. On a
    /// machine with one processor it sleeps at once.
    /// </param>
    /// <returns>EMSGSIZE for a message that is too long or has too many descriptors: all of it is dropped.</returns>
    public Errno Receive(
        Span<byte> buffer, out int length, out FileDescriptor[] descriptors, TimeSpan spin = default)
    {
        byte* control = stackalloc byte[s_headerBytes + (DescriptorsMax * sizeof(int))];
        descriptors = [];
        fixed (byte* bytes = buffer)
        {
            iovec part = new() { iov_base = bytes, iov_len = (nuint)buffer.Length };
            msghdr received = new()
            {
                msg_iov = &part,
                msg_iovlen = 1,
                msg_control = control,
                msg_controllen = (nuint)(s_headerBytes + (DescriptorsMax * sizeof(int))),
            };
            Errno errno = Errno.EAGAIN;
            nint count = 0;
            if (spin > TimeSpan.Zero && Environment.ProcessorCount > 1)
            {
                errno = Look(&received, spin, out count);
            }

            if (errno == Errno.EAGAIN)
            {
                errno = Call(isSend: false, &received, Interop.socket.MSG_CMSG_CLOEXEC, out count);
            }

            length = (int)count;
            if (errno != Errno.Success)
            {
                return errno;
            }

            descriptors = Take((cmsghdr*)control, received.msg_controllen);
            if ((received.msg_flags & (Interop.socket.MSG_TRUNC | Interop.socket.MSG_CTRUNC)) == 0)
            {
                return Errno.Success;
            }

            foreach (FileDescriptor descriptor in descriptors)
            {
                descriptor.Dispose();
            }

            descriptors = [];
            return Errno.EMSGSIZE;
        }
    }

    /// <summary>
    /// Waits until <see cref="Receive"/> would not wait, or until <paramref name="wake"/> is signalled.
    /// </summary>
    /// <returns>Whether there is something to receive; the end of the connection is.</returns>
    public bool WaitToReceive(EventFd wake) => WaitForInput(socket, wake);

    private static bool WaitForInput(Socket of, EventFd wake)
    {
        ArgumentNullException.ThrowIfNull(wake);
        bool added = false;
        SafeSocketHandle handle = of.SafeHandle;
        try
        {
            handle.DangerousAddRef(ref added);
            using FileDescriptor descriptor = new((int)handle.DangerousGetHandle(), ownsHandle: false);
            while (DescriptorPoll.WaitForEither(descriptor, wake.Descriptor) != Errno.Success)
            {
                // A signal handler ran.
            }

            return DescriptorPoll.Wait(descriptor, poll.POLLIN, TimeSpan.Zero, out short seen) == Errno.Success
                && seen != 0;
        }
        finally
        {
            if (added)
            {
                handle.DangerousRelease();
            }
        }
    }

    /// <summary>Watches for the end of the connection.</summary>
    /// <exception cref="ObjectDisposedException">It has been closed here.</exception>
    public void AddHangupTo(DescriptorWatch watch, ulong key)
    {
        ArgumentNullException.ThrowIfNull(watch);
        bool added = false;
        SafeSocketHandle handle = socket.SafeHandle;
        try
        {
            handle.DangerousAddRef(ref added);
            watch.AddHangup(key, (int)handle.DangerousGetHandle());
        }
        finally
        {
            if (added)
            {
                handle.DangerousRelease();
            }
        }
    }

    /// <summary>Both ends see the end of the connection, also a thread that receives here.</summary>
    public void Shutdown()
    {
        try
        {
            socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // The other end has closed before.
        }
    }

    public void Dispose() => socket.Dispose();

    // A kernel that does not know the option lets everything through.
    private static void PassRights(Socket of, int isOn)
    {
        bool added = false;
        try
        {
            of.SafeHandle.DangerousAddRef(ref added);
            using FileDescriptor descriptor = new((int)of.SafeHandle.DangerousGetHandle(), ownsHandle: false);
            _ = Libc.setsockopt(
                descriptor, Interop.socket.SOL_SOCKET, socket_passrights.SO_PASSRIGHTS, &isOn, sizeof(int));
        }
        finally
        {
            if (added)
            {
                of.SafeHandle.DangerousRelease();
            }
        }
    }

    private static FileDescriptor[] Take(cmsghdr* header, nuint controlBytes)
    {
        if (controlBytes < (nuint)s_headerBytes || header->cmsg_level != Interop.socket.SOL_SOCKET
            || header->cmsg_type != Interop.socket.SCM_RIGHTS)
        {
            return [];
        }

        int count = (int)((header->cmsg_len - (nuint)s_headerBytes) / sizeof(int));
        int* numbers = (int*)((byte*)header + s_headerBytes);
        FileDescriptor[] taken = new FileDescriptor[count];
        for (int i = 0; i < count; i++)
        {
            taken[i] = new FileDescriptor(numbers[i], ownsHandle: true);
        }

        return taken;
    }

    private static nuint Align(nuint length) => (length + (nuint)sizeof(nuint) - 1) & ~((nuint)sizeof(nuint) - 1);

    // EAGAIN when nothing has come.
    private Errno Look(msghdr* received, TimeSpan spin, out nint count)
    {
        const int Flags = Interop.socket.MSG_CMSG_CLOEXEC | Interop.socket.MSG_DONTWAIT;
        long start = Stopwatch.GetTimestamp();
        for (int looks = 1; ; looks++)
        {
            Errno errno = Call(isSend: false, received, Flags, out count);
            if (errno != Errno.EAGAIN
                || (looks % LooksPerLookAtClock == 0 && Stopwatch.GetElapsedTime(start) >= spin))
            {
                return errno;
            }

            if (looks > LooksBeforeYield)
            {
                Thread.Yield();
            }
        }
    }

    private Errno Call(bool isSend, msghdr* message, int flags, out nint count)
    {
        SafeSocketHandle handle = socket.SafeHandle;
        bool added = false;
        count = 0;
        try
        {
            handle.DangerousAddRef(ref added);
            while (true)
            {
                int number = (int)handle.DangerousGetHandle();
                count = isSend ? Libc.sendmsg(number, message, flags) : Libc.recvmsg(number, message, flags);
                if (count >= 0)
                {
                    return Errno.Success;
                }

                Errno errno = LinuxException.LastErrno();
                if (errno != Errno.EINTR)
                {
                    count = 0;
                    return errno;
                }
            }
        }
        catch (ObjectDisposedException)
        {
            return Errno.ECONNRESET;
        }
        finally
        {
            if (added)
            {
                handle.DangerousRelease();
            }
        }
    }
}
