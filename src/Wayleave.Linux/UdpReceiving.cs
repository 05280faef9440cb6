using System.Runtime.CompilerServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>One recvmsg(2) of a UDP socket, and what its control messages say.</summary>
internal static unsafe class UdpReceiving
{
    private const int ControlBytesMax = 64; // two messages of an int each are 48

    /// <summary>As <see cref="UdpEndpoint.TryReceive"/>.</summary>
    [SkipLocalsInit]
    internal static Errno TryReceive(
        FileDescriptor descriptor,
        Span<byte> buffer,
        out int length,
        out int segmentBytes,
        out EndpointAddress source,
        out byte trafficClass)
    {
        length = segmentBytes = 0;
        source = default;
        trafficClass = 0;
        SocketAddress name;
        ulong* control = stackalloc ulong[ControlBytesMax / sizeof(ulong)];
        iovec part;
        msghdr message;
        message.msg_name = &name;
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control;
        nint received;
        using (FileDescriptor.Borrowed fd = descriptor.Borrow())
        {
            fixed (byte* data = buffer)
            {
                part.iov_base = data;
                part.iov_len = (nuint)buffer.Length;
                do
                {
                    message.msg_namelen = (uint)sizeof(SocketAddress);
                    message.msg_controllen = ControlBytesMax; // the kernel changes it, also when it fails
                    message.msg_flags = 0;
                    received = Libc.recvmsg(fd.Number, &message, socket.MSG_DONTWAIT);
                    if (received < 0)
                    {
                        Errno errno = LinuxException.LastErrno();
                        if (errno != Errno.EINTR)
                        {
                            return errno;
                        }
                    }
                }
                while (received < 0);
            }
        }

        if ((message.msg_flags & socket.MSG_TRUNC) != 0)
        {
            return Errno.EMSGSIZE;
        }

        length = (int)received;
        segmentBytes = length;
        source = name.Read();
        ReadControl((byte*)control, (int)message.msg_controllen, ref segmentBytes, ref trafficClass);
        return Errno.Success;
    }

    private static void ReadControl(byte* control, int controlBytes, ref int segmentBytes, ref byte trafficClass)
    {
        int offset = 0;
        while (controlBytes - offset >= sizeof(cmsghdr))
        {
            cmsghdr* header = (cmsghdr*)(control + offset);
            byte* data = (byte*)(header + 1);
            switch (header->cmsg_level, header->cmsg_type)
            {
                case (@in.IPPROTO_UDP, udp.UDP_GRO):
                    segmentBytes = *(int*)data;
                    break;
                case (@in.IPPROTO_IP, @in.IP_TOS): // one byte
                case (@in.IPPROTO_IPV6, in6.IPV6_TCLASS): // an int of a little-endian machine
                    trafficClass = *data;
                    break;
            }

            offset += ((int)header->cmsg_len + sizeof(ulong) - 1) & -sizeof(ulong);
        }
    }
}
