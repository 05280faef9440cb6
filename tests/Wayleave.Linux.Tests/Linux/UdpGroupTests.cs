using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux.Sharing;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>Sockets of multicast groups: who gets what, and what leaves.</summary>
public sealed class UdpGroupTests
{
    private const int HeaderBytes = 28; // IPv4 without options, UDP
    private const ushort Port = 4791;

    private static readonly EndpointAddress s_group = EndpointAddress.FromIPv4(0xEF4D0102, Port);
    private static readonly byte[] s_buffer = new byte[UdpEndpoint.SuperPacketBytesMax];

    private static readonly string[] s_twoInterfaces =
    [
        "link set lo up",
        "link add wl0 type veth peer name wl1",
        "addr add 192.0.2.1/24 dev wl0",
        "-6 addr add fd77::1/64 dev wl0 nodad",
        "-6 addr add fd77::2/64 dev wl1 nodad",
        "link set wl1 up",
        "link set wl0 up",
    ];

    [Fact]
    public void Everybody_in_a_group_gets_what_is_sent_there_until_he_leaves() =>
        NetworkNamespace.Run(["link set lo up"], () =>
        {
            using UdpEndpoint one = Bind(0x7F000002), two = Bind(0x7F000003);
            UdpGroupSocket inOne = UdpGroupSocket.Join(one, s_group), inTwo = UdpGroupSocket.Join(two, s_group);
            using UdpGroupSocket again = UdpGroupSocket.Join(two, s_group);
            Assert.Equal(s_group, inOne.Group);
            Send(one, s_group, 1);
            Assert.All([inOne, inTwo, again], s => Assert.Equal((1, one.LocalAddress), Take(s)));
            inOne.Dispose();
            inOne.Dispose();
            Send(two, s_group, 2);
            Assert.All([inTwo, again], s => Assert.Equal((2, two.LocalAddress), Take(s)));
            Send(two, s_group with { Low = s_group.Low + 1 }, 3); // another group
            Send(two, one.LocalAddress, 4);
            Assert.All([inTwo, again], s => Assert.Equal(0, Take(s).First));
            Assert.Throws<ObjectDisposedException>(() => Take(inOne));
            inTwo.Dispose();
        });

    [Fact]
    public void ROCE_07_What_leaves_for_a_group_has_the_hop_limit_and_the_identification_that_were_asked_for() =>
        // One segment at most, so that the stack cuts before the loopback, as for a NIC.
        NetworkNamespace.Run(["link set lo gso_max_segs 1 up"], () =>
        {
            using UdpEndpoint sender = Bind(0x7F000002);
            using UdpGroupSocket group = UdpGroupSocket.Join(sender, s_group);
            using Socket raw = new(AddressFamily.InterNetwork, SocketType.Raw, ProtocolType.Udp)
            {
                ReceiveTimeout = Patience.TestMs,
            };
            IcrcFlow flow = new(Gid.FromIPv4(0x7F000002), Gid.FromIPv4((uint)s_group.Low), Port, Port);
            byte[] bytes = new byte[3 * 1000];
            for (ushort i = 0; i < 3; i++)
            {
                Icrc.Seal(flow, i, bytes.AsSpan(i * 1000, 1000));
            }

            byte[] packet = new byte[ushort.MaxValue];
            foreach (byte hopLimit in (byte[])[0, 1, 7, 255])
            {
                UdpSuperPacket[] batch =
                [
                    new(s_group, 0, 3000, 1000, hopLimit),
                    new(s_group, 0, 100, 100, hopLimit), // without a control message for segments
                ];
                Assert.Equal(Errno.Success, sender.TrySend(batch, bytes, out int sent));
                Assert.Equal(2, sent);
                for (int i = 0; i < 4; i++)
                {
                    int length = raw.Receive(packet);
                    ushort identification = BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(4));
                    Assert.Equal(
                        (Math.Max(hopLimit, (byte)1), 0x40, i % 3, (uint)s_group.Low),
                        (packet[8], packet[6], identification,
                            BinaryPrimitives.ReadUInt32BigEndian(packet.AsSpan(16))));
                    Assert.True(i == 3 || Icrc.Verify(
                        flow, identification, packet.AsSpan(HeaderBytes, length - HeaderBytes)));
                }
            }
        });

    [Fact]
    public void A_group_is_joined_at_the_interface_that_has_the_address_and_nowhere_else() =>
        NetworkNamespace.Run(s_twoInterfaces, () =>
        {
            using UdpEndpoint near = Bind(0x7F000002), far = Bind(0xC0000201);
            using UdpGroupSocket inNear = UdpGroupSocket.Join(near, s_group), inFar = UdpGroupSocket.Join(far, s_group);
            Send(far, s_group, 1);
            Assert.Equal((1, far.LocalAddress), Take(inFar)); // one's own copy
            Send(near, s_group, 2);
            Assert.Equal((2, near.LocalAddress), Take(inNear));
            Assert.Equal((0, 0), (Take(inFar).First, Take(inNear).First));
        });

    [Theory]
    [InlineData("ff0e::77")]
    [InlineData("ff02::77")] // of the link: such an address needs its interface
    [InlineData("ff0e::ffff:239.1.2.3")]
    public void A_group_of_IPv6_is_joined_at_the_interface_of_the_address(string text) =>
        NetworkNamespace.Run(s_twoInterfaces, () =>
        {
            EndpointAddress group = EndpointAddress.From(IPAddress.Parse(text), Port);
            using UdpEndpoint one = Bind("fd77::1"), two = Bind("fd77::2");
            using UdpGroupSocket inOne = UdpGroupSocket.Join(one, group), inTwo = UdpGroupSocket.Join(two, group);
            foreach ((UdpEndpoint sender, byte number) in ((UdpEndpoint, byte)[])[(one, 1), (two, 2), (one, 3)])
            {
                // One copy by the wire and one's own, each where it belongs: a second one of before would come first.
                Send(sender, group, number);
                Assert.All([inOne, inTwo], s => Assert.Equal((number, sender.LocalAddress), Await(s)));
            }

            Assert.All([inOne, inTwo], s => Assert.Equal(0, Take(s).First));
        });

    [Theory]
    [InlineData("127.0.0.2", "239.77.1.3")]
    [InlineData("fd77::1", "ff0e::78")]
    public void A_copy_of_the_socket_keeps_neither_the_group_nor_the_watch(string address, string text) =>
        NetworkNamespace.Run(s_twoInterfaces, () =>
        {
            EndpointAddress group = EndpointAddress.From(IPAddress.Parse(text), Port);
            using UdpEndpoint endpoint = Bind(address);
            using DescriptorWatch watch = new();
            UdpGroupSocket socket = UdpGroupSocket.Join(endpoint, group);
            socket.Watch(watch, 7);
            using Socket copy = SocketCopies.Of(group); // as of a forked child
            Send(endpoint, group, 1);
            ulong[] ready = new ulong[4];
            Assert.Equal(1, watch.Look(ready));
            Assert.Single(SocketCopies.InterfacesIn(group));
            socket.Dispose();
            Assert.Equal(0, watch.Look(ready)); // although there still is something
            copy.Blocking = false;
            Assert.Equal(1, copy.Receive(new byte[1]));
            Assert.Empty(SocketCopies.InterfacesIn(group));
            Send(endpoint, group, 2);
            Assert.False(copy.Poll(TimeSpan.Zero, SelectMode.SelectRead));
        });

    [Fact]
    public void A_group_is_joined_with_the_options_of_the_endpoint() => NetworkNamespace.Run(
        [.. s_twoInterfaces, "-6 addr add fe80::77/64 dev wl0 nodad", "-6 addr add fe80::77/64 dev wl1 nodad"],
        () =>
        {
            // One address at two interfaces: only the endpoint knows which is meant.
            EndpointAddress local = EndpointAddress.From(IPAddress.Parse("fe80::77"), Port);
            for (byte index = 2; index <= 3; index++)
            {
                EndpointAddress group = EndpointAddress.From(IPAddress.Parse($"ff02::7{index}"), Port);
                using UdpEndpoint endpoint = UdpEndpoint.Bind(
                    local, new() { ScopeId = index, ReceiveBufferBytes = 20_000, ReceiveOffload = false });
                using UdpGroupSocket socket = UdpGroupSocket.Join(endpoint, group);
                Assert.Equal([index], SocketCopies.InterfacesIn(group));
                Send(endpoint, group, index);
                Assert.Equal((index, endpoint.LocalAddress), Await(socket));
                using Socket copy = SocketCopies.Of(group);
                byte[] offload = new byte[sizeof(int)];
                copy.GetRawSocketOption((int)ProtocolType.Udp, optionName: 104, offload); // UDP_GRO
                Assert.Equal((endpoint.ReceiveBufferBytes, 0), (copy.ReceiveBufferSize, offload[0]));
            }
        });

    [Fact]
    public void The_interface_of_a_group_of_IPv6_is_not_guessed() => NetworkNamespace.Run(s_twoInterfaces, () =>
    {
        using UdpEndpoint endpoint = Bind("fd77::1");
        Assert.Null(NetworkNamespace.Ip("-6 addr del fd77::1/64 dev wl0"));
        LinuxException refused = Assert.Throws<LinuxException>(() => UdpGroupSocket.Join(
            endpoint, EndpointAddress.From(IPAddress.Parse("ff0e::77"), Port)));
        Assert.Equal(Errno.ENODEV, refused.Errno);
    });

    [Fact]
    public void What_cannot_be_joined_is_told_with_the_reason() => NetworkNamespace.Run(["link set lo up"], () =>
    {
        using UdpEndpoint endpoint = Bind(0x7F000002);
        Assert.Throws<ArgumentException>(() => UdpGroupSocket.Join(endpoint, endpoint.LocalAddress));
        Assert.Throws<ArgumentException>(() => UdpGroupSocket.Join(
            endpoint, EndpointAddress.From(IPAddress.Parse("ff0e::77"), Port)));
        using Socket other = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        other.Bind(new IPEndPoint(IPAddress.Parse("239.77.1.2"), Port)); // alone, as somebody may
        LinuxException refused = Assert.Throws<LinuxException>(() => UdpGroupSocket.Join(endpoint, s_group));
        Assert.Equal(Errno.EADDRINUSE, refused.Errno);
    });

    [Fact]
    public void A_watch_says_a_group_again_until_everything_was_taken() =>
        NetworkNamespace.Run(["link set lo up"], () =>
        {
            using UdpEndpoint endpoint = Bind(0x7F000002);
            using DescriptorWatch watch = new();
            UdpGroupSocket group = UdpGroupSocket.Join(endpoint, s_group);
            group.Watch(watch, 7);
            ulong[] ready = new ulong[4];
            Assert.Equal(0, watch.Look(ready));
            Send(endpoint, s_group, 1);
            Assert.Equal((1, 7UL), (watch.Look(ready), ready[0]));
            Assert.True(UdpEndpoint.WaitAny([endpoint], Timeout.InfiniteTimeSpan, others: watch));
            Assert.Equal(1, watch.Look(ready));
            Assert.Equal(1, Take(group).First);
            Assert.Equal(0, watch.Look(ready));
            Assert.False(UdpEndpoint.WaitAny([endpoint], TimeSpan.Zero, others: watch));
            Send(endpoint, s_group, 2);
            group.Dispose(); // takes it out of the watch
            Assert.Equal(0, watch.Look(ready));
        });

    private static UdpEndpoint Bind(uint address) => UdpEndpoint.Bind(EndpointAddress.FromIPv4(address, Port));

    private static UdpEndpoint Bind(string address) =>
        UdpEndpoint.Bind(EndpointAddress.From(IPAddress.Parse(address), Port));

    // A link that was just set up has its routes a moment later.
    private static void Send(UdpEndpoint from, EndpointAddress to, byte first)
    {
        Errno errno = Errno.Success;
        SpinWait.SpinUntil(
            () => (errno = from.TrySend(to, [first], segmentBytes: 1)) != Errno.ENETUNREACH, Patience.Max);
        Assert.Equal(Errno.Success, errno);
    }

    private static (int First, EndpointAddress Source) Await(UdpGroupSocket socket)
    {
        (int First, EndpointAddress Source) taken = default;
        SpinWait.SpinUntil(() => (taken = Take(socket)).First != 0, Patience.Max);
        return taken;
    }

    // 0 and nobody when nothing is there.
    private static (int First, EndpointAddress Source) Take(UdpGroupSocket socket) =>
        socket.TryReceive(s_buffer, out int length, out _, out EndpointAddress source, out _) == Errno.Success
            && length == 1
            ? (s_buffer[0], source)
            : default;
}
