using System.Runtime.CompilerServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;
using Wayleave.Linux.Sharing;

namespace Wayleave.Linux;

// Read first: udp(7) on UDP_SEGMENT and UDP_GRO, ip(7) on IP_MTU_DISCOVER, and linux:net/ipv4/udp.c udp_send_skb().
//
// One system call carries up to 64 KiB: the sender gives the stack one buffer and a segment size, and the stack cuts it
// into datagrams as late as it can (on the loopback: never); the receiver gets neighbouring datagrams of one sender
// back in one piece. UdpSocketSetup says why the socket is as it is.

/// <summary>
/// A UDP socket bound to one explicit address, for wire protocols in user space: super-packets both ways, known IPv4
/// identification, no allocation per call.
/// </summary>
/// <remarks>
/// All members may be called by any thread, but only one thread at a time may be in <see cref="Wait"/> or
/// <see cref="WaitForSendRoom"/>. Message headers live on the caller's stack, so sending and receiving share nothing.
/// </remarks>
public sealed unsafe class UdpEndpoint : IDisposable
{
    /// <summary>A receive buffer of this size never truncates.</summary>
    public const int SuperPacketBytesMax = 65_535;

    /// <summary>How many sockets <see cref="WaitAny"/> watches at most.</summary>
    public const int WaitMax = WakeEvent.SleepDescriptorsMax;

    /// <summary>How many super-packets one call sends at most.</summary>
    public const int SendBatchMax = 4;

    // struct cmsghdr is followed by its data and padded to eight bytes (CMSG_LEN, CMSG_SPACE).
    private const int SegmentControlBytes = 18;
    private const int HopControlBytes = 20;

    // Data of a plain send lies behind the headers in one piece of memory, rounded up to a power of two: the receiver
    // is charged 8 KiB for 4. With a segment size it lies in page fragments, charged by the byte.
    private const int PlainSendBytesMax = 192;

    private readonly FileDescriptor _socket;
    private readonly WakeEvent _wake = new();
    private readonly uint _scopeId;

    private UdpEndpoint(FileDescriptor socket, EndpointAddress localAddress, UdpEndpointOptions options) =>
        (_socket, LocalAddress, Options, _scopeId) = (socket, localAddress, options, options.ScopeId);

    /// <summary>
    /// How many segments a super-packet may have: 128, or 64 on kernels before 6.8 (<c>UDP_MAX_SEGMENTS</c>); 1 without
    /// support.
    /// </summary>
    public static int SegmentsMax => Support.UdpSegmentsMax;

    /// <summary>The bound address, with the port that the kernel chose if 0 was asked for.</summary>
    public EndpointAddress LocalAddress { get; }

    /// <summary>
    /// The receive buffer in force, as the kernel accounts it: each datagram is charged with its slack and headers, so
    /// that less than half of it is payload when datagrams are small.
    /// </summary>
    public int ReceiveBufferBytes => GetOption(socket.SO_RCVBUF, "SO_RCVBUF");

    /// <summary>The send buffer in force, accounted in the same way.</summary>
    public int SendBufferBytes => GetOption(socket.SO_SNDBUF, "SO_SNDBUF");

    /// <summary>Opens and binds a socket.</summary>
    /// <param name="local">An address of this network namespace, not a wildcard; port 0 lets the kernel choose.</param>
    /// <param name="options">Null for the defaults.</param>
    /// <exception cref="ArgumentException">
    /// A wildcard address (it cannot be part of a checksum), or bad options.
    /// </exception>
    /// <exception cref="LinuxException">
    /// EADDRINUSE with the likely owner, EADDRNOTAVAIL, EACCES for a port below ip_unprivileged_port_start, or EMFILE.
    /// </exception>
    public static UdpEndpoint Bind(EndpointAddress local, UdpEndpointOptions? options = null)
    {
        options ??= new UdpEndpointOptions();
        options.Validate();
        if (local.IsWildcard)
        {
            throw new ArgumentException($"{local} is a wildcard; bind an explicit address", nameof(local));
        }

        FileDescriptor fd = UdpSocketSetup.Open(local, options, out EndpointAddress bound);
        return new UdpEndpoint(fd, bound, options);
    }

    /// <summary>
    /// Sends datagrams of <paramref name="segmentBytes"/> each, the last one possibly shorter, by one call; all or
    /// none. In IPv4, datagram i has identification i and the don't-fragment bit. The bytes are copied; the caller may
    /// reuse them at once.
    /// </summary>
    /// <param name="destination">Of the same IP version as <see cref="LocalAddress"/>.</param>
    /// <param name="bytes">UDP payloads, one behind the other, 65,507 bytes at most (IPv6: 65,527).</param>
    /// <param name="segmentBytes">Payload of each datagram; at most <see cref="SegmentsMax"/> of them.</param>
    /// <returns>
    /// EAGAIN: the send buffer is full, see <see cref="WaitForSendRoom"/>. EMSGSIZE: a datagram is larger than the path
    /// MTU, or all together larger than 64 KiB. EINVAL: too many segments. EAFNOSUPPORT: the other IP version.
    /// ENETUNREACH and others from the route. Nothing was sent in each of these cases.
    /// </returns>
    [SkipLocalsInit]
    public Errno TrySend(in EndpointAddress destination, ReadOnlySpan<byte> bytes, int segmentBytes)
    {
        Errno refusal = Check(destination, bytes.Length, segmentBytes);
        if (refusal != Errno.Success)
        {
            return refusal;
        }

        SendSlot slot;
        msghdr message;
        using FileDescriptor.Borrowed fd = _socket.Borrow();
        fixed (byte* data = bytes)
        {
            Prepare(&message, &slot, destination, data, bytes.Length, segmentBytes, hopLimit: 0);
            while (Libc.sendmsg(fd.Number, &message, socket.MSG_DONTWAIT) < 0)
            {
                Errno errno = LinuxException.LastErrno();
                if (errno != Errno.EINTR)
                {
                    return errno;
                }
            }
        }

        return Errno.Success;
    }

    /// <summary>
    /// Sends super-packets by one system call, in order, until one is refused; each as by <see cref="TrySend(in
    /// EndpointAddress, ReadOnlySpan{byte}, int)"/>.
    /// </summary>
    /// <param name="batch">At most <see cref="SendBatchMax"/>; their destinations may differ.</param>
    /// <param name="bytes">What their offsets count in.</param>
    /// <param name="sent">How many the kernel has taken, from the first on.</param>
    /// <returns>
    /// Success when all were taken; otherwise why the one behind those that were sent was not. Nothing of it, or of
    /// those behind it, was sent.
    /// </returns>
    /// <exception cref="ArgumentOutOfRangeException">
    /// Too many, a segment size that is not positive, or a super-packet outside <paramref name="bytes"/>.
    /// </exception>
    [SkipLocalsInit]
    public Errno TrySend(ReadOnlySpan<UdpSuperPacket> batch, ReadOnlySpan<byte> bytes, out int sent)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(batch.Length, SendBatchMax, nameof(batch));
        sent = 0;
        Errno refusal = Errno.Success; // of the first that the kernel is not even asked about
        SendSlot* slots = stackalloc SendSlot[SendBatchMax];
        mmsghdr* messages = stackalloc mmsghdr[SendBatchMax];
        using FileDescriptor.Borrowed fd = _socket.Borrow();
        fixed (byte* data = bytes)
        {
            int count = 0;
            for (; count < batch.Length; count++)
            {
                ref readonly UdpSuperPacket packet = ref batch[count];
                _ = bytes.Slice(packet.OffsetBytes, packet.LengthBytes);
                refusal = Check(packet.Destination, packet.LengthBytes, packet.SegmentBytes);
                if (refusal != Errno.Success)
                {
                    break;
                }

                Prepare(
                    &messages[count].msg_hdr,
                    &slots[count],
                    packet.Destination,
                    data + packet.OffsetBytes,
                    packet.LengthBytes,
                    packet.SegmentBytes,
                    packet.HopLimit);
            }

            // A call that stops half-way says how many it took, and only the next one why.
            while (sent < count)
            {
                int taken = Libc.sendmmsg(fd.Number, messages + sent, (uint)(count - sent), socket.MSG_DONTWAIT);
                if (taken >= 0)
                {
                    sent += taken;
                    continue;
                }

                Errno errno = LinuxException.LastErrno();
                if (errno != Errno.EINTR)
                {
                    return errno;
                }
            }
        }

        return refusal;
    }

    /// <summary>
    /// Receives one datagram, or several of one sender that the kernel kept together: all of <paramref
    /// name="segmentBytes"/> but the last, which may be shorter. Never blocks.
    /// </summary>
    /// <param name="buffer">At least <see cref="SuperPacketBytesMax"/> bytes to be sure that everything fits.</param>
    /// <param name="length">Bytes received; 0 for an empty datagram and on failure.</param>
    /// <param name="segmentBytes">Payload of each datagram; equals <paramref name="length"/> for a single one.</param>
    /// <param name="source">Where it came from.</param>
    /// <param name="trafficClass">TOS or traffic class as received: ECN in the lower two bits.</param>
    /// <returns>
    /// EAGAIN: nothing is there. EMSGSIZE: the buffer was too small, and what was received is lost. Others come from
    /// the socket, such as ENETDOWN.
    /// </returns>
    public Errno TryReceive(
        Span<byte> buffer, out int length, out int segmentBytes, out EndpointAddress source, out byte trafficClass) =>
        UdpReceiving.TryReceive(_socket, buffer, out length, out segmentBytes, out source, out trafficClass);

    /// <summary>
    /// Sleeps until a datagram is there, until <see cref="Wake"/>, or until the time is up. A wake that came before is
    /// not lost.
    /// </summary>
    /// <param name="timeout">Relative, nanosecond resolution, or <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <returns>
    /// True: look for datagrams, for work and at the clock, there may be something (a signal handler also ends the
    /// sleep). False: the time is up.
    /// </returns>
    public bool Wait(TimeSpan timeout) => Sleep(timeout, poll.POLLIN);

    /// <summary>As <see cref="Wait"/>, and also ends when the send buffer has room again after an EAGAIN.</summary>
    public bool WaitForSendRoom(TimeSpan timeout) => Sleep(timeout, poll.POLLIN | poll.POLLOUT);

    /// <summary>As <see cref="Wait"/>, but datagrams do not end it: somebody else takes care of them.</summary>
    public bool WaitForWake(TimeSpan timeout) => Sleep(timeout, events: 0);

    /// <summary>
    /// As <see cref="Wait"/>, for several sockets, at most <see cref="WaitMax"/>: until a datagram is at any of them,
    /// or until <see cref="Wake"/> of the first.
    /// </summary>
    /// <param name="endpoints">At least one. One thread at a time.</param>
    /// <param name="timeout">As <see cref="Wait"/>.</param>
    /// <param name="full">
    /// The one whose send buffer was full: room there ends the sleep too. Negative for none.
    /// </param>
    /// <param name="others">
    /// Whatever this watch finds ends the sleep too, and is not taken; it counts as one more socket.
    /// </param>
    public static bool WaitAny(
        ReadOnlySpan<UdpEndpoint> endpoints, TimeSpan timeout, int full = -1, DescriptorWatch? others = null)
    {
        int count = endpoints.Length + (others is null ? 0 : 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, WaitMax, nameof(endpoints));
        Descriptors held = default;
        Span<FileDescriptor> descriptors = held;
        Span<short> events = stackalloc short[WaitMax];
        for (int i = 0; i < endpoints.Length; i++)
        {
            descriptors[i] = endpoints[i]._socket;
            events[i] = (short)(poll.POLLIN | (i == full ? poll.POLLOUT : 0));
        }

        if (others is not null)
        {
            descriptors[count - 1] = others.Descriptor;
            events[count - 1] = poll.POLLIN;
        }

        UdpEndpoint first = endpoints[0];
        Errno errno = first._wake.Sleep(descriptors[..count], events[..count], timeout, out bool isOver);
        return errno == Errno.Success
            ? isOver
            : throw new LinuxException("ppoll", first.LocalAddress.ToString(), errno);
    }

    /// <summary>
    /// Ends the present or the next <see cref="Wait"/>; any thread, never blocks, no system call if nobody sleeps.
    /// </summary>
    public void Wake() => _wake.Signal();

    /// <summary>How often <see cref="Wake"/> found somebody asleep; any thread.</summary>
    public long KernelWakes => _wake.KernelWakes;

    /// <summary>Queue lengths and drops; one system call, not for the data path.</summary>
    public UdpSocketStats ReadStats()
    {
        uint* words = stackalloc uint[sock_diag.SK_MEMINFO_VARS];
        uint length = sock_diag.SK_MEMINFO_VARS * sizeof(uint);
        if (Libc.getsockopt(_socket, socket.SOL_SOCKET, socket.SO_MEMINFO, words, &length) < 0)
        {
            LinuxException.Throw("getsockopt(SO_MEMINFO)", LocalAddress.ToString());
        }

        return new UdpSocketStats(
            ReceiveQueuedBytes: words[sock_diag.SK_MEMINFO_RMEM_ALLOC],
            ReceiveBufferBytes: words[sock_diag.SK_MEMINFO_RCVBUF],
            SendQueuedBytes: words[sock_diag.SK_MEMINFO_WMEM_ALLOC],
            SendBufferBytes: words[sock_diag.SK_MEMINFO_SNDBUF],
            Drops: words[sock_diag.SK_MEMINFO_DROPS]);
    }

    /// <summary>
    /// Ends a <see cref="Wait"/> in progress and closes the socket as soon as no call uses it. Later calls throw
    /// <see cref="ObjectDisposedException"/>; disposing twice is fine.
    /// </summary>
    public void Dispose()
    {
        if (!_socket.IsClosed)
        {
            _wake.Signal();
        }

        _socket.Dispose();
        _wake.Dispose();
    }

    /// <summary>What it was made with.</summary>
    internal UdpEndpointOptions Options { get; }

    /// <summary>For who asks the kernel about its network namespace.</summary>
    internal FileDescriptor Descriptor => _socket;

    private int GetOption(int option, string name)
    {
        int value;
        uint length = sizeof(int);
        if (Libc.getsockopt(_socket, socket.SOL_SOCKET, option, &value, &length) < 0)
        {
            LinuxException.Throw($"getsockopt({name})", LocalAddress.ToString());
        }

        return value;
    }

    private bool Sleep(TimeSpan timeout, short events)
    {
        Errno errno = _wake.Sleep(_socket, events, timeout, out bool isOver);
        return errno == Errno.Success ? isOver : throw new LinuxException("ppoll", LocalAddress.ToString(), errno);
    }

    private Errno Check(in EndpointAddress destination, int lengthBytes, int segmentBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(segmentBytes);
        return destination.IsIPv4 != LocalAddress.IsIPv4 ? Errno.EAFNOSUPPORT
            : lengthBytes > SuperPacketBytesMax ? Errno.EMSGSIZE
            : Errno.Success;
    }

    private void Prepare(
        msghdr* message,
        SendSlot* slot,
        in EndpointAddress destination,
        byte* data,
        int lengthBytes,
        int segmentBytes,
        byte hopLimit)
    {
        slot->Part.iov_base = data;
        slot->Part.iov_len = (nuint)lengthBytes;
        message->msg_name = &slot->Name;
        message->msg_namelen = slot->Name.Write(destination, _scopeId);
        message->msg_iov = &slot->Part;
        message->msg_iovlen = 1;
        message->msg_control = null;
        message->msg_controllen = 0;
        message->msg_flags = 0;
        if (lengthBytes > segmentBytes || lengthBytes > PlainSendBytesMax)
        {
            slot->Control.Header.cmsg_len = SegmentControlBytes;
            slot->Control.Header.cmsg_level = @in.IPPROTO_UDP;
            slot->Control.Header.cmsg_type = udp.UDP_SEGMENT;
            slot->Control.SegmentBytes = (ushort)Math.Min(segmentBytes, lengthBytes);
            message->msg_control = &slot->Control;
            message->msg_controllen = (nuint)sizeof(SegmentControl);
        }

        if (hopLimit != 0)
        {
            slot->Hops.Header.cmsg_len = HopControlBytes;
            slot->Hops.Header.cmsg_level = destination.IsIPv4 ? @in.IPPROTO_IP : @in.IPPROTO_IPV6;
            slot->Hops.Header.cmsg_type = destination.IsIPv4 ? @in.IP_TTL : in6.IPV6_HOPLIMIT;
            slot->Hops.Limit = hopLimit;
            message->msg_control = message->msg_control is null ? &slot->Hops : message->msg_control;
            message->msg_controllen += (nuint)sizeof(HopControl);
        }
    }

    private struct SegmentControl
    {
        internal cmsghdr Header;
        internal ushort SegmentBytes;
    }

    private struct HopControl
    {
        internal cmsghdr Header;
        internal int Limit;
        private readonly int _pad;
    }

    // What the header of a message that is sent points to; the two control messages are one piece of memory.
    private struct SendSlot
    {
        internal SocketAddress Name;
        internal iovec Part;
        internal SegmentControl Control;
        internal HopControl Hops;
    }

    [InlineArray(WaitMax)]
    private struct Descriptors
    {
        private FileDescriptor _first;
    }
}
