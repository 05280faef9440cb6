using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>
/// What leaves the socket, seen by a raw socket that gets a copy of every UDP packet with its IPv4 header.
/// </summary>
public sealed class WireTests
{
    private const int HeaderBytes = 28; // IPv4 without options, UDP
    private const int SegmentBytes = 4112;
    private const ushort RoCEv2Port = 4791;

    [Fact]
    public void ROCE_07_The_identification_is_the_index_of_the_segment_and_the_ICRC_agrees() =>
        // One segment at most, so that the stack cuts before the loopback, as for a NIC.
        NetworkNamespace.Run(["link set lo gso_max_segs 1 up"], () =>
        {
            using UdpEndpoint sender = UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000002, 0));
            using UdpEndpoint receiver = UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000003, RoCEv2Port));
            using Socket raw = OpenRaw();
            IcrcFlow flow = new(
                Gid.FromIPv4(0x7F000002), Gid.FromIPv4(0x7F000003), sender.LocalAddress.Port, RoCEv2Port);
            byte[] packet = new byte[ushort.MaxValue];
            byte[] batch = new byte[15 * SegmentBytes];
            for (int send = 0; send < 100; send++)
            {
                int segments = send % 2 == 0 ? 1 : 15;
                for (int i = 0; i < segments; i++)
                {
                    Span<byte> segment = batch.AsSpan(i * SegmentBytes, SegmentBytes);
                    segment.Fill((byte)(send + i));
                    Icrc.Seal(flow, (ushort)i, segment);
                }

                Errno sent =
                    sender.TrySend(receiver.LocalAddress, batch.AsSpan(0, segments * SegmentBytes), SegmentBytes);
                Assert.Equal(Errno.Success, sent);
                for (int i = 0; i < segments; i++)
                {
                    int length = raw.Receive(packet);
                    Assert.Equal(HeaderBytes + SegmentBytes, length);
                    (ushort identification, ushort fragment) = ReadHeader(packet);
                    Assert.Equal((i, 0x4000), (identification, fragment));
                    Assert.True(Icrc.Verify(flow, identification, packet.AsSpan(HeaderBytes, SegmentBytes)));
                }

                while (receiver.TryReceive(packet, out _, out _, out _, out _) == Errno.Success)
                {
                }
            }
        });

    [Fact]
    public void ROCE_07_On_the_loopback_a_super_packet_stays_whole_with_identification_0() =>
        NetworkNamespace.Run(["link set lo up"], () =>
        {
            using UdpEndpoint sender = UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000002, 0));
            using UdpEndpoint receiver = UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000003, RoCEv2Port));
            using Socket raw = OpenRaw();
            byte[] packet = new byte[ushort.MaxValue];
            Assert.Equal(
                Errno.Success, sender.TrySend(receiver.LocalAddress, new byte[15 * SegmentBytes], SegmentBytes));
            Assert.Equal(HeaderBytes + (15 * SegmentBytes), raw.Receive(packet));
            Assert.Equal((0, 0x4000), ReadHeader(packet));
        });

    [Fact]
    public void ROCE_07_A_socket_without_our_options_has_another_identification() =>
        NetworkNamespace.Run(["link set lo up"], () =>
        {
            using Socket plain = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
            plain.Connect(IPAddress.Parse("127.0.0.3"), RoCEv2Port);
            using UdpEndpoint receiver = UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000003, RoCEv2Port));
            using Socket raw = OpenRaw();
            byte[] packet = new byte[ushort.MaxValue];
            HashSet<ushort> seen = [];
            for (int send = 0; send < 3; send++)
            {
                plain.Send([1]);
                raw.Receive(packet);
                seen.Add(ReadHeader(packet).Identification);
            }

            Assert.Equal(3, seen.Count); // it counts, so at most one of them is 0
        });

    [Fact]
    public void ROCE_78_A_port_that_rxe_owns_is_reported_with_the_hint()
    {
        NetworkNamespace.Run(["link set lo up"], () =>
        {
            // rxe binds its tunnel socket in this way: to the wildcard address.
            using Socket rxe = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
            rxe.Bind(new IPEndPoint(IPAddress.Any, RoCEv2Port));
            LinuxException e = Assert.Throws<LinuxException>(
                () => UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000002, RoCEv2Port)));
            Assert.Equal(
                "bind 127.0.0.2:4791: Address already in use (EADDRINUSE); another Wayleave host or a kernel rxe "
                + "device in this network namespace owns UDP port 4791 (rxe owns it on every address); use another "
                + "network "
                + "namespace, "
                + "or another port among Wayleave hosts",
                e.Message);
        });
    }

    [Fact]
    public void A_full_send_buffer_is_EAGAIN_and_room_ends_the_wait()
    {
        string[] setUp =
        [
            "link add wl0 type veth peer name wl1",
            "addr add 192.0.2.1/24 dev wl0",
            "link set wl1 up",
            "link set wl0 up",
        ];
        NetworkNamespace.Run(setUp, () =>
        {
            // Nobody answers for 192.0.2.2: what is sent queues behind the address resolution and stays charged to the
            // socket.
            using UdpEndpoint sender =
                UdpEndpoint.Bind(EndpointAddress.FromIPv4(0xC0000201, 0), new() { SendBufferBytes = 4096 });
            EndpointAddress nobody = EndpointAddress.FromIPv4(0xC0000202, 9);
            Errno errno;
            do
            {
                errno = sender.TrySend(nobody, new byte[1000], segmentBytes: 1000);
            }
            while (errno == Errno.Success);

            Assert.Equal(Errno.EAGAIN, errno);
            Assert.True(sender.ReadStats().SendQueuedBytes >= 4096);
            Assert.False(sender.WaitForSendRoom(TimeSpan.Zero));

            Assert.Null(NetworkNamespace.Ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev wl0"));
            Assert.True(sender.WaitForSendRoom(Timeout.InfiniteTimeSpan));
            Assert.Equal(Errno.Success, sender.TrySend(nobody, new byte[1000], segmentBytes: 1000));
        });
    }

    [Fact]
    public void A_datagram_larger_than_the_path_MTU_is_EMSGSIZE_and_never_fragmented()
    {
        NetworkNamespace.Run(["link set lo mtu 1500 up"], () =>
        {
            using UdpEndpoint a = UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000002, 0));
            using UdpEndpoint b = UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000003, 0));
            Assert.Equal(Errno.Success, a.TrySend(b.LocalAddress, new byte[1472], segmentBytes: 1472));
            Assert.Equal(Errno.EMSGSIZE, a.TrySend(b.LocalAddress, new byte[1473], segmentBytes: 1473));
            Assert.Equal(Errno.Success, a.TrySend(b.LocalAddress, new byte[2 * 1472], segmentBytes: 1472));
            Assert.Equal(Errno.EMSGSIZE, a.TrySend(b.LocalAddress, new byte[2 * 1473], segmentBytes: 1473));
            Assert.Equal(
                Errno.ENETUNREACH, a.TrySend(EndpointAddress.FromIPv4(0xC0000202, 9), new byte[1], segmentBytes: 1));
        });
    }

    private static Socket OpenRaw() =>
        new(AddressFamily.InterNetwork, SocketType.Raw, ProtocolType.Udp) { ReceiveTimeout = Patience.TestMs };

    private static (ushort Identification, ushort Fragment) ReadHeader(ReadOnlySpan<byte> packet) =>
        (BinaryPrimitives.ReadUInt16BigEndian(packet[4..]), BinaryPrimitives.ReadUInt16BigEndian(packet[6..]));
}
