using System.Numerics;
using Wayleave.Core;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Gpu.Compute;

/// <summary>
/// Every kernel does what it says to real bytes, in blocks that are smaller than its work, both ways.
/// </summary>
public class KernelTests
{
    private const ulong Page = ComputeFixture.Page;
    private const ulong AtA = ComputeFixture.Va, AtB = AtA + (4 * Page), AtC = AtB + (4 * Page);

    public static TheoryData<GpuCommandMode> Modes => [GpuCommandMode.Parsed, GpuCommandMode.Paged];

    [Theory]
    [MemberData(nameof(Modes))]
    public void A_fill_writes_its_value_and_nothing_behind_its_end(GpuCommandMode mode)
    {
        Setup s = new(mode);
        s.Do(s.Target(new GpuCommand { Opcode = GpuOpcode.Fill, Value = 0x01020304, Count = (2 * Page) - 4 }));
        Assert.Equal(0x01020304u, s.C<uint>()[0]);
        Assert.Equal(0x01020304u, s.C<uint>()[(int)(2 * Page / 4) - 2]);
        Assert.Equal(0u, s.C<uint>()[(int)(2 * Page / 4) - 1]);
    }

    [Theory]
    [MemberData(nameof(Modes))]
    public void A_copy_brings_every_byte(GpuCommandMode mode)
    {
        Setup s = new(mode);
        s.Do(s.All(new GpuCommand { Opcode = GpuOpcode.Copy, Count = 3 * Page }));
        Assert.Equal(s.A<byte>()[..(int)(3 * Page)], s.C<byte>()[..(int)(3 * Page)]);
        Assert.Equal(0, s.C<byte>()[(int)(3 * Page)]);
    }

    [Theory]
    [MemberData(nameof(Modes))]
    public void A_checksum_is_the_CRC_32C_of_RFC_3720(GpuCommandMode mode)
    {
        Setup s = new(mode);
        s.A<byte>()[..32].Clear();
        s.Do(s.All(new GpuCommand { Opcode = GpuOpcode.Checksum, Count = 32 }));
        Assert.Equal(0x8a9136aau, s.C<uint>()[0]); // B.4: 32 bytes of zeros
        s.A<byte>()[..32].Fill(0xff);
        s.Do(s.All(new GpuCommand { Opcode = GpuOpcode.Checksum, Count = 32 }));
        Assert.Equal(0x62a8ab43u, s.C<uint>()[0]); // 32 bytes of ones
        s.Do(s.All(new GpuCommand { Opcode = GpuOpcode.Checksum, Count = 3 * Page }));
        uint expected = uint.MaxValue;
        foreach (byte b in s.A<byte>()[..(int)(3 * Page)])
        {
            expected = BitOperations.Crc32C(expected, b);
        }

        Assert.Equal(~expected, s.C<uint>()[0]);
    }

    [Theory]
    [MemberData(nameof(Modes))]
    public void An_addition_adds_element_by_element_and_wraps(GpuCommandMode mode)
    {
        Setup s = new(mode);
        s.A<uint>()[700] = uint.MaxValue;
        s.B<uint>()[700] = 3;
        s.Do(s.All(new GpuCommand { Opcode = GpuOpcode.Add, Count = 1000 }));
        for (int i = 0; i < 1000; i++)
        {
            Assert.Equal(unchecked(s.A<uint>()[i] + s.B<uint>()[i]), s.C<uint>()[i]);
        }

        Assert.Equal((2u, 0u), (s.C<uint>()[700], s.C<uint>()[1000]));
    }

    [Theory]
    [MemberData(nameof(Modes))]
    public void A_gather_fetches_by_index_and_an_index_outside_the_table_ends_the_job(GpuCommandMode mode)
    {
        Setup s = new(mode);
        SplitMix64 random = new(5);
        for (int i = 0; i < 1500; i++)
        {
            s.B<uint>()[i] = (uint)(random.NextUInt64() % 1024);
        }

        GpuCommand gather = s.All(new GpuCommand { Opcode = GpuOpcode.Gather, Rows = 1024, Count = 1500 });
        s.Do(gather);
        for (int i = 0; i < 1500; i++)
        {
            Assert.Equal(s.A<uint>()[(int)s.B<uint>()[i]], s.C<uint>()[i]);
        }

        s.B<uint>()[3] = 1024;
        s.C<uint>().Clear();
        Assert.Equal(Errno.EFAULT, s.Fixture.Do(mode, gather));
        Assert.Equal(0u, s.C<uint>()[3]);
    }

    [Theory]
    [InlineData(GpuCommandMode.Parsed, 7, 5, 3)]
    [InlineData(GpuCommandMode.Paged, 33, 40, 17)]
    [InlineData(GpuCommandMode.Paged, 3, 7, 500)] // a row is more than a block
    public void A_product_of_matrices_is_the_sums_of_products(GpuCommandMode mode, int rows, int inner, int columns)
    {
        Setup s = new(mode);
        for (int i = 0; i < rows * inner; i++)
        {
            s.A<float>()[i] = (i % 11) - 5;
        }

        for (int i = 0; i < inner * columns; i++)
        {
            s.B<float>()[i] = (i % 7) * 0.5f;
        }

        s.Do(s.All(new GpuCommand
        {
            Opcode = GpuOpcode.MatrixMultiply,
            Rows = (uint)rows,
            Inner = (uint)inner,
            Count = (ulong)columns,
        }));
        for (int i = 0; i < rows; i++)
        {
            for (int j = 0; j < columns; j++)
            {
                float sum = 0;
                for (int k = 0; k < inner; k++)
                {
                    sum += s.A<float>()[(i * inner) + k] * s.B<float>()[(k * columns) + j];
                }

                Assert.Equal(sum, s.C<float>()[(i * columns) + j]);
            }
        }

        Assert.Equal(0f, s.C<float>()[rows * columns]);
    }

    [Theory]
    [MemberData(nameof(Modes))]
    public void Commands_of_one_job_run_one_after_the_other(GpuCommandMode mode)
    {
        Setup s = new(mode);
        GpuCommand fill = s.All(new GpuCommand { Opcode = GpuOpcode.Fill, Value = 7, Count = 2 * Page });
        GpuCommand onto = fill with { Target = fill.A, TargetHandle = fill.AHandle };
        s.Fixture.Do(mode, onto, s.All(new GpuCommand { Opcode = GpuOpcode.Copy, Count = 2 * Page }));
        Assert.Equal(7u, s.C<uint>()[2047]);
    }

    // Three buffers of four pages, known to commands by handle or by address; A and B hold something.
    private sealed class Setup
    {
        private readonly GpuCommandMode _mode;
        private readonly GpuBuffer[] _buffers = new GpuBuffer[3];
        private readonly GpuCommand _where;

        public Setup(GpuCommandMode mode)
        {
            _mode = mode;
            if (mode == GpuCommandMode.Paged)
            {
                _buffers = [Fixture.Map(AtA, 4), Fixture.Map(AtB, 4), Fixture.Map(AtC, 4)];
                _where = new GpuCommand { A = AtA, B = AtB, Target = AtC };
            }
            else
            {
                uint[] handles = new uint[3];
                for (int i = 0; i < 3; i++)
                {
                    (_buffers[i], handles[i]) = Fixture.Create($"buffer {i}", 4);
                }

                _where = new GpuCommand { AHandle = handles[0], BHandle = handles[1], TargetHandle = handles[2] };
            }

            SplitMix64 random = new(1);
            for (int i = 0; i < A<uint>().Length; i++)
            {
                (A<uint>()[i], B<uint>()[i]) = ((uint)random.NextUInt64(), (uint)random.NextUInt64());
            }
        }

        public ComputeFixture Fixture { get; } = new();

        public Span<T> A<T>()
            where T : struct => Fixture.Values<T>(_buffers[0]);

        public Span<T> B<T>()
            where T : struct => Fixture.Values<T>(_buffers[1]);

        public Span<T> C<T>()
            where T : struct => Fixture.Values<T>(_buffers[2]);

        public GpuCommand Target(GpuCommand command) =>
            command with { TargetHandle = _where.TargetHandle, Target = _where.Target };

        public GpuCommand All(GpuCommand command) => Target(command) with
        {
            AHandle = _where.AHandle,
            A = _where.A,
            BHandle = _where.BHandle,
            B = _where.B,
        };

        public void Do(GpuCommand command) => Assert.Equal(Errno.Success, Fixture.Do(_mode, command));
    }
}
