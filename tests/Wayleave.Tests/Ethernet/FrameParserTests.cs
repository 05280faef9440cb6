using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet;

public sealed class FrameParserTests
{
    private static readonly TestFrame s_ipv6 = new() { From = "fd00::2", To = "fd00::1" };

    [Fact]
    public void A_segment_over_IPv4_is_found_behind_its_headers()
    {
        byte[] frame = new TestFrame { Options = new byte[12], Payload = TestFrame.Bytes(100) }.Tcp();

        Assert.Equal(FrameDrop.None, FrameParser.Parse(frame, default, out FrameLayout layout));
        Assert.Equal(FrameKind.Tcp, layout.Kind);
        Assert.Equal((14, 34, 66, 166), Offsets(layout));
        Assert.Equal((40000, 5201), (layout.SourcePort, layout.DestinationPort));
        Assert.Equal("10.0.0.2", layout.Source.ToString());
        Assert.Equal(1000u, layout.Tcp.Sequence);
        Assert.Equal(TcpFlags.Ack | TcpFlags.Psh, layout.Tcp.Flags);
        Assert.Equal(100, layout.PayloadBytes);
    }

    [Fact]
    public void A_segment_over_IPv6_is_found_behind_its_extension_headers_and_its_tag()
    {
        byte[] frame = (s_ipv6 with
        {
            Vlan = 7,
            FirstExtension = IpProtocol.HopByHopOptions,
            Extensions = [60, 0, 1, 4, 0, 0, 0, 0, 6, 1, 5, 2, 0, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0],
            Payload = TestFrame.Bytes(9),
        }).Tcp();

        Assert.Equal(FrameDrop.None, FrameParser.Parse(frame, default, out FrameLayout layout));
        Assert.Equal((ushort)7, layout.Vlan);
        Assert.Equal((18, 82, 102, 111), Offsets(layout));
        Assert.Equal("fd00::2", layout.Source.ToString());
    }

    [Fact]
    public void The_padding_of_a_short_frame_is_no_payload()
    {
        byte[] frame = [.. new TestFrame { Payload = [1, 2] }.Tcp(), 9, 9, 9, 9];

        Assert.Equal(FrameDrop.None, FrameParser.Parse(frame, default, out FrameLayout layout));
        Assert.Equal(2, layout.PayloadBytes);
    }

    [Fact]
    public void Other_protocols_are_handed_on_whole_and_their_checksums_are_verified()
    {
        foreach (TestFrame peer in (TestFrame[])[new TestFrame(), s_ipv6])
        {
            byte[] icmp = (peer with { Payload = TestFrame.Bytes(56) }).Icmp();
            byte[] udp = (peer with { Payload = TestFrame.Bytes(33) }).Udp();
            Assert.Equal(FrameDrop.None, FrameParser.Parse(icmp, default, out FrameLayout echo));
            Assert.Equal(FrameDrop.None, FrameParser.Parse(udp, default, out FrameLayout datagram));
            Assert.Equal((FrameKind.Other, FrameKind.Other), (echo.Kind, datagram.Kind));
            icmp[^1] ^= 1;
            udp[^1] ^= 1;
            Assert.Equal(FrameDrop.TransportChecksum, FrameParser.Parse(icmp, default, out _));
            Assert.Equal(FrameDrop.TransportChecksum, FrameParser.Parse(udp, default, out _));
        }

        Assert.Equal(FrameDrop.None, FrameParser.Parse(new TestFrame().Arp(), default, out FrameLayout arp));
        Assert.Equal(EtherType.Arp, arp.EtherType);
    }

    [Fact]
    public void TCP_56_A_partial_checksum_and_one_that_the_link_vouches_for_are_accepted_and_a_bad_one_is_not()
    {
        TestFrame partial = new() { LeavesChecksum = true, Payload = TestFrame.Bytes(50) };
        byte[] frame = partial.Tcp();
        Assert.Equal(FrameDrop.None, FrameParser.Parse(frame, partial.Link(frame), out _));
        VirtioNetHeader vouched = new() { Flags = VirtioNetFlags.DataValid };
        Assert.Equal(FrameDrop.None, FrameParser.Parse(frame, vouched, out _));
        Assert.Equal(FrameDrop.TransportChecksum, FrameParser.Parse(frame, default, out _));
    }

    [Theory]
    [InlineData(FrameDrop.NetworkHeader, 14, 0x44)] // IHL 4
    [InlineData(FrameDrop.NetworkHeader, 14, 0x65)] // version 6
    [InlineData(FrameDrop.NetworkHeader, 16, 0xFF)] // total length beyond the frame
    [InlineData(FrameDrop.NetworkHeader, 17, 19)] // total length below the header
    [InlineData(FrameDrop.NetworkOptions, 14, 0x46)]
    [InlineData(FrameDrop.NetworkOptions, 14, 0x4F)]
    [InlineData(FrameDrop.Fragment, 20, 0x20)] // MF
    [InlineData(FrameDrop.Fragment, 21, 1)] // offset 8
    [InlineData(FrameDrop.Martian, 22, 0)] // no hop left
    public void H_17_IPv4_headers_that_an_end_host_does_not_take_are_dropped(FrameDrop expected, int at, byte value)
    {
        byte[] frame = new TestFrame { Payload = TestFrame.Bytes(60) }.Tcp();
        frame[at] = value;
        Reseal(frame);

        Assert.Equal(expected, FrameParser.Parse(frame, default, out _));
    }

    [Fact]
    public void H_17_An_IPv4_header_with_a_wrong_checksum_is_dropped()
    {
        byte[] frame = new TestFrame().Tcp();
        frame[24] ^= 0x10;
        Assert.Equal(FrameDrop.NetworkChecksum, FrameParser.Parse(frame, default, out _));
    }

    public static TheoryData<string, byte[], IpProtocol, FrameDrop> Extensions
    {
        get
        {
            const FrameDrop Refused = FrameDrop.ExtensionHeaders;
            byte[] fifty = [.. Enumerable.Repeat<byte[]>([60, 0, 1, 4, 0, 0, 0, 0], 50).SelectMany(h => h)];
            byte[] inSecondPlace = [0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
            return new TheoryData<string, byte[], IpProtocol, FrameDrop>
            {
                { "fifty headers", fifty, IpProtocol.DestinationOptions, Refused },
                { "too long", [6, 200, 1, 4, 0, 0, 0, 0], IpProtocol.HopByHopOptions, Refused },
                { "264 bytes", [6, 32, .. new byte[262]], IpProtocol.DestinationOptions, Refused },
                { "option too long", [6, 0, 5, 9, 0, 0, 0, 0], IpProtocol.HopByHopOptions, Refused },
                { "option not to be skipped", [6, 0, 0x45, 4, 0, 0, 0, 0], IpProtocol.HopByHopOptions, Refused },
                { "jumbo", [6, 0, 0xC2, 4, 0, 1, 0, 0], IpProtocol.HopByHopOptions, Refused },
                { "hop-by-hop in second place", inSecondPlace, IpProtocol.DestinationOptions, Refused },
                { "routing header", [6, 0, 0, 0, 0, 0, 0, 0], IpProtocol.Routing, Refused },
                { "fragment header", [6, 0, 0, 0, 0, 0, 0, 1], IpProtocol.Fragment, FrameDrop.Fragment },
            };
        }
    }

    [Theory]
    [MemberData(nameof(Extensions))]
    public void H_18_Extension_headers_are_bounded_and_no_fragments_come_in(
        string what, byte[] headers, IpProtocol first, FrameDrop expected)
    {
        byte[] frame = (s_ipv6 with { FirstExtension = first, Extensions = headers }).Tcp();
        Assert.True(FrameParser.Parse(frame, default, out _) == expected, what);
    }

    [Theory]
    [InlineData(0x40)] // data offset 4
    [InlineData(0xF0)] // beyond the segment
    public void H_19_A_data_offset_that_cannot_be_drops_the_segment(byte offset)
    {
        byte[] frame = new TestFrame { Payload = [1, 2, 3] }.Tcp();
        frame[46] = offset;
        Assert.Equal(FrameDrop.TransportHeader, FrameParser.Parse(frame, default, out _));
    }

    public static TheoryData<string, VirtioNetHeader> LinkHeaders => new()
    {
        { "csum_start 0xFFFF", Sane() with { ChecksumStart = 0xFFFF } },
        { "csum_start in the IP header", Sane() with { ChecksumStart = 26 } },
        { "csum_offset of UDP", Sane() with { ChecksumOffset = 6 } },
        { "csum_offset beyond the frame", Sane() with { ChecksumOffset = 0xFFF0 } },
        { "gso_size 0", Sane() with { GsoBytes = 0 } },
        { "gso 5 on TCP", Sane() with { Gso = GsoType.UdpL4 } },
        { "gso of IPv6 on IPv4", Sane() with { Gso = GsoType.TcpIPv6 } },
        { "unknown gso", Sane() with { Gso = (GsoType)77 } },
        { "gso without a checksum to finish", Sane() with { Flags = VirtioNetFlags.DataValid } },
        { "hdr_len beyond the frame", Sane() with { HeaderBytes = 20000 } },
        { "gso_size without gso", Sane() with { Gso = GsoType.None } },
        { "ECN without gso", Sane() with { Gso = GsoType.None, GsoBytes = 0, HasEcn = true } },
    };

    [Theory]
    [MemberData(nameof(LinkHeaders))]
    public void H_21_A_link_header_that_contradicts_the_packet_drops_it(string what, VirtioNetHeader link)
    {
        byte[] frame = new TestFrame { GsoBytes = 1000, Payload = TestFrame.Bytes(3000) }.Tcp();
        Assert.Equal(FrameDrop.None, FrameParser.Parse(frame, Sane(), out _));
        Assert.True(FrameParser.Parse(frame, link, out _) == FrameDrop.LinkHeader, what);
    }

    [Theory]
    [InlineData("10.0.0.1", "10.0.0.1", FrameDrop.Martian)]
    [InlineData("224.0.0.5", "10.0.0.1", FrameDrop.Martian)]
    [InlineData("255.255.255.255", "10.0.0.1", FrameDrop.Martian)]
    [InlineData("127.0.0.1", "10.0.0.1", FrameDrop.Martian)]
    [InlineData("0.0.0.0", "10.0.0.1", FrameDrop.Martian)]
    [InlineData("10.0.0.2", "224.0.0.1", FrameDrop.TransportHeader)]
    [InlineData("fd00::1", "fd00::1", FrameDrop.Martian)]
    [InlineData("ff02::1", "fd00::1", FrameDrop.Martian)]
    [InlineData("::1", "fd00::1", FrameDrop.Martian)]
    [InlineData("::", "fd00::1", FrameDrop.Martian)]
    public void H_22_Segments_between_addresses_that_cannot_talk_are_dropped(string from, string to, FrameDrop expected)
    {
        byte[] frame = new TestFrame { From = from, To = to }.Tcp();
        Assert.Equal(expected, FrameParser.Parse(frame, default, out _));
    }

    [Theory]
    [InlineData(0, 5201)]
    [InlineData(40000, 0)]
    public void H_22_Port_zero_is_dropped(ushort from, ushort to)
    {
        TestFrame frame = new() { FromPort = from, ToPort = to };
        Assert.Equal(FrameDrop.TransportHeader, FrameParser.Parse(frame.Tcp(), default, out _));
        Assert.Equal(FrameDrop.TransportHeader, FrameParser.Parse(frame.Udp(), default, out _));
    }

    [Fact]
    public void H_22_A_frame_from_a_group_and_a_segment_to_one_are_dropped()
    {
        byte[] from = new TestFrame { Source = MacAddress.Broadcast }.Tcp();
        byte[] to = new TestFrame { Destination = MacAddress.Broadcast }.Tcp();
        Assert.Equal(FrameDrop.GroupSource, FrameParser.Parse(from, default, out _));
        Assert.Equal(FrameDrop.TransportHeader, FrameParser.Parse(to, default, out _));
    }

    [Fact]
    public void F_08_No_bytes_make_the_parser_throw_and_what_it_accepts_lies_within_the_frame()
    {
        SplitMix64 random = new(8);
        byte[][] seeds =
        [
            new TestFrame { Payload = TestFrame.Bytes(80), Options = new byte[12] }.Tcp(),
            (s_ipv6 with
            {
                Payload = TestFrame.Bytes(80),
                FirstExtension = IpProtocol.DestinationOptions,
                Extensions = [6, 0, 1, 4, 0, 0, 0, 0],
            }).Tcp(),
            new TestFrame { Vlan = 3, Payload = TestFrame.Bytes(20) }.Udp(),
            s_ipv6.Icmp(),
            new TestFrame().Arp(),
        ];
        int accepted = 0;
        for (int run = 0; run < FuzzRounds.Of(200_000); run++)
        {
            byte[] frame = [.. seeds[random.Next(seeds.Length)]];
            for (int change = random.Next(4); change > 0; change--)
            {
                frame[random.Next(frame.Length)] = (byte)random.Next(256);
            }

            int length = random.Next(4) == 0 ? random.Next(frame.Length + 1) : frame.Length;
            VirtioNetHeader link = random.Next(2) == 0
                ? new VirtioNetHeader { Flags = VirtioNetFlags.DataValid }
                : new VirtioNetHeader
                {
                    Flags = (VirtioNetFlags)random.Next(4),
                    Gso = (GsoType)random.Next(8),
                    GsoBytes = (ushort)random.Next(2000),
                    HeaderBytes = (ushort)random.Next(300),
                    ChecksumStart = (ushort)(random.Next(2) == 0 ? 34 : random.Next(65536)),
                    ChecksumOffset = (ushort)(random.Next(2) == 0 ? 16 : random.Next(65536)),
                };
            if (FrameParser.Parse(frame.AsSpan(0, length), link, out FrameLayout layout) != FrameDrop.None)
            {
                continue;
            }

            accepted++;
            Assert.InRange(layout.NetworkOffset, EthernetHeader.Size, layout.TransportOffset);
            Assert.InRange(layout.PayloadOffset, layout.TransportOffset, layout.EndOffset);
            Assert.InRange(layout.EndOffset, layout.PayloadOffset, length);
            Assert.True(
                (link.Flags & VirtioNetFlags.NeedsChecksum) == 0
                || link.ChecksumStart + link.ChecksumOffset + 2 <= layout.EndOffset);
        }

        Assert.InRange(accepted, FuzzRounds.Of(10_000), FuzzRounds.Of(200_000));
    }

    private static VirtioNetHeader Sane() => new()
    {
        Flags = VirtioNetFlags.NeedsChecksum,
        Gso = GsoType.TcpIPv4,
        GsoBytes = 1000,
        HeaderBytes = 54,
        ChecksumStart = 34,
        ChecksumOffset = 16,
    };

    private static (int, int, int, int) Offsets(in FrameLayout layout) =>
        (layout.NetworkOffset, layout.TransportOffset, layout.PayloadOffset, layout.EndOffset);

    private static void Reseal(byte[] frame)
    {
        int length = Math.Min((frame[14] & 0xF) * 4, frame.Length - 14);
        Span<byte> header = frame.AsSpan(14, Math.Max(length, 20));
        TestFrame.Put16(header, 10, 0);
        TestFrame.Put16(header, 10, InternetChecksum.Finish(InternetChecksum.Add(header)));
    }
}
