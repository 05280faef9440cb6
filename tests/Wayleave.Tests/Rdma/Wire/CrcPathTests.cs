using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma.Wire;

/// <summary>Every way to compute the CRC against the definition, one bit at a time.</summary>
public class CrcPathTests
{
    private const byte Untouched = 0xA5;

    public static TheoryData<CrcPathName> Paths => new(Enum.GetValues<CrcPathName>());

    [Theory]
    [MemberData(nameof(Paths))]
    public void Every_path_agrees_with_the_definition_at_every_short_length_and_alignment(CrcPathName name)
    {
        CrcPath path = Require(name);
        byte[] source = new byte[1024];
        byte[] destination = new byte[1024];
        SplitMix64 random = new(1);
        random.Fill(source);
        for (int length = 0; length <= 300; length++)
        {
            int offset = random.Next(64);
            AssertAgrees(path, (uint)random.NextUInt64(), source.AsSpan(offset, length), destination, random.Next(64));
        }
    }

    [Theory]
    [MemberData(nameof(Paths))]
    public void Every_path_agrees_with_the_definition_on_long_runs(CrcPathName name)
    {
        CrcPath path = Require(name);
        byte[] source = new byte[70_000];
        byte[] destination = new byte[70_000];
        SplitMix64 random = new(2);
        random.Fill(source);
        for (int round = 0; round < 60; round++)
        {
            int length = round < 40 ? 300 + random.Next(9000) : random.Next(65_536);
            ReadOnlySpan<byte> run = source.AsSpan(random.Next(64), length);
            AssertAgrees(path, (uint)random.NextUInt64(), run, destination, random.Next(64));
        }
    }

    [Fact]
    public void A_run_may_be_fed_in_pieces()
    {
        byte[] bytes = new byte[5000];
        SplitMix64 random = new(3);
        random.Fill(bytes);
        uint whole = Icrc.Append(uint.MaxValue, bytes);
        for (int run = 0; run < 200; run++)
        {
            int cut = random.Next(bytes.Length + 1);
            Assert.Equal(whole, Icrc.Append(Icrc.Append(uint.MaxValue, bytes.AsSpan(0, cut)), bytes.AsSpan(cut)));
        }
    }

    [Fact]
    public void A_copy_onto_itself_changes_nothing()
    {
        byte[] bytes = new byte[4096];
        new SplitMix64(4).Fill(bytes);
        byte[] before = [.. bytes];
        Assert.Equal(Icrc.Append(7, before), Icrc.AppendCopy(7, bytes, bytes));
        Assert.Equal(before, bytes);
    }

    [Fact]
    public void A_copy_into_too_short_a_destination_is_refused_before_a_byte_is_written()
    {
        byte[] destination = new byte[511];
        Assert.Throws<ArgumentOutOfRangeException>(() => Icrc.AppendCopy(0, new byte[512].AsSpan(), destination));
        Assert.All(destination, b => Assert.Equal(0, b));
    }

    [Fact]
    public void The_check_value_of_crc_32_comes_out() =>
        Assert.Equal(0xCBF43926, ~Icrc.Append(uint.MaxValue, "123456789"u8));

    [Fact]
    public void Both_multiplications_agree_and_powers_of_x_have_inverses()
    {
        SplitMix64 random = new(5);
        for (int run = 0; run < 2000; run++)
        {
            uint left = (uint)random.NextUInt64();
            uint right = (uint)random.NextUInt64();
            Assert.Equal(CrcPolynomial.MultiplyBitwise(left, right), CrcPolynomial.Multiply(left, right));
            int bytes = random.Next(65_536);
            uint shifted = CrcTable.Append(left, new byte[bytes]);
            Assert.Equal(left, CrcPolynomial.DivideByXToThe8(shifted, bytes));
            uint power = CrcPolynomial.PowerOfX(right);
            uint inverse = CrcPolynomial.PowerOfX(uint.MaxValue - right);
            Assert.Equal(CrcPolynomial.One, CrcPolynomial.Multiply(power, inverse));
        }
    }

    private static CrcPath Require(CrcPathName name)
    {
        CrcPath path = (CrcPath)name;
        Assert.SkipUnless(path <= Icrc.BestPath, $"this processor has no {path}");
        return path;
    }

    private static void AssertAgrees(CrcPath path, uint register, ReadOnlySpan<byte> source, byte[] destination, int at)
    {
        uint expected = BitByBit(register, source);
        Assert.Equal(expected, Icrc.Append(path, register, source));
        Array.Fill(destination, Untouched);
        Assert.Equal(expected, Icrc.AppendCopy(path, register, source, destination.AsSpan(at, source.Length)));
        Assert.True(destination.AsSpan(at, source.Length).SequenceEqual(source));
        Assert.Equal(-1, destination.AsSpan(0, at).IndexOfAnyExcept(Untouched));
        Assert.Equal(-1, destination.AsSpan(at + source.Length).IndexOfAnyExcept(Untouched));

        // Others are copied meanwhile, which it does not see.
        byte[] others = [.. source.ToArray().Select(b => (byte)(b * 31 + 7))];
        Array.Fill(destination, Untouched);
        Span<byte> copy = destination.AsSpan(at, source.Length);
        Assert.Equal(expected, Icrc.AppendWhileCopying(path, register, source, others, copy));
        Assert.True(copy.SequenceEqual(others));
        Assert.Equal(-1, destination.AsSpan(0, at).IndexOfAnyExcept(Untouched));
        Assert.Equal(-1, destination.AsSpan(at + source.Length).IndexOfAnyExcept(Untouched));
    }

    private static uint BitByBit(uint register, ReadOnlySpan<byte> bytes)
    {
        foreach (byte b in bytes)
        {
            register ^= b;
            for (int bit = 0; bit < 8; bit++)
            {
                register = (register & 1) != 0 ? register >> 1 ^ 0xEDB8_8320 : register >> 1;
            }
        }

        return register;
    }

    /// <summary>
    /// The names of <see cref="CrcPath"/>, which is internal and so cannot stand in the signature of a test.
    /// </summary>
    public enum CrcPathName
    {
        Table,
        Fold128,
        Fold256,
        Fold512,
    }
}
