using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Ports;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>Two endpoints of one kernel talk over the loopback; what one sent is there when the call returns.</summary>
public sealed class UdpEndpointTests : IDisposable
{
    private const int SegmentBytes = 4112; // BTH, RETH, 4 KiB and the invariant CRC, less what makes it uneven
    private const int SegmentCount = 15;

    private readonly UdpEndpoint _a = UdpEndpoint.Bind(Loopback(2));
    private readonly UdpEndpoint _b = UdpEndpoint.Bind(Loopback(3));
    private readonly byte[] _buffer = new byte[UdpEndpoint.SuperPacketBytesMax];

    public void Dispose()
    {
        _a.Dispose();
        _b.Dispose();
    }

    [Theory]
    [InlineData(SegmentBytes * SegmentCount)]
    [InlineData((SegmentBytes * SegmentCount) - 4000)]
    public void A_super_packet_arrives_in_one_piece_with_its_segment_size(int lengthBytes)
    {
        byte[] sent = Pattern(lengthBytes);
        Assert.Equal(Errno.Success, _a.TrySend(_b.LocalAddress, sent, SegmentBytes));
        Received received = Receive(_b);
        Assert.Equal((SegmentBytes, _a.LocalAddress), (received.SegmentBytes, received.Source));
        Assert.Equal(sent, received.Bytes);
        ExpectNothing(_b);
    }

    [Theory]
    [InlineData(40, 40)]
    [InlineData(192, 192)]
    [InlineData(193, 193)]
    [InlineData(1040, 1040)]
    [InlineData(SegmentBytes, SegmentBytes)]
    [InlineData(128 * 40, 40)]
    [InlineData(SegmentBytes * SegmentCount, SegmentBytes)]
    public void What_is_sent_at_once_costs_the_receiver_its_bytes_and_900_more(int lengthBytes, int segmentBytes)
    {
        Assert.Equal(Errno.Success, _a.TrySend(_b.LocalAddress, Pattern(lengthBytes), segmentBytes));
        Assert.InRange(_b.ReadStats().ReceiveQueuedBytes, lengthBytes + 1, lengthBytes + 900);
    }

    // The rule by which a port chooses how much it sends ahead (SocketWindow).
    [Fact]
    public void Three_quarters_of_the_receive_buffer_hold_what_was_sent_and_not_read_in_any_mix()
    {
        using UdpEndpoint small = UdpEndpoint.Bind(Loopback(3), new() { ReceiveBufferBytes = 212_992 });
        long window = SocketWindow.Of(small.ReceiveBufferBytes);
        Queue<int> unread = new();
        long inFlight = 0;
        Random random = new(1);
        for (int i = 0; i < 20_000; i++)
        {
            int segments = random.Next(3) == 0 ? random.Next(1, SegmentCount + 1) : SegmentCount;
            int charge = (segments * SegmentBytes) + 900;
            while (inFlight + charge > window)
            {
                Receive(small);
                inFlight -= unread.Dequeue();
            }

            byte[] sent = _buffer[..(segments * SegmentBytes)];
            Assert.Equal(Errno.Success, _a.TrySend(small.LocalAddress, sent, SegmentBytes));
            unread.Enqueue(charge);
            inFlight += charge;
        }

        Assert.Equal(0, small.ReadStats().Drops);
    }

    // And that for asking more while nothing is in it: what was read is free then, and not before.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void An_empty_receive_buffer_has_room_for_more(bool minds)
    {
        using UdpEndpoint small = UdpEndpoint.Bind(Loopback(3), new() { ReceiveBufferBytes = 212_992 });
        long window = SocketWindow.Of(small.ReceiveBufferBytes);
        long emptyWindow = SocketWindow.OfEmpty(small.ReceiveBufferBytes);
        Queue<int> unread = new();
        long inFlight = 0, most = 0;
        Random random = new(1);
        for (int i = 0; i < 5_000; i++)
        {
            while (unread.Count > 0 && random.Next(6) != 0)
            {
                Receive(small);
                inFlight -= unread.Dequeue();
            }

            bool isEmpty = unread.Count == 0;
            Assert.True(!isEmpty || small.ReadStats().ReceiveQueuedBytes == 0);
            long limit = isEmpty || !minds ? emptyWindow : window;
            while (true)
            {
                int segments = random.Next(3) == 0 ? random.Next(1, SegmentCount + 1) : SegmentCount;
                int charge = (segments * SegmentBytes) + 900;
                if (inFlight + charge > limit)
                {
                    break;
                }

                byte[] sent = _buffer[..(segments * SegmentBytes)];
                Assert.Equal(Errno.Success, _a.TrySend(small.LocalAddress, sent, SegmentBytes));
                unread.Enqueue(charge);
                inFlight += charge;
            }

            most = Math.Max(most, inFlight);
            if (!minds && small.ReadStats().Drops != 0)
            {
                return; // as it must
            }
        }

        Assert.True(minds && most > window, $"{most} bytes");
        Assert.Equal(0, small.ReadStats().Drops);
    }

    [Fact]
    public void Without_receive_offload_every_segment_arrives_alone()
    {
        using UdpEndpoint plain = UdpEndpoint.Bind(Loopback(3), new() { ReceiveOffload = false });
        byte[] sent = Pattern((2 * SegmentBytes) + 100);
        Assert.Equal(Errno.Success, _a.TrySend(plain.LocalAddress, sent, SegmentBytes));
        Assert.Equal(
            [SegmentBytes, SegmentBytes, 100], Enumerable.Range(0, 3).Select(_ => Receive(plain).SegmentBytes));
        ExpectNothing(plain);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(65_507)]
    public void A_single_datagram_is_its_own_segment(int lengthBytes)
    {
        byte[] sent = Pattern(lengthBytes);
        Assert.Equal(Errno.Success, _a.TrySend(_b.LocalAddress, sent, UdpEndpoint.SuperPacketBytesMax));
        Received received = Receive(_b);
        Assert.Equal(lengthBytes, received.SegmentBytes);
        Assert.Equal(sent, received.Bytes);
    }

    [Fact]
    public void The_traffic_class_of_the_sender_reaches_the_receiver()
    {
        using UdpEndpoint marked = UdpEndpoint.Bind(Loopback(2), new() { TrafficClass = 0x6A });
        Assert.Equal(Errno.Success, marked.TrySend(_b.LocalAddress, Pattern(8), segmentBytes: 8));
        Assert.Equal(0x6A, Receive(_b).TrafficClass);
    }

    [Fact]
    public void Nothing_to_receive_is_EAGAIN_also_while_the_collector_runs()
    {
        // The number is read after a call without SetLastError; a collection in between must not change it.
        using CancellationTokenSource done = new();
        Thread collector = new(() =>
        {
            while (!done.IsCancellationRequested)
            {
                GC.Collect(0);
            }
        });
        collector.Start();
        for (int i = 0; i < 20_000; i++)
        {
            ExpectNothing(_b);
        }

        done.Cancel();
        collector.Join();
    }

    [Fact]
    public void A_buffer_that_is_too_small_loses_the_datagram_and_says_so()
    {
        Assert.Equal(Errno.Success, _a.TrySend(_b.LocalAddress, Pattern(100), segmentBytes: 100));
        Assert.Equal(Errno.Success, _a.TrySend(_b.LocalAddress, Pattern(10), segmentBytes: 10));
        Assert.Equal(Errno.EMSGSIZE, _b.TryReceive(_buffer.AsSpan(0, 99), out int length, out _, out _, out _));
        Assert.Equal(0, length);
        Assert.Equal(10, Receive(_b).Bytes.Length);
    }

    [Theory]
    [InlineData(65_508)]
    [InlineData(65_536)]
    public void More_than_fits_into_an_IP_packet_is_EMSGSIZE(int lengthBytes)
    {
        Assert.Equal(Errno.EMSGSIZE, _a.TrySend(_b.LocalAddress, new byte[lengthBytes], SegmentBytes));
        ExpectNothing(_b);
    }

    [Fact]
    public void As_many_segments_as_the_kernel_takes_and_not_one_more()
    {
        Assert.InRange(UdpEndpoint.SegmentsMax, 64, 128);
        Assert.Equal(Errno.Success, _a.TrySend(_b.LocalAddress, new byte[UdpEndpoint.SegmentsMax], segmentBytes: 1));
        Assert.Equal(Errno.EINVAL, _a.TrySend(_b.LocalAddress, new byte[UdpEndpoint.SegmentsMax + 1], segmentBytes: 1));
        Assert.Equal(UdpEndpoint.SegmentsMax, Receive(_b).Bytes.Length);
        Assert.Throws<ArgumentOutOfRangeException>(() => _a.TrySend(_b.LocalAddress, new byte[1], segmentBytes: 0));
    }

    [Fact]
    public void The_other_IP_version_is_EAFNOSUPPORT()
    {
        Assert.Equal(Errno.EAFNOSUPPORT, _a.TrySend(new EndpointAddress(0, 1, 9), Pattern(1), segmentBytes: 1));
    }

    [Fact]
    public void Sending_and_receiving_allocate_nothing()
    {
        byte[] sent = Pattern(SegmentBytes * SegmentCount);
        RoundTrips(10);
        long before = GC.GetAllocatedBytesForCurrentThread();
        RoundTrips(100);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);

        void RoundTrips(int count)
        {
            for (int i = 0; i < count; i++)
            {
                _a.TrySend(_b.LocalAddress, sent, SegmentBytes);
                _b.Wait(TimeSpan.Zero);
                _b.TryReceive(_buffer, out _, out _, out _, out _);
                _b.TryReceive(_buffer, out _, out _, out _, out _);
                _b.Wake();
            }
        }
    }

    [Fact]
    public void Wait_returns_for_a_datagram_for_a_wake_and_when_the_time_is_up()
    {
        Assert.False(_b.Wait(TimeSpan.Zero));
        Assert.False(_b.Wait(TimeSpan.FromMicroseconds(200)));
        _a.TrySend(_b.LocalAddress, Pattern(1), segmentBytes: 1);
        Assert.True(_b.Wait(Timeout.InfiniteTimeSpan));
        Receive(_b);
        _b.Wake();
        Assert.True(_b.Wait(Timeout.InfiniteTimeSpan)); // it came before the wait and is not lost
        Assert.False(_b.Wait(TimeSpan.Zero));
        Assert.True(_b.WaitForSendRoom(Timeout.InfiniteTimeSpan)); // nothing is queued
        Assert.Throws<ArgumentOutOfRangeException>(() => _b.Wait(TimeSpan.FromTicks(-2)));
    }

    [Fact]
    public void Wake_ends_a_wait_of_another_thread()
    {
        Thread sleeper = new(() => Assert.True(_b.Wait(Timeout.InfiniteTimeSpan)));
        sleeper.Start();
        _b.Wake();
        sleeper.Join();
    }

    [Fact]
    public void Dispose_ends_a_wait_and_later_calls_throw()
    {
        Thread sleeper = new(() =>
        {
            try
            {
                Assert.True(_b.Wait(Timeout.InfiniteTimeSpan));
            }
            catch (ObjectDisposedException)
            {
                // It came too late to sleep.
            }
        });
        sleeper.Start();
        EndpointAddress address = _b.LocalAddress;
        _b.Dispose();
        sleeper.Join();
        _b.Dispose();
        Assert.Throws<ObjectDisposedException>(() => _b.TryReceive(_buffer, out _, out _, out _, out _));
        Assert.Throws<ObjectDisposedException>(() => _b.TrySend(_a.LocalAddress, Pattern(1), segmentBytes: 1));
        Assert.Throws<ObjectDisposedException>(() => _b.Wait(TimeSpan.Zero));
        Assert.Throws<ObjectDisposedException>(() => _b.ReadStats());
        using UdpEndpoint again = UdpEndpoint.Bind(address);
    }

    [Fact]
    public void Buffer_sizes_are_those_in_force_and_drops_are_counted()
    {
        using UdpEndpoint small =
            UdpEndpoint.Bind(Loopback(3), new() { ReceiveBufferBytes = 8192, SendBufferBytes = 16_384 });
        Assert.Equal((16_384, 32_768), (small.ReceiveBufferBytes, small.SendBufferBytes)); // the kernel doubles
        while (small.ReadStats().Drops == 0)
        {
            Assert.Equal(Errno.Success, _a.TrySend(small.LocalAddress, Pattern(1000), segmentBytes: 1000));
        }

        UdpSocketStats stats = small.ReadStats();
        Assert.Equal((16_384, 32_768), (stats.ReceiveBufferBytes, stats.SendBufferBytes));
        Assert.InRange(stats.ReceiveQueuedBytes, 1000, 3 * stats.ReceiveBufferBytes);
        Assert.Equal(1, stats.Drops);
        Assert.Equal(1000, Receive(small).Bytes.Length);
    }

    [Fact]
    public void Six_super_packets_fit_into_the_receive_buffer_and_fewer_where_nothing_is_asked_for()
    {
        Assert.Equal(6, CountKept(new()));
        if (File.ReadAllText("/proc/sys/net/core/rmem_default").Trim() != "212992")
        {
            Assert.Skip("net.core.rmem_default is not 212992");
        }

        Assert.InRange(CountKept(new() { ReceiveBufferBytes = null }), 1, 5); // three, when this was written

        int CountKept(UdpEndpointOptions options)
        {
            using UdpEndpoint receiver = UdpEndpoint.Bind(Loopback(3), options);
            for (int i = 0; i < 6; i++)
            {
                _a.TrySend(receiver.LocalAddress, new byte[SegmentBytes * SegmentCount], SegmentBytes);
            }

            int kept = 0;
            while (receiver.TryReceive(_buffer, out _, out _, out _, out _) == Errno.Success)
            {
                kept++;
            }

            return kept;
        }
    }

    [Fact]
    public void An_address_that_is_taken_is_reported_with_the_address_and_the_likely_owner()
    {
        LinuxException e = Assert.Throws<LinuxException>(() => UdpEndpoint.Bind(_a.LocalAddress));
        Assert.Equal(Errno.EADDRINUSE, e.Errno);
        Assert.Equal(
            $"bind {_a.LocalAddress}: Address already in use (EADDRINUSE); "
            + "another program, perhaps another Wayleave host, is bound to this address and port",
            e.Message);
    }

    [Fact]
    public void An_address_of_nobody_here_is_reported_as_such()
    {
        LinuxException e =
            Assert.Throws<LinuxException>(() => UdpEndpoint.Bind(EndpointAddress.FromIPv4(0xC0000201, 0)));
        Assert.Equal(
            "bind 192.0.2.1:0: Cannot assign requested address (EADDRNOTAVAIL); "
            + "no interface of this network namespace has this address",
            e.Message);
    }

    [Fact]
    public void A_link_local_address_without_an_interface_is_refused_with_advice()
    {
        LinuxException e =
            Assert.Throws<LinuxException>(() => UdpEndpoint.Bind(new EndpointAddress(0xFE80UL << 48, 1, 0)));
        Assert.EndsWith("set ScopeId", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_wildcard_address_and_bad_options_are_refused_before_a_socket_is_made()
    {
        Assert.Throws<ArgumentException>(() => UdpEndpoint.Bind(EndpointAddress.FromIPv4(0, 4791)));
        Assert.Throws<ArgumentException>(() => UdpEndpoint.Bind(default));
        UdpEndpointOptions options = new() { ReceiveBufferBytes = 0, SendBufferBytes = int.MaxValue };
        ArgumentException e = Assert.Throws<ArgumentException>(() => UdpEndpoint.Bind(Loopback(2), options));
        Assert.Equal(
            "ReceiveBufferBytes is 0; it must be between 1 and 1073741823 bytes; "
            + "SendBufferBytes is 2147483647; it must be between 1 and 1073741823 bytes",
            e.Message);
    }

    [Fact]
    public void Over_IPv6_a_super_packet_keeps_its_address_its_size_and_its_traffic_class()
    {
        RequireIPv6();
        using UdpEndpoint a = UdpEndpoint.Bind(IPv6Loopback, new() { TrafficClass = 0x69 });
        using UdpEndpoint b = UdpEndpoint.Bind(IPv6Loopback);
        byte[] sent = Pattern((3 * SegmentBytes) + 1);
        Assert.Equal(Errno.Success, a.TrySend(b.LocalAddress, sent, SegmentBytes));
        Received received = Receive(b);
        Assert.Equal((SegmentBytes, a.LocalAddress, (byte)0x69),
            (received.SegmentBytes, received.Source, received.TrafficClass));
        Assert.Equal(sent, received.Bytes);
        Assert.Equal(Errno.EAFNOSUPPORT, a.TrySend(_b.LocalAddress, sent, SegmentBytes));
    }

    [Fact]
    public void ROCE_08_An_IPv6_datagram_without_a_UDP_checksum_is_received()
    {
        const int UdpNoCheck6Tx = 101;
        RequireIPv6();
        using Socket sender = new(AddressFamily.InterNetworkV6, SocketType.Dgram, ProtocolType.Udp);
        sender.SetRawSocketOption(17, UdpNoCheck6Tx, [1, 0, 0, 0]);

        using UdpEndpoint endpoint = UdpEndpoint.Bind(IPv6Loopback);
        sender.SendTo([1, 2, 3], endpoint.LocalAddress.ToIPEndPoint());
        Assert.Equal([1, 2, 3], Receive(endpoint).Bytes);

        // The same to a socket without UDP_NO_CHECK6_RX: only what has a checksum arrives.
        using Socket plain = new(AddressFamily.InterNetworkV6, SocketType.Dgram, ProtocolType.Udp);
        plain.Bind(new IPEndPoint(IPAddress.IPv6Loopback, 0));
        sender.SendTo([1, 2, 3], plain.LocalEndPoint!);
        sender.SetRawSocketOption(17, UdpNoCheck6Tx, [0, 0, 0, 0]);
        sender.SendTo([4, 5], plain.LocalEndPoint!);
        Assert.Equal(2, plain.Receive(_buffer));
        Assert.Equal(0, plain.Available);
    }

    [Theory]
    [InlineData("127.0.0.2", 0UL, 0xFFFF7F000002UL, "127.0.0.2:4791")]
    [InlineData("::1", 0UL, 1UL, "[::1]:4791")]
    [InlineData("fd77::102", 0xFD77000000000000UL, 0x102UL, "[fd77::102]:4791")]
    public void An_address_is_the_number_of_its_GID(string text, ulong high, ulong low, string printed)
    {
        EndpointAddress address = EndpointAddress.From(IPAddress.Parse(text), 4791);
        Assert.Equal(new EndpointAddress(high, low, 4791), address);
        Assert.Equal(printed, address.ToString());
        Assert.Equal(text.Contains('.', StringComparison.Ordinal), address.IsIPv4);
        Assert.False(address.IsWildcard);
    }

    private static EndpointAddress IPv6Loopback => new(0, 1, 0);

    private static EndpointAddress Loopback(uint host) => EndpointAddress.FromIPv4(0x7F000000 | host, 0);

    private static void RequireIPv6()
    {
        try
        {
            UdpEndpoint.Bind(IPv6Loopback).Dispose();
        }
        catch (LinuxException e)
        {
            Assert.Skip(e.Message);
        }
    }

    private static byte[] Pattern(int lengthBytes)
    {
        byte[] bytes = new byte[lengthBytes];
        for (int i = 0; i < bytes.Length; i++)
        {
            bytes[i] = (byte)((i * 31) ^ (i >> 8));
        }

        return bytes;
    }

    private Received Receive(UdpEndpoint endpoint)
    {
        Errno errno = endpoint.TryReceive(
            _buffer, out int length, out int segmentBytes, out EndpointAddress source, out byte trafficClass);
        Assert.Equal(Errno.Success, errno);
        return new Received(_buffer[..length], segmentBytes, source, trafficClass);
    }

    private void ExpectNothing(UdpEndpoint endpoint) =>
        Assert.Equal(Errno.EAGAIN, endpoint.TryReceive(_buffer, out _, out _, out _, out _));

    private sealed record Received(byte[] Bytes, int SegmentBytes, EndpointAddress Source, byte TrafficClass);
}
