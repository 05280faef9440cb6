using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Benchmarks.Memory;
using Xunit;

namespace Wayleave.Linux.Tests.Benchmarks;

public sealed class MemoryBenchmarkTests
{
    [Theory]
    [InlineData(MemoryBenchmarkTest.Fault, 2)]
    [InlineData(MemoryBenchmarkTest.Migrate, 2)]
    [InlineData(MemoryBenchmarkTest.Register, 3)]
    [InlineData(MemoryBenchmarkTest.FenceHop, 3)]
    public void A_benchmark_of_memory_measures_each_operation_and_checks_what_it_did(
        MemoryBenchmarkTest test, int results)
    {
        MemoryBenchmarkOptions options = new() { Test = test, SizeBytes = 1 << 20, Iterations = 3 };
        MemoryBenchmarkReport report = MemoryBenchmark.Run(options, TestContext.Current.CancellationToken);

        Assert.Equal(results, report.Results.Count);
        Assert.All(report.Results, r => Assert.True(r.Latency.Count >= 3));
        Assert.Contains("\"schema\": \"wayleave.bench-memory/1\"", report.ToJson(), StringComparison.Ordinal);
    }

    [Fact]
    public void Faults_of_real_memory_are_served_and_its_end_is_told_beside_the_same_in_C()
    {
        MemoryBenchmarkOptions options = new() { SizeBytes = 64 << 10, Iterations = 2 };
        MemoryBenchmarkReport report;
        try
        {
            report = UserFaultBenchmark.Run(options, TestContext.Current.CancellationToken);
        }
        catch (WayleaveException e) when (e.Errno == Errno.EOPNOTSUPP)
        {
            Assert.Skip(e.Message);
            return;
        }

        Assert.Equal([128, 128], report.Results.Select(r => r.Latency.Count));
        Assert.Equal(8, report.NotifierRounds);
        Assert.NotNull(report.Results[0].RatioToPeer);
    }

    [Fact]
    public void Sizes_that_are_no_pages_and_counts_out_of_range_are_refused_together()
    {
        MemoryBenchmarkOptions options = new() { SizeBytes = 100, Iterations = 0 };
        ArgumentException e = Assert.Throws<ArgumentException>(options.Validate);
        Assert.Contains("100 bytes; there are", e.Message, StringComparison.Ordinal);
    }
}
