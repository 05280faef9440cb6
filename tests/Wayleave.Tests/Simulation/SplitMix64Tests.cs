using System.Buffers.Binary;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Simulation;

public class SplitMix64Tests
{
    // The first numbers of the reference implementation (prng.di.unimi.it/splitmix64.c) for the seed 1234567.
    private static readonly ulong[] s_reference =
        [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821];

    [Fact]
    public void Numbers_are_those_of_the_reference()
    {
        SplitMix64 random = new(1234567);
        Assert.Equal(s_reference, s_reference.Select(_ => random.NextUInt64()));
    }

    [Fact]
    public void Fill_writes_the_numbers_little_endian()
    {
        byte[] bytes = new byte[20];
        new SplitMix64(1234567).Fill(bytes);
        Assert.Equal(s_reference[0], BinaryPrimitives.ReadUInt64LittleEndian(bytes));
        Assert.Equal(s_reference[1], BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(8)));
        Assert.Equal((uint)s_reference[2], BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(16)));
    }

    [Fact]
    public void A_bounded_number_reaches_every_value_and_no_other()
    {
        SplitMix64 random = new(1);
        Assert.Equal([0, 1, 2, 3, 4, 5, 6], Enumerable.Range(0, 1000).Select(_ => random.Next(7)).Distinct().Order());
    }
}
