using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet;

public sealed class WireTests
{
    // RFC 1071 section 3.
    [Fact]
    public void The_checksum_of_the_example_in_RFC_1071_is_right()
    {
        byte[] bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        Assert.Equal(0xddf2, InternetChecksum.Fold(InternetChecksum.Add(bytes)));
        Assert.Equal(0x220d, InternetChecksum.Finish(InternetChecksum.Add(bytes)));
    }

    [Fact]
    public void A_checksum_is_that_of_a_sum_word_by_word_at_every_length_and_every_place()
    {
        SplitMix64 random = new(1071);
        byte[] bytes = new byte[70_000];
        for (int i = 0; i < bytes.Length; i++)
        {
            bytes[i] = (byte)random.Next(256);
        }

        foreach (int length in (int[])[.. Enumerable.Range(0, 200), 1460, 65535, 65536, 69_000])
        {
            int start = random.Next(16);
            ReadOnlySpan<byte> part = bytes.AsSpan(start, length);
            Assert.Equal(Reference(part), InternetChecksum.Fold(InternetChecksum.Add(part)));
        }
    }

    [Fact]
    public void A_sum_of_many_parts_does_not_overflow()
    {
        byte[] ones = new byte[1000];
        Array.Fill(ones, (byte)0xFF);
        uint sum = 0xFFFF_FFFF;
        for (int i = 0; i < 1000; i++)
        {
            sum = InternetChecksum.Add(ones, sum);
        }

        Assert.Equal(0, InternetChecksum.Finish(sum));
    }

    [Theory]
    [InlineData("10.1.2.3", true)]
    [InlineData("::1", false)]
    [InlineData("fd00:1:2:3:4:5:6:7", false)]
    [InlineData("fe80::1", false)]
    public void Addresses_are_read_and_printed(string text, bool isIPv4)
    {
        Assert.True(IpAddress.TryParse(text, out IpAddress address));
        Assert.Equal((text, isIPv4), (address.ToString(), address.IsIPv4));
        byte[] bytes = new byte[16];
        Assert.Equal(isIPv4 ? 4 : 16, address.WriteTo(bytes));
        Assert.Equal(address, isIPv4 ? IpAddress.ReadIPv4(bytes) : IpAddress.ReadIPv6(bytes));
    }

    [Theory]
    [InlineData("")]
    [InlineData("10.1.2")]
    [InlineData("10.1.2.3/24")]
    [InlineData("fe80::1%eth0")]
    [InlineData("[::1]")]
    public void What_is_no_plain_address_is_refused(string text) => Assert.False(IpAddress.TryParse(text, out _));

    [Theory]
    [InlineData("02:00:00:0a:ff:01", 0x0200000AFF01UL)]
    [InlineData("ff:ff:ff:ff:ff:ff", 0xFFFFFFFFFFFFUL)]
    public void Ethernet_addresses_are_read_and_printed(string text, ulong value)
    {
        Assert.True(MacAddress.TryParse(text, out MacAddress address));
        Assert.Equal((new MacAddress(value), text), (address, address.ToString()));
    }

    [Theory]
    [InlineData("")]
    [InlineData("02:00:00:0a:ff")]
    [InlineData("02-00-00-0a-ff-01")]
    [InlineData("02:00:00:0a:ff:0g")]
    [InlineData("02:00:00:0a:ff:001")]
    public void What_is_no_Ethernet_address_is_refused(string text) => Assert.False(MacAddress.TryParse(text, out _));

    // What Linux writes in front of a super-packet of 1460-byte segments.
    [Fact]
    public void The_link_header_of_a_kernel_segment_is_read_and_written()
    {
        byte[] bytes = [1, 0x81, 54, 0, 0xB4, 5, 34, 0, 16, 0];
        Assert.True(VirtioNetHeader.TryParse(bytes, out VirtioNetHeader header));
        Assert.Equal(VirtioNetFlags.NeedsChecksum, header.Flags);
        Assert.Equal((GsoType.TcpIPv4, true), (header.Gso, header.HasEcn));
        Assert.Equal((54, 1460), (header.HeaderBytes, header.GsoBytes));
        Assert.Equal((34, 16), (header.ChecksumStart, header.ChecksumOffset));
        byte[] written = new byte[VirtioNetHeader.Size];
        header.WriteTo(written);
        Assert.Equal(bytes, written);
        Assert.False(VirtioNetHeader.TryParse(bytes.AsSpan(1), out _));
    }

    [Fact]
    public void A_TCP_header_that_was_written_is_read_again()
    {
        TcpHeader header = new()
        {
            SourcePort = 1,
            DestinationPort = 65535,
            Sequence = 0xFEDCBA98,
            Acknowledgement = 0x01234567,
            HeaderBytes = 60,
            Flags = TcpFlags.Syn | TcpFlags.Cwr,
            Window = 0xABCD,
            Checksum = 0x1234,
            UrgentPointer = 0x4321,
        };
        byte[] bytes = new byte[60];
        header.WriteTo(bytes);
        Assert.True(TcpHeader.TryParse(bytes, out TcpHeader read));
        Assert.Equal(header, read);
    }

    private static ushort Reference(ReadOnlySpan<byte> bytes)
    {
        ulong sum = 0;
        for (int i = 0; i < bytes.Length; i++)
        {
            sum += i % 2 == 0 ? (uint)bytes[i] << 8 : bytes[i];
        }

        while (sum >> 16 != 0)
        {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }

        return (ushort)sum;
    }
}
