using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>The kernel's TCP/IP stack at the other end of a TAP, and frames made by hand at this one.</summary>
public sealed class TapDeviceTests
{
    private const ushort OurPort = 40000;
    private const int Mss = 1460;

    private static readonly MacAddress s_ours = new(0x02_57_4C_00_00_01);
    private static readonly IpAddress s_us = IpAddress.FromIPv4(0x0A000001);
    private static readonly IpAddress s_kernel = IpAddress.FromIPv4(0x0A000002);

    private readonly byte[] _buffer = new byte[TapDevice.FrameBytesMax];

    [Fact]
    public void A_datagram_of_the_kernel_has_a_partial_checksum_and_ours_may_have_one_too() => Run((tap, mac) =>
    {
        using Socket socket = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        socket.Bind(new IPEndPoint(IPAddress.Parse("10.0.0.2"), 7000));
        socket.SendTo(Pattern(600), new IPEndPoint(IPAddress.Parse("10.0.0.1"), OurPort));

        (VirtioNetHeader link, FrameLayout layout, byte[] frame) = Receive(tap, IpProtocol.Udp);
        Assert.Equal(VirtioNetFlags.NeedsChecksum, link.Flags);
        Assert.Equal(Pattern(600), frame[layout.PayloadOffset..layout.EndOffset]);

        Send(tap, mac, IpProtocol.Udp, [.. UdpHeader(7000, 600), .. Pattern(600)], checksumOffset: 6);
        byte[] answer = new byte[2000];
        socket.ReceiveTimeout = Patience.TestMs;
        Assert.Equal(600, socket.Receive(answer));
        Assert.Equal(Pattern(600), answer[..600]);
    });

    [Fact]
    public void Super_packets_go_both_ways() => Run((tap, mac) =>
    {
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Parse("10.0.0.2"), 7001));
        listener.Listen(1);
        byte[] mssOption = [2, 4, Mss >> 8, Mss & 0xFF];
        Send(tap, mac, IpProtocol.Tcp, Tcp(TcpFlags.Syn, 100, 0, mssOption, []), TcpHeader.ChecksumOffset);
        FrameLayout synAck = Receive(tap, IpProtocol.Tcp).Layout;
        Assert.Equal(TcpFlags.Syn | TcpFlags.Ack, synAck.Tcp.Flags);
        uint theirs = synAck.Tcp.Sequence + 1;
        Send(tap, mac, IpProtocol.Tcp, Tcp(TcpFlags.Ack, 101, theirs, [], []), TcpHeader.ChecksumOffset);
        using Socket kernel = listener.Accept();

        // To the kernel: one frame of 21 segments.
        byte[] sent = Pattern(30_000);
        VirtioNetHeader gso = new()
        {
            Flags = VirtioNetFlags.NeedsChecksum,
            Gso = GsoType.TcpIPv4,
            GsoBytes = Mss,
            HeaderBytes = 54,
            ChecksumStart = 34,
            ChecksumOffset = TcpHeader.ChecksumOffset,
        };
        byte[] segment = Tcp(TcpFlags.Ack | TcpFlags.Psh, 101, theirs, [], sent);
        Send(tap, mac, IpProtocol.Tcp, segment, TcpHeader.ChecksumOffset, gso);
        byte[] received = new byte[sent.Length];
        kernel.ReceiveTimeout = Patience.TestMs;
        for (int at = 0; at < received.Length;)
        {
            at += kernel.Receive(received.AsSpan(at));
        }

        Assert.Equal(sent, received);

        // From the kernel: its first window in one frame, or a few.
        kernel.Send(sent.AsSpan(0, 10 * Mss));
        List<byte> got = [];
        int frames = 0;
        while (got.Count < 10 * Mss)
        {
            (VirtioNetHeader link, FrameLayout layout, byte[] frame) = Receive(tap, IpProtocol.Tcp);
            if (layout.PayloadBytes == 0)
            {
                continue; // an acknowledgement of what we sent
            }

            frames++;
            Assert.Equal(layout.PayloadBytes > Mss ? GsoType.TcpIPv4 : GsoType.None, link.Gso);
            got.AddRange(frame[layout.PayloadOffset..layout.EndOffset]);
        }

        Assert.InRange(frames, 1, 9); // fewer than segments, however busy the machine is
        Assert.Equal(sent[..(10 * Mss)], got);
    });

    [Fact]
    public void A_header_that_contradicts_its_frame_is_refused_by_the_kernel() => Run((tap, _) =>
    {
        byte[] frame = new byte[VirtioNetHeader.Size + 60];
        new VirtioNetHeader { Flags = VirtioNetFlags.NeedsChecksum, ChecksumStart = 1000 }.WriteTo(frame);
        Assert.Equal(Errno.EINVAL, tap.TryWrite(frame));
    });

    [Fact]
    public void Nothing_there_is_EAGAIN_and_a_wake_ends_a_wait() => Run((tap, _) =>
    {
        while (tap.TryRead(_buffer, out int _) == Errno.Success)
        {
        }

        Assert.Equal(Errno.EAGAIN, tap.TryRead(_buffer, out int length));
        Assert.Equal(0, length);
        tap.Wake();
        Assert.True(tap.WaitForWake(Timeout.InfiniteTimeSpan));
    });

    [Fact]
    public void An_interface_that_somebody_has_is_busy_and_one_that_is_down_says_so() => Run((tap, _) =>
    {
        Assert.Equal(Errno.EBUSY, Assert.Throws<LinuxException>(() => TapDevice.Open(tap.Name)).Errno);
        Assert.Throws<ArgumentException>(() => TapDevice.Open("a-name-that-is-too-long"));
        Assert.Null(NetworkNamespace.Ip($"link set {tap.Name} down"));
        Assert.Equal(Errno.EIO, tap.TryWrite(new byte[100]));
    });

    private static void Run(Action<TapDevice, MacAddress> body) => NetworkNamespace.Run(["link set lo up"], () =>
    {
        Assert.SkipUnless(Support.Tap.IsAvailable, Support.Tap.Detail);
        using TapDevice tap = TapDevice.Open("wl%d");
        string[] setUp =
        [
            $"link set {tap.Name} address 02:00:00:00:00:22",
            $"addr add 10.0.0.2/24 dev {tap.Name}",
            $"link set {tap.Name} up",
            $"neigh add 10.0.0.1 lladdr {s_ours} dev {tap.Name}",
        ];
        Assert.All(setUp, command => Assert.Null(NetworkNamespace.Ip(command)));
        body(tap, new MacAddress(0x02_00_00_00_00_22));
    });

    // The kernel also says what nobody asked for: router solicitations, group reports.
    private (VirtioNetHeader Link, FrameLayout Layout, byte[] Frame) Receive(TapDevice tap, IpProtocol wanted)
    {
        while (true)
        {
            if (tap.TryRead(_buffer, out int length) != Errno.Success)
            {
                Assert.True(tap.Wait(Patience.Max), "nothing came");
                continue;
            }

            Assert.True(VirtioNetHeader.TryParse(_buffer.AsSpan(0, length), out VirtioNetHeader link));
            byte[] frame = _buffer[VirtioNetHeader.Size..length];
            if (FrameParser.Parse(frame, link, out FrameLayout layout) == FrameDrop.None
                && layout.EtherType == EtherType.IPv4
                && layout.Protocol == wanted)
            {
                return (link, layout, frame);
            }
        }
    }

    private static void Send(
        TapDevice tap,
        MacAddress to,
        IpProtocol protocol,
        byte[] segment,
        int checksumOffset,
        VirtioNetHeader? link = null)
    {
        byte[] frame = new byte[VirtioNetHeader.Size + EthernetHeader.Size + Ipv4Header.Size + segment.Length];
        VirtioNetHeader header = link ?? new VirtioNetHeader
        {
            Flags = VirtioNetFlags.NeedsChecksum,
            ChecksumStart = EthernetHeader.Size + Ipv4Header.Size,
            ChecksumOffset = (ushort)checksumOffset,
        };
        header.WriteTo(frame);
        Span<byte> bytes = frame.AsSpan(VirtioNetHeader.Size);
        new EthernetHeader(to, s_ours, EtherType.IPv4).WriteTo(bytes);
        new Ipv4Header
        {
            TotalBytes = Ipv4Header.Size + segment.Length,
            TimeToLive = 64,
            Protocol = protocol,
            Source = s_us,
            Destination = s_kernel,
        }.WriteTo(bytes[EthernetHeader.Size..]);
        uint sum = InternetChecksum.PseudoHeader(s_us, s_kernel, protocol, segment.Length);
        ushort partial = InternetChecksum.Fold(sum);
        (segment[checksumOffset], segment[checksumOffset + 1]) = ((byte)(partial >> 8), (byte)partial);
        segment.CopyTo(bytes[(EthernetHeader.Size + Ipv4Header.Size)..]);
        Assert.Equal(Errno.Success, tap.TryWrite(frame));
    }

    private static byte[] UdpHeader(ushort to, int payloadBytes) =>
    [
        OurPort >> 8, OurPort & 0xFF, (byte)(to >> 8), (byte)to, (byte)((payloadBytes + 8) >> 8),
        (byte)(payloadBytes + 8), 0, 0,
    ];

    private static byte[] Tcp(TcpFlags flags, uint sequence, uint acknowledgement, byte[] options, byte[] payload)
    {
        byte[] segment = new byte[TcpHeader.Size + options.Length + payload.Length];
        new TcpHeader
        {
            SourcePort = OurPort,
            DestinationPort = 7001,
            Sequence = sequence,
            Acknowledgement = acknowledgement,
            HeaderBytes = TcpHeader.Size + options.Length,
            Flags = flags,
            Window = ushort.MaxValue,
        }.WriteTo(segment);
        options.CopyTo(segment, TcpHeader.Size);
        payload.CopyTo(segment, TcpHeader.Size + options.Length);
        return segment;
    }

    private static byte[] Pattern(int length) =>
        [.. Enumerable.Range(0, length).Select(i => (byte)((i * 7) + (i >> 8)))];
}
