using System.Diagnostics;
using System.Net;
using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Host.Benchmarks;

/// <summary>
/// What two sockets carry with no protocol at all: full super-packets from one warm buffer, sent as fast as the kernel
/// takes them. The reader throws them away.
/// </summary>
internal static class LimitBlast
{
    // Headers of a middle packet besides its payload: the same datagrams as a WRITE of that MTU makes.
    private const int DatagramOverheadBytes = 16;
    private const int BatchSuperPackets = 16;
    private const int ReceiveBuffers = 4;

    /// <summary>Sends for a while, to a reader who keeps up or not.</summary>
    /// <returns>Payload bytes of accepted sends.</returns>
    public static (long Bytes, TimeSpan Elapsed) Send(
        UdpEndpoint socket, IPEndPoint to, int mtuBytes, TimeSpan duration)
    {
        int segmentBytes = mtuBytes + DatagramOverheadBytes;
        int segments = Math.Min(UdpEndpoint.SegmentsMax, 65507 / segmentBytes);
        using MappedMemory memory = MappedMemory.AllocateAnonymous(MappedMemory.HugePageBytes, hugePages: true);
        Span<byte> bytes = memory.Memory.Span[..(segments * segmentBytes)];
        bytes.Fill(0x5A);
        EndpointAddress destination = EndpointAddress.From(to.Address, (ushort)to.Port);
        long sent = 0;
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start) < duration)
        {
            for (int i = 0; i < BatchSuperPackets; i++)
            {
                Errno errno = socket.TrySend(destination, bytes, segmentBytes);
                if (errno == Errno.Success)
                {
                    sent += (long)segments * mtuBytes;
                }
                else if (errno is not (Errno.EAGAIN or Errno.ENOBUFS))
                {
                    errno.ThrowIfFailed("measure the limit: send");
                }
            }
        }

        return (sent, Stopwatch.GetElapsedTime(start));
    }

    /// <summary>Receives until told to stop; polls, so that waking up is not what is measured.</summary>
    /// <returns>Payload bytes that arrived.</returns>
    public static long Receive(UdpEndpoint socket, int mtuBytes, ref bool stop)
    {
        using MappedMemory memory = MappedMemory.AllocateAnonymous(MappedMemory.HugePageBytes, hugePages: true);
        long received = 0;
        int next = 0;
        while (!Volatile.Read(ref stop))
        {
            Span<byte> buffer = memory.Memory.Span.Slice(next * 65536, 65536);
            next = (next + 1) % ReceiveBuffers;
            if (socket.TryReceive(buffer, out int length, out int segmentBytes, out _, out _) == Errno.Success)
            {
                received += (long)(length / segmentBytes) * mtuBytes;
            }
        }

        return received;
    }
}
