using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Benchmarks.Drives;
using Wayleave.Host.Configuration;
using Xunit;

namespace Wayleave.Linux.Tests.Benchmarks;

/// <summary>A small file once: what scripts rely on is there. How fast it was is nobody's business here.</summary>
public sealed class DriveReadBenchmarkTests
{
    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public async Task Each_round_has_both_readers_and_no_byte_is_staged(int streams)
    {
        DriveReadReport report = await DriveReadBenchmark.RunAsync(
            Options() with { PeerStreams = streams }, Cancellation);

        Assert.Equal(3, report.Rounds.Count);
        Assert.All(report.Rounds, r => Assert.True(r.BytesPerS > 0 && r.PeerBytesPerS > 0));
        Assert.Equal((5_000_000, 0UL), (report.SizeBytes, report.StagingBytes));
        Assert.Equal(("nvme0", "gpu0"), (report.Drive, report.Device));
        Assert.StartsWith("dd if=", report.Peer, StringComparison.Ordinal);
        Assert.False(File.Exists(report.Path)); // it was made for this
    }

    [Fact]
    public async Task A_file_that_is_not_there_is_named()
    {
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => DriveReadBenchmark.RunAsync(Options() with { Path = "/nonexistent/file" }, Cancellation));
        Assert.Equal(Errno.ENOENT, e.Errno);
        Assert.Contains("/nonexistent/file", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_bad_option_is_named()
    {
        DriveReadOptions bad =
            new() { SizeBytes = 1, Rounds = 0, PeerStreams = 0, Config = new HostConfig { Nvmes = [] } };
        string message = Assert.Throws<ArgumentException>(bad.Validate).Message;
        Assert.Equal(4, message.Split("; ").Length);
    }

    private static DriveReadOptions Options() => new()
    {
        SizeBytes = 5_000_000,
        Rounds = 3,
        Config = new HostConfig { Gpus = [new GpuConfig { VramBytes = 32 << 20, SystemPoolBytes = 0 }] },
    };
}
