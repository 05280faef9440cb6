using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma.Wire;

public class HeaderTests
{
    [Fact]
    public void A_base_header_keeps_every_bit_it_was_read_from()
    {
        byte[] bytes = Convert.FromHexString("1DBF1234FFABCDEFFF123456");
        Assert.True(Bth.TryParse(bytes, out Bth header));
        Assert.Equal(Opcode.RcAtomicWrite, header.Opcode);
        Assert.True(header.Solicited);
        Assert.False(header.MigrationRequest);
        Assert.Equal(3, header.PadCount);
        Assert.Equal(15, header.Version);
        Assert.Equal(0x1234, header.PKey);
        Assert.Equal(0xFF, header.CongestionByte);
        Assert.Equal(0xABCDEFu, header.DestQp);
        Assert.True(header.AckRequest);
        Assert.Equal(0x7F, header.Reserved7);
        Assert.Equal(0x123456u, header.Psn);
        byte[] written = new byte[Bth.Size];
        header.WriteTo(written);
        Assert.Equal(bytes, written);
    }

    [Fact]
    public void A_base_header_is_built_field_by_field()
    {
        Bth header = new()
        {
            Opcode = Opcode.RcWriteFirst,
            DestQp = 0x52,
            Psn = 0xA00000,
            AckRequest = true,
            PadCount = 1,
        };
        byte[] written = new byte[Bth.Size];
        header.WriteTo(written);
        Assert.Equal("0610FFFF0000005280A00000", Convert.ToHexString(written));
    }

    [Fact]
    public void Fields_too_wide_do_not_spill_into_their_neighbours()
    {
        Bth header = new() { DestQp = uint.MaxValue, Psn = uint.MaxValue, PadCount = 7 };
        Assert.False(header.AckRequest);
        Assert.False(header.MigrationRequest);
        Assert.Equal(0, header.CongestionByte);
        Assert.Equal(3, header.PadCount);
    }

    [Theory]
    [InlineData(0u, 1u, -1)]
    [InlineData(0xFFFFFFu, 0u, -1)]
    [InlineData(0u, 0xFFFFFFu, 1)]
    [InlineData(5u, 5u, 0)]
    [InlineData(0x7FFFFFu, 0u, 1)]
    [InlineData(0x800000u, 0u, -1)]
    [InlineData(0u, 0x800000u, -1)]
    [InlineData(0xFF000005u, 5u, 0)]
    public void Sequence_numbers_compare_modulo_two_to_the_24(uint left, uint right, int sign) =>
        Assert.Equal(sign, Math.Sign(Psn.Compare(left, right)));

    [Theory]
    [InlineData(0xFFFFFEu, 1u, 3)]
    [InlineData(1u, 0xFFFFFEu, -3)]
    [InlineData(7u, 7u, 0)]
    public void Distance_undoes_add(uint from, uint to, int distance)
    {
        Assert.Equal(distance, Psn.Distance(from, to));
        Assert.Equal(to, Psn.Add(from, (uint)distance));
    }

    [Theory]
    [InlineData("10.77.0.1", 0UL, 0x0000_FFFF_0A4D_0001UL)]
    [InlineData("fd77::2", 0xFD77_0000_0000_0000UL, 2UL)]
    [InlineData("::1", 0UL, 1UL)]
    public void A_gid_is_written_as_it_is_read(string text, ulong high, ulong low)
    {
        Assert.True(Gid.TryParse(text, out Gid gid));
        Assert.Equal(new Gid(high, low), gid);
        Assert.Equal(text, gid.ToString());
        byte[] bytes = new byte[Gid.Size];
        gid.WriteTo(bytes);
        Assert.Equal(gid, Gid.FromBytes(bytes));
    }

    [Theory]
    [InlineData("")]
    [InlineData("10.0.1")]
    [InlineData("10.0.0.0.1")]
    [InlineData("10.0.0.256")]
    [InlineData("10.0.0.")]
    [InlineData("010.0.0.1")]
    [InlineData("0x0a.0.0.1")]
    [InlineData("+1.0.0.1")]
    [InlineData("fe80::1%2")]
    [InlineData("[::1]")]
    [InlineData("::1/64")]
    [InlineData("host")]
    public void Text_that_is_no_address_is_no_gid(string text) => Assert.False(Gid.TryParse(text, out _));

    [Fact]
    public void An_ipv4_gid_is_the_mapped_address()
    {
        Assert.True(Gid.TryParse("::ffff:192.0.2.1", out Gid gid));
        Assert.True(gid.IsIPv4);
        Assert.Equal(Gid.FromIPv4(0xC0000201), gid);
        Assert.Equal("192.0.2.1", gid.ToString());
        Assert.False(new Gid(1, gid.Low).IsIPv4);
    }
}
