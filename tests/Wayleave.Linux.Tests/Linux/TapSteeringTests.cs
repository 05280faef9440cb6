using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>The kernel's choice of a queue, asked for by sockets of the kernel.</summary>
public sealed class TapSteeringTests
{
    private const ulong Ours = 0x02_57_4C_00_00_01;
    private const int NetworkOffset = TapDevice.HeaderBytes + 14;

    private readonly byte[] _buffer = new byte[TapDevice.FrameBytesMax];

    [Fact]
    public void A_connection_comes_by_the_queue_of_the_first_flow_that_is_about_it_and_all_else_by_the_first() =>
        Run(tap =>
        {
            TapFlow port = Port(isIPv4: true, 5201) with { Queue = 2 };
            TapFlow peer = port with { Source = 0x0A000003, SourceMask = uint.MaxValue, Queue = 1 };
            TapFlow six = Port(isIPv4: false, 5201) with
            {
                Destination = new UInt128(0xFD00_0000_0000_0000, 1),
                DestinationMask = UInt128.MaxValue,
                Queue = 2,
            };
            Assert.Equal(Errno.Success, tap.Steer(Ours, [peer, port, six]));
            Assert.Equal(2, QueueOf(tap, "10.0.0.2", "10.0.0.1", 5201));
            Assert.Equal(1, QueueOf(tap, "10.0.0.3", "10.0.0.1", 5201));
            Assert.Equal(0, QueueOf(tap, "10.0.0.2", "10.0.0.1", 5202));
            Assert.Equal(2, QueueOf(tap, "fd00::2", "fd00::1", 5201));
            Assert.Equal(0, QueueOf(tap, "fd00::2", "fd00::9", 5201));
            Assert.Equal(0, QueueOf(tap, "10.0.0.2", "10.0.0.9", 5201)); // another Ethernet address

            Assert.Equal(Errno.Success, tap.Steer(Ours, [port with { Queue = 1 }]));
            Assert.Equal(1, QueueOf(tap, "10.0.0.2", "10.0.0.1", 5201));
            Assert.Equal(0, QueueOf(tap, "fd00::2", "fd00::1", 5201));
            Assert.Equal(Errno.Success, tap.Steer(Ours, []));
            Assert.Equal(0, QueueOf(tap, "10.0.0.2", "10.0.0.1", 5201));
        });

    [Fact]
    public void Bits_that_a_mask_leaves_out_are_not_compared() => Run(tap =>
    {
        TapFlow even = Port(isIPv4: true, 5200) with
        {
            DestinationPortMask = 0xFFFE,
            Source = 0x0A0000FF,
            SourceMask = 0xFFFFFF00,
            Queue = 1,
        };
        Assert.Equal(Errno.Success, tap.Steer(Ours, [even]));
        Assert.Equal(1, QueueOf(tap, "10.0.0.3", "10.0.0.1", 5200));
        Assert.Equal(1, QueueOf(tap, "10.0.0.2", "10.0.0.1", 5201));
        Assert.Equal(0, QueueOf(tap, "10.0.0.2", "10.0.0.1", 5202));
    });

    [Fact]
    public void A_datagram_with_the_ports_of_a_flow_is_no_segment_of_it_and_neither_is_a_fragment() => Run(tap =>
    {
        Assert.Equal(Errno.Success, tap.Steer(Ours, [Port(isIPv4: true, 5201) with { Queue = 1 }, new TapFlow()]));
        using Socket socket = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        socket.SendTo(new byte[100], new IPEndPoint(IPAddress.Parse("10.0.0.1"), 5201));
        socket.SendTo(new byte[4000], new IPEndPoint(IPAddress.Parse("10.0.0.1"), 5201)); // cut into fragments
        Assert.Equal(4, Drain(tap, 0, (byte)ProtocolType.Udp));
        Assert.Equal(0, Drain(tap, 1, (byte)ProtocolType.Udp));
    });

    [Fact]
    public void As_many_flows_as_there_may_be_are_told_apart_and_one_more_is_refused() => Run(tap =>
    {
        TapFlow[] flows = [.. Enumerable.Range(0, TapDevice.FlowsMax).Select(i => Port(
            isIPv4: i % 2 == 0, (ushort)(5000 + i)) with
        {
            Source = i % 2 == 0 ? 0x0A000002 : new UInt128(0xFD00_0000_0000_0000, 2),
            SourceMask = i % 2 == 0 ? uint.MaxValue : UInt128.MaxValue,
            Queue = 1 + (i % 2),
        })];
        Assert.Equal(Errno.Success, tap.Steer(Ours, flows));
        Assert.Equal(1, QueueOf(tap, "10.0.0.2", "10.0.0.1", 5000 + TapDevice.FlowsMax - 2));
        Assert.Equal(2, QueueOf(tap, "fd00::2", "fd00::1", 5000 + TapDevice.FlowsMax - 1));
        Assert.Equal(Errno.E2BIG, tap.Steer(Ours, [.. flows, default]));
        Assert.Equal(Errno.EINVAL, tap.Steer(Ours, [default(TapFlow) with { Queue = 3 }]));
        Assert.Equal(1, QueueOf(tap, "10.0.0.2", "10.0.0.1", 5000));
    });

    [Fact]
    public void One_frame_is_read_into_several_pieces_in_order() => Run(tap =>
    {
        Assert.Equal(Errno.Success, tap.Steer(Ours, [Port(isIPv4: true, 5201) with { Queue = 1 }]));
        byte[] memory = GC.AllocateArray<byte>(2 * TapDevice.FrameBytesMax, pinned: true);
        ScatterList pieces = new(3);
        pieces.Add(memory.AsSpan(100, NetworkOffset));
        pieces.Add(memory.AsSpan(0, 9));
        pieces.Add(memory.AsSpan(1000, TapDevice.FrameBytesMax));
        Assert.Throws<IndexOutOfRangeException>(() => pieces.Add(memory.AsSpan(0, 1)));
        Assert.Equal(3, pieces.Count); // or the kernel reads a fourth where none is
        Assert.Equal(Errno.EAGAIN, tap.TryRead(1, pieces, out _));
        using Socket socket = Connect("10.0.0.2", "10.0.0.1", 5201);
        Assert.True(tap.Wait(Patience.Max)); // for any queue
        Assert.Equal(Errno.Success, tap.TryRead(1, pieces, out int length));
        Assert.Equal(0x45, memory[0]);
        Assert.Equal((byte)ProtocolType.Tcp, memory[1000]); // the tenth byte of the packet
        Assert.Equal(5201, BinaryPrimitives.ReadUInt16BigEndian(memory.AsSpan(1000 - 9 + 22)));
        Assert.Equal(TapDevice.HeaderBytes + 14 + 60, length);
        pieces.Clear();
        Assert.Equal(0, pieces.Count);
    });

    [Fact]
    public void An_interface_that_others_may_have_has_one_queue_and_says_why() => Run(tap =>
    {
        Assert.Null(NetworkNamespace.Ip("tuntap add dev given mode tap vnet_hdr"));
        using TapDevice given = TapDevice.Open("given", new TapOptions { SteeredQueues = 2 });
        Assert.Equal(0, given.SteeredQueues);
        Assert.Equal("others may have queues of the interface too", given.WhyNotSteered);
        Assert.Equal(Errno.Success, given.Steer(Ours, []));
        Assert.Throws<ArgumentOutOfRangeException>(() => given.TryRead(1, _buffer, out _));
        Assert.Null(tap.WhyNotSteered);
    });

    private static TapFlow Port(bool isIPv4, int port) => new()
    {
        IsIPv4 = isIPv4,
        DestinationPort = (ushort)port,
        DestinationPortMask = ushort.MaxValue,
    };

    private static void Run(Action<TapDevice> body) => NetworkNamespace.Run(["link set lo up"], () =>
    {
        Assert.SkipUnless(Support.Tap.IsAvailable, Support.Tap.Detail);
        using TapDevice tap = TapDevice.Open("wl%d", new TapOptions { SteeredQueues = 2 });
        Assert.SkipUnless(tap.WhyNotSteered is null, $"{tap.WhyNotSteered}");
        Assert.Equal(2, tap.SteeredQueues);
        string[] setUp =
        [
            $"addr add 10.0.0.2/24 dev {tap.Name}",
            $"addr add 10.0.0.3/24 dev {tap.Name}",
            $"addr add fd00::2/64 dev {tap.Name} nodad",
            $"link set {tap.Name} up",
            $"neigh replace 10.0.0.1 lladdr 02:57:4c:00:00:01 dev {tap.Name}",
            $"neigh replace 10.0.0.9 lladdr 02:57:4c:00:00:09 dev {tap.Name}",
            $"neigh replace fd00::1 lladdr 02:57:4c:00:00:01 dev {tap.Name}",
            $"neigh replace fd00::9 lladdr 02:57:4c:00:00:01 dev {tap.Name}",
        ];
        Assert.All(setUp, command => Assert.Null(NetworkNamespace.Ip(command)));
        body(tap);
    });

    private static Socket Connect(string from, string to, int port)
    {
        IPAddress address = IPAddress.Parse(to);
        Socket socket = new(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp) { Blocking = false };
        socket.Bind(new IPEndPoint(IPAddress.Parse(from), 0));
        Assert.Equal(
            SocketError.WouldBlock,
            Assert.Throws<SocketException>(() => socket.Connect(address, port)).SocketErrorCode);
        return socket;
    }

    // The frame is in its queue when connect returns: a TAP has no other thread.
    private int QueueOf(TapDevice tap, string from, string to, int port)
    {
        for (int queue = 0; queue <= tap.SteeredQueues; queue++)
        {
            Drain(tap, queue, (byte)ProtocolType.Tcp);
        }

        using Socket socket = Connect(from, to, port);
        return Enumerable.Range(0, 1 + tap.SteeredQueues).First(q => Drain(tap, q, (byte)ProtocolType.Tcp) > 0);
    }

    private int Drain(TapDevice tap, int queue, byte protocol)
    {
        int count = 0;
        while (tap.TryRead(queue, _buffer, out int length) == Errno.Success)
        {
            bool isIPv4 = length > NetworkOffset + 20 && _buffer[NetworkOffset] >> 4 == 4;
            bool isIPv6 = length > NetworkOffset + 40 && _buffer[NetworkOffset] >> 4 == 6;
            int at = NetworkOffset + (isIPv4 ? 9 : 6);
            count += (isIPv4 || isIPv6) && _buffer[at] == protocol ? 1 : 0;
        }

        return count;
    }
}
