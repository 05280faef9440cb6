using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux;

namespace Wayleave.Ports;

/// <summary>
/// What goes from the machine of a port to its sockets, a few super-packets to a system call. Port token held by the
/// caller.
/// </summary>
internal sealed class SendBatch(
    RdmaPort port, UdpEndpoint[] endpoints, IDatagramTap?[] taps, Memory<byte> bytes)
{
    // Two super-packets to a system call: a message of 64 KiB is two, and what they share of the kernel's caches stays
    // warm while the reader does not look in between. More gains nothing.
    public const int Size = 2;

    private const int SuperPacketBytes = 65536;
    private const int WorthBytes = 4096;

    private readonly UdpSuperPacket[] _packets = new UdpSuperPacket[Size];
    private readonly int[] _ports = new int[Size];
    private int _next; // the first that the socket has not taken
    private int _end;

    /// <summary>
    /// A super-packet that its socket did not take. Those of other ports wait behind it: it is the same few that this
    /// machine has in its buffers anyway.
    /// </summary>
    public bool HasPending => _next < _end;

    /// <summary>Sends until there is nothing more, a socket is full, or so many have left.</summary>
    /// <param name="now">Starts timers.</param>
    /// <param name="room">How many; what is left of it. 0 after a socket was full.</param>
    /// <param name="fullPort">The port whose socket took no more; 0 for none.</param>
    /// <returns>Whether anything left.</returns>
    public bool Send(TimeSpan now, ref int room, out int fullPort)
    {
        ReadOnlySpan<byte> buffer = bytes.Span;
        bool worked = false;
        fullPort = 0;
        while (room > 0)
        {
            if (!HasPending && !TryFill(now, room))
            {
                return worked;
            }

            int from = _ports[_next];
            ReadOnlySpan<UdpSuperPacket> batch = _packets.AsSpan(_next, Math.Min(room, RunLength(from)));
            Errno errno = endpoints[from - 1].TrySend(batch, buffer, out int sent);
            bool isFull = errno is Errno.EAGAIN or Errno.ENOBUFS;

            // Any other error is a packet lost on the wire (no route, peer's ICMP): the retransmit timer is the answer
            // to that.
            int done = errno == Errno.Success || isFull ? sent : sent + 1;
            Tap(from, batch[..done], now);
            _next += done;
            room -= done;
            worked |= done > 0;
            if (isFull)
            {
                fullPort = from;
                room = 0;
            }
        }

        return worked;
    }

    // One call sends for one port.
    private int RunLength(int from)
    {
        int end = _next + 1;
        while (end < _end && _ports[end] == from)
        {
            end++;
        }

        return end - _next;
    }

    // What is small goes at once: its reader waits for it.
    private bool TryFill(TimeSpan now, int room)
    {
        (_next, _end) = (0, 0);
        Span<byte> buffer = bytes.Span;
        int most = Math.Min(room, Size);
        while (_end < most)
        {
            int offset = _end * SuperPacketBytes;
            if (!port.PollTransmit(now, buffer.Slice(offset, SuperPacketBytes), out Transmit transmit))
            {
                break;
            }

            Gid to = transmit.Destination;
            _ports[_end] = transmit.Port;
            _packets[_end++] = new UdpSuperPacket(
                new EndpointAddress(to.High, to.Low, transmit.DestinationPort),
                offset,
                transmit.LengthBytes,
                transmit.SegmentBytes,
                transmit.HopLimit);
            if (transmit.LengthBytes < WorthBytes)
            {
                break;
            }
        }

        return HasPending;
    }

    private void Tap(int from, ReadOnlySpan<UdpSuperPacket> sent, TimeSpan now)
    {
        if (taps[from - 1] is not { } tap)
        {
            return;
        }

        foreach (ref readonly UdpSuperPacket packet in sent)
        {
            EndpointAddress to = packet.Destination;
            ReadOnlySpan<byte> sentBytes = bytes.Span.Slice(packet.OffsetBytes, packet.LengthBytes);
            tap.Sent(new Gid(to.High, to.Low), to.Port, sentBytes, packet.SegmentBytes, now);
        }
    }
}
