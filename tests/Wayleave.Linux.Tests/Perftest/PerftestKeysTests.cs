using System.Text;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Perftest;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Linux.Tests.Perftest;

/// <summary>What perftest's sides tell each other of queue pairs, as text and as a struct.</summary>
public class PerftestKeysTests
{
    private static readonly PerftestKeys s_keys = new(
        Lid: 0,
        OutstandingReads: 16,
        QpNumber: 0x00011a,
        Psn: 0xc0ffee,
        RKey: 0x1234abcd,
        Address: 0x00007f5566778000,
        Gid.FromIPv4(0x0A580002),
        SharedReceiveNumber: 0);

    // As ib_write_bw 6.06 prints it.
    private const string Transcript =
        "0000:0010:00011a:c0ffee:1234abcd:00007f5566778000:"
        + "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:58:00:02:00000000:\0";

    [Fact]
    public void F_07_The_text_of_perftest_is_read_and_written_byte_for_byte()
    {
        byte[] text = new byte[PerftestKeys.TextBytes];
        s_keys.WriteText(text);
        Assert.Equal(Transcript, Encoding.ASCII.GetString(text));
        Assert.True(PerftestKeys.TryParseText(text, out PerftestKeys read));
        Assert.Equal(s_keys, read);
    }

    [Fact]
    public void F_07_What_is_written_is_read_again_as_text_and_as_struct()
    {
        SplitMix64 random = new(7);
        byte[] text = new byte[PerftestKeys.TextBytes], binary = new byte[PerftestKeys.BinaryBytes];
        string? hunt = Environment.GetEnvironmentVariable("WAYLEAVE_FUZZ_ROUNDS");
        int factor = int.TryParse(hunt, out int rounds) ? rounds : 1;
        for (int i = 0; i < 2000 * factor; i++)
        {
            PerftestKeys keys = new(
                (int)(random.NextUInt64() & 0xFFFF),
                (int)(random.NextUInt64() & 0xFFFF),
                (uint)(random.NextUInt64() & 0xFFFFFF),
                (uint)(random.NextUInt64() & 0xFFFFFF),
                (uint)random.NextUInt64(),
                random.NextUInt64(),
                new Gid(random.NextUInt64(), random.NextUInt64()),
                (uint)random.NextUInt64());
            keys.WriteText(text);
            Assert.True(PerftestKeys.TryParseText(text, out PerftestKeys fromText));
            Assert.Equal(keys, fromText);
            keys.WriteBinary(binary);
            Assert.True(PerftestKeys.TryParseBinary(binary, out PerftestKeys fromBinary));
            Assert.Equal(keys, fromBinary);
        }
    }

    [Fact]
    public void F_07_H_16_A_text_with_any_byte_changed_is_refused_or_says_what_it_says()
    {
        byte[] good = Encoding.ASCII.GetBytes(Transcript), again = new byte[PerftestKeys.TextBytes];
        for (int at = 0; at < good.Length; at++)
        {
            for (int value = 0; value < 256; value++)
            {
                byte[] text = [.. good];
                text[at] = (byte)value;
                bool isDigit = good[at] is not ((byte)':' or 0);
                bool mayBe = value == good[at] || (isDigit && char.IsAsciiHexDigit((char)value));
                Assert.Equal(mayBe, PerftestKeys.TryParseText(text, out PerftestKeys keys));
                if (mayBe)
                {
                    keys.WriteText(again);
                    Assert.Equal(Encoding.ASCII.GetString(text).ToLowerInvariant(), Encoding.ASCII.GetString(again));
                }
            }
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(59)]
    [InlineData(107)]
    [InlineData(109)]
    public void H_16_A_text_of_another_length_is_refused(int length)
    {
        byte[] text = new byte[length];
        Encoding.ASCII.GetBytes(Transcript).AsSpan(0, Math.Min(length, Transcript.Length)).CopyTo(text);
        Assert.False(PerftestKeys.TryParseText(text, out _));
    }

    [Fact]
    public void F_07_The_struct_of_later_versions_has_one_address_more()
    {
        byte[] binary = new byte[PerftestKeys.BinaryBytes];
        s_keys.WriteBinary(binary);
        byte[] longer = [.. binary[..32], 1, 2, 3, 4, 5, 6, 7, 8, .. binary[32..]];
        Assert.True(PerftestKeys.TryParseBinary(longer, out PerftestKeys keys));
        Assert.Equal(s_keys, keys);
        for (int length = 0; length < 80; length++)
        {
            bool fits = length is PerftestKeys.BinaryBytes or PerftestKeys.BinaryBytesMax;
            Assert.Equal(fits, PerftestKeys.TryParseBinary(new byte[length], out _));
        }
    }

    [Theory]
    [InlineData("6.24", 6.24)]
    [InlineData("6.06", 6.06)]
    [InlineData("5.70", 5.70)]
    [InlineData("9e999", null)]
    [InlineData("5.69", null)]
    [InlineData("7.0", null)]
    [InlineData("6.0.6", null)]
    [InlineData(".", null)]
    [InlineData("", null)]
    [InlineData("-6.24", null)]
    [InlineData("NaN", null)]
    [InlineData("6.2400000000000", 6.24)]
    public void H_16_A_version_is_digits_and_a_point(string text, double? version)
    {
        byte[] bytes = new byte[PerftestVersion.TextBytes];
        Encoding.ASCII.GetBytes(text, bytes);
        Assert.Equal(version is not null, PerftestVersion.TryParse(bytes, out double read));
        Assert.True(version is null || version == read);
    }

    [Fact]
    public void H_16_A_version_without_an_end_is_refused_and_described()
    {
        byte[] bytes = [.. "6.24000000000000"u8];
        Assert.False(PerftestVersion.TryParse(bytes, out _));
        Assert.Equal("6.24000000000000", PerftestVersion.Describe(bytes));
        Assert.Equal("?[1m", PerftestVersion.Describe("\u001b[1m"u8));
    }
}
