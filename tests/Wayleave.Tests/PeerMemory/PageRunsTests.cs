using Wayleave.Core.PeerMemory;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

public sealed class PageRunsTests
{
    /// <summary>Against an array of booleans, for many seeds.</summary>
    [Fact]
    public void Pages_are_taken_first_fit_and_never_twice()
    {
        for (ulong seed = 0; seed < 200; seed++)
        {
            SplitMix64 random = new(seed);
            PageRuns runs = new(64);
            bool[] taken = new bool[64];
            List<(ulong First, ulong Count)> held = [];
            for (int step = 0; step < 200; step++)
            {
                if (held.Count > 0 && random.Next(2) == 0)
                {
                    int index = random.Next(held.Count);
                    (ulong first, ulong count) = held[index];
                    held.RemoveAt(index);
                    runs.Return(first, count);
                    taken.AsSpan((int)first, (int)count).Clear();
                }
                else
                {
                    int count = 1 + random.Next(9);
                    int expected = FirstFit(taken, count);
                    Assert.Equal(expected >= 0, runs.TryTake((ulong)count, out ulong first));
                    if (expected >= 0)
                    {
                        Assert.Equal((ulong)expected, first);
                        taken.AsSpan(expected, count).Fill(true);
                        held.Add((first, (ulong)count));
                    }
                }

                Assert.Equal((ulong)taken.Count(t => !t), runs.FreePages);
            }
        }
    }

    [Fact]
    public void What_is_not_taken_cannot_come_back()
    {
        PageRuns runs = new(8);
        Assert.True(runs.TryTake(8, out _));
        runs.Return(2, 2);

        Assert.Throws<InvalidOperationException>(() => runs.Return(3, 1));
        Assert.Throws<InvalidOperationException>(() => runs.Return(1, 2));
        Assert.Throws<InvalidOperationException>(() => runs.Return(0, 9));
        Assert.Equal(2UL, runs.FreePages);
    }

    [Theory]
    [InlineData(0UL, 0UL)]
    [InlineData(1UL, 1UL)]
    [InlineData(4096UL, 1UL)]
    [InlineData(4097UL, 2UL)]
    [InlineData(ulong.MaxValue, 1UL << 52)]
    public void Bytes_are_whole_pages(ulong bytes, ulong pages) => Assert.Equal(pages, PageRuns.PagesOf(bytes));

    private static int FirstFit(bool[] taken, int count)
    {
        for (int first = 0; first + count <= taken.Length; first++)
        {
            if (!taken.AsSpan(first, count).Contains(true))
            {
                return first;
            }
        }

        return -1;
    }
}
