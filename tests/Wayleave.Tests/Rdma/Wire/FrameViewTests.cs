using System.Buffers.Binary;
using Wayleave.Devices.Link;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma.Wire;

public class FrameViewTests
{
    private static readonly FrameHeader s_ipv4 = new()
    {
        SourceMac = new MacAddress(0x02000000000A),
        DestinationMac = new MacAddress(0x02000000000B),
        Source = Gid.FromIPv4(0x0A4D0001),
        Destination = Gid.FromIPv4(0x0A4D0002),
        SourcePort = 0xC18C,
        Identification = 0xA01D,
        TrafficClass = 0xB9,
    };

    private static readonly FrameHeader s_ipv6 = s_ipv4 with
    {
        Source = new Gid(0xFD77_0000_0000_0000, 1),
        Destination = new Gid(0xFD77_0000_0000_0000, 2),
        Identification = 0,
        FlowLabel = 0xABCDE,
        HopLimit = 3,
    };

    public static TheoryData<int> Families => new(4, 6);

    [Theory]
    [MemberData(nameof(Families))]
    public void Headers_are_read_as_they_were_written(int family)
    {
        FrameHeader header = family == 4 ? s_ipv4 : s_ipv6;
        Assert.Equal(FrameError.None, FrameView.TryParse(Frame(header, payloadBytes: 16), out FrameView view));
        Assert.Equal(header, view.Header);
        Assert.Equal(16, view.UdpPayload.Length);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Trailing_bytes_of_the_frame_are_cut(int family)
    {
        byte[] frame = Frame(family == 4 ? s_ipv4 : s_ipv6, payloadBytes: 16);
        Assert.Equal(FrameError.None, FrameView.TryParse([.. frame, 1, 2, 3, 4], out FrameView view));
        Assert.Equal(16, view.UdpPayload.Length);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Every_truncation_of_a_frame_is_refused(int family)
    {
        byte[] frame = Frame(family == 4 ? s_ipv4 : s_ipv6, payloadBytes: 16);
        for (int length = 0; length < frame.Length; length++)
        {
            Assert.Equal(FrameError.Truncated, FrameView.TryParse(frame.AsSpan(0, length), out _));
        }
    }

    [Theory]
    [InlineData(0x8100)] // 802.1Q.
    [InlineData(0x8915)] // RoCE version 1.
    [InlineData(0x0806)] // ARP.
    public void Other_ether_types_are_refused(int etherType)
    {
        byte[] frame = Frame(s_ipv4, payloadBytes: 16);
        Put(frame, 12, etherType);
        Assert.Equal(FrameError.UnknownEtherType, FrameView.TryParse(frame, out _));
    }

    [Fact]
    public void An_ip_version_that_contradicts_the_ether_type_is_refused()
    {
        Assert.Equal(FrameError.WrongVersion, Error(s_ipv4, frame => frame[14] = 0x65));
        Assert.Equal(FrameError.WrongVersion, Error(s_ipv6, frame => frame[14] = 0x45));
        Assert.Equal(FrameError.WrongVersion, Error(s_ipv4, frame => frame[14] = 0x55));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(4)]
    [InlineData(6)]
    [InlineData(15)]
    public void H_17_An_ipv4_header_of_any_other_length_than_five_words_is_refused(int words) =>
        Assert.Equal(FrameError.IPv4HeaderLength, Error(s_ipv4, frame => frame[14] = (byte)(0x40 | words)));

    [Theory]
    [InlineData(0x2000)] // More fragments.
    [InlineData(0x0001)]
    [InlineData(0x1FFF)]
    public void H_17_A_fragment_is_refused(int flagsAndOffset) =>
        Assert.Equal(
            FrameError.Fragment,
            Error(s_ipv4, frame => Put(frame, 20, flagsAndOffset)));

    [Fact]
    public void H_17_A_total_length_beyond_the_frame_or_below_the_headers_is_refused()
    {
        Assert.Equal(FrameError.Truncated, Error(s_ipv4, frame => Put(frame, 16, 45)));
        Assert.Equal(FrameError.Truncated, Error(s_ipv4, frame => Put(frame, 16, 65535)));
        Assert.Equal(FrameError.InconsistentLength, Error(s_ipv4, frame => Put(frame, 16, 27)));
        Assert.Equal(FrameError.InconsistentLength, Error(s_ipv4, frame => Put(frame, 16, 0)));
    }

    [Theory]
    [InlineData(4, 15)]
    [InlineData(4, 23)]
    [InlineData(4, 25)]
    [InlineData(4, 0)]
    [InlineData(6, 7)]
    [InlineData(6, 23)]
    [InlineData(6, 65535)]
    public void A_udp_length_that_contradicts_the_ip_length_is_refused(int family, int udpLength) =>
        Assert.Equal(
            FrameError.InconsistentLength,
            Error(family == 4 ? s_ipv4 : s_ipv6, frame => Put(frame, family == 4 ? 38 : 58, udpLength)));

    [Theory]
    [InlineData(0)] // Hop-by-hop options; their length is not even looked at.
    [InlineData(43)] // Routing.
    [InlineData(44)] // Fragment.
    [InlineData(60)] // Destination options.
    [InlineData(6)] // TCP.
    public void H_18_An_ipv6_packet_with_any_other_next_header_than_udp_is_refused(int nextHeader) =>
        Assert.Equal(FrameError.NotUdp, Error(s_ipv6, frame => frame[20] = (byte)nextHeader));

    [Fact]
    public void H_18_Fifty_extension_headers_are_not_walked()
    {
        byte[] headers = new byte[50 * 8];
        for (int i = 0; i < 50; i++)
        {
            headers[8 * i] = i == 49 ? (byte)17 : (byte)60;
        }

        byte[] frame = Frame(s_ipv6, payloadBytes: 16);
        byte[] packet = [.. frame.AsSpan(14, 40), .. headers, .. frame.AsSpan(54)];
        packet[6] = 60;
        Put(packet, 4, packet.Length - 40);
        Assert.Equal(FrameError.NotUdp, FrameView.TryParseNetwork(packet, out _));
    }

    [Fact]
    public void An_ipv4_header_is_written_with_its_checksum() =>
        // The header of the worked vector V1.
        Assert.Equal(
            "4500002CA01D4000401186070A4D00010A4D0002",
            Convert.ToHexString(Frame(s_ipv4 with { TrafficClass = 0 }, payloadBytes: 16).AsSpan(14, 20)));

    [Fact]
    public void A_header_of_two_families_or_too_long_a_payload_is_not_written()
    {
        byte[] destination = new byte[FrameHeader.SizeMax];
        Assert.Throws<ArgumentException>(() => (s_ipv4 with { Source = s_ipv6.Source }).WriteTo(destination, 16));
        Assert.Throws<ArgumentOutOfRangeException>(() => s_ipv4.WriteTo(destination, 65_508));
        Assert.Throws<ArgumentOutOfRangeException>(() => s_ipv4.WriteTo(destination, -1));
        s_ipv4.WriteTo(destination, 65_507);
        s_ipv6.WriteTo(destination, 65_527);
    }

    [Fact]
    public void A_mac_address_is_written_with_colons()
    {
        Assert.Equal("02:00:0a:4d:00:01", Gid.FromIPv4(0x0A4D0001).ToMacAddress().ToString());
        byte[] bytes = new byte[MacAddress.Size];
        new MacAddress(0x0123456789AB).WriteTo(bytes);
        Assert.Equal("0123456789AB", Convert.ToHexString(bytes));
        Assert.Equal(new MacAddress(0x0123456789AB), MacAddress.FromBytes(bytes));
    }

    private static byte[] Frame(in FrameHeader header, int payloadBytes)
    {
        byte[] frame = new byte[header.Size + payloadBytes];
        header.WriteTo(frame, payloadBytes);
        return frame;
    }

    private static void Put(byte[] bytes, int offset, int value) =>
        BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(offset), (ushort)value);

    private static FrameError Error(in FrameHeader header, Action<byte[]> damage)
    {
        byte[] frame = Frame(header, payloadBytes: 16);
        damage(frame);
        FrameError error = FrameView.TryParse(frame, out FrameView view);
        Assert.True(view.Network.IsEmpty);
        return error;
    }
}
