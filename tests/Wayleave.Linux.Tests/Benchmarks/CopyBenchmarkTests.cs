using Wayleave.Core.Topology;
using Wayleave.Host.Benchmarks.Copies;
using Wayleave.Host.Configuration;
using Xunit;

namespace Wayleave.Linux.Tests.Benchmarks;

/// <summary>
/// Each pair once, tiny: what is measured, what is not, and why. How fast it was is nobody's business.
/// </summary>
public sealed class CopyBenchmarkTests
{
    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Every_pair_with_an_engine_is_measured_and_every_byte_arrives()
    {
        CopyBenchmarkReport report = await CopyBenchmark.RunAsync(Options(), Cancellation);

        Assert.Equal(["gpu0", "gpu1", "accel0", "nvme0", "host"], report.Devices);
        Assert.Equal(25, report.Cells.Count);
        CopyCell peer = Find(report, "gpu0", "gpu1");
        Assert.Equal((CopyStatus.Passed, "gpu0"), (peer.Status, peer.Engine));
        Assert.Equal([PeerRoute.SameDevice, PeerRoute.BusAddress], peer.Routes);
        Assert.Equal(2, peer.Rounds.Count);
        Assert.All(peer.Rounds, r => Assert.True(r.BytesPerS > 0 && r.PlainBytesPerS > 0));
        Assert.Equal([PeerRoute.SameDevice, PeerRoute.HostMemory], Find(report, "host", "gpu1").Routes);
        Assert.Equal("gpu1", Find(report, "nvme0", "gpu1").Engine);
        Assert.Equal([PeerRoute.SameDevice, PeerRoute.BusAddress], Find(report, "accel0", "gpu0").Routes);
        CopyCell without = Find(report, "host", "nvme0");
        Assert.Equal((CopyStatus.Waived, "neither has a copy engine"), (without.Status, without.Reason));
    }

    [Fact]
    public async Task A_pair_without_a_way_is_refused_with_the_reason_of_the_rules()
    {
        CopyBenchmarkOptions options = Options();
        CopyBenchmarkReport report = await CopyBenchmark.RunAsync(
            options with { Config = options.Config with { Topology = Apart() } }, Cancellation);

        CopyCell refused = Find(report, "gpu0", "gpu1");
        Assert.Equal(CopyStatus.Refused, refused.Status);
        Assert.Contains("have no bridge in common", refused.Reason, StringComparison.Ordinal);
        Assert.Empty(refused.Rounds);
        Assert.Equal(CopyStatus.Passed, Find(report, "gpu0", "host").Status);
        Assert.Equal(CopyStatus.Passed, Find(report, "gpu1", "gpu1").Status);
    }

    [Fact]
    public async Task A_device_with_less_memory_than_asked_for_is_walked_over_as_far_as_it_goes()
    {
        CopyBenchmarkOptions options = Options() with { RegionBytes = 1 << 18 };
        CopyBenchmarkReport report = await CopyBenchmark.RunAsync(
            options with
            {
                Config = options.Config with { Nvmes = [new NvmeConfig { MemoryBufferBytes = 1 << 16 }] },
            },
            Cancellation);

        CopyCell small = Find(report, "gpu0", "nvme0");
        Assert.Equal((CopyStatus.Passed, 1 << 16), (small.Status, small.RegionBytes));
        Assert.Equal(1 << 18, Find(report, "gpu0", "gpu1").RegionBytes);
    }

    [Fact]
    public async Task A_pair_without_room_is_waived()
    {
        CopyBenchmarkOptions options = Options() with { SizesBytes = [1 << 20] };
        CopyBenchmarkReport report = await CopyBenchmark.RunAsync(
            options with
            {
                Config = options.Config with { Nvmes = [new NvmeConfig { MemoryBufferBytes = 4096 }] },
            },
            Cancellation);

        CopyCell small = Find(report, "gpu0", "nvme0");
        Assert.Equal(CopyStatus.Waived, small.Status);
        Assert.StartsWith("needs 1MiB at either end", small.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_bad_option_is_named()
    {
        CopyBenchmarkOptions bad =
            new() { SizesBytes = [0], Depth = 0, Rounds = 0, Duration = default, RegionBytes = 0 };
        string message = Assert.Throws<ArgumentException>(bad.Validate).Message;
        Assert.Equal(5, message.Split("; ").Length);
    }

    private static CopyCell Find(CopyBenchmarkReport report, string from, string to) =>
        Assert.Single(report.Cells, c => c.From == from && c.To == to);

    private static CopyBenchmarkOptions Options()
    {
        CopyBenchmarkOptions defaults = new()
        {
            SizesBytes = [4096],
            RegionBytes = 1 << 16,
            Rounds = 2,
            Duration = TimeSpan.FromMilliseconds(2),
        };
        return defaults with
        {
            Config = defaults.Config with { Gpus = [Gpu("gpu0"), Gpu("gpu1")] },
        };
    }

    private static GpuConfig Gpu(string name) =>
        new() { Name = name, VramBytes = 4 << 20, SystemPoolBytes = 4 << 20 };

    // Each GPU below a root port of its own; the host bridge is not on the allow list.
    private static TopologyDescription Apart() => new()
    {
        HostBridges = [new HostBridgeDescription()],
        Bridges = [NewRootPort("00:01.0", "rp1"), NewRootPort("00:02.0", "rp2")],
        Functions =
        [
            new FunctionDescription { Address = PciAddress.Parse("01:00.0"), Name = "gpu0", Below = "rp1" },
            new FunctionDescription { Address = PciAddress.Parse("02:00.0"), Name = "gpu1", Below = "rp2" },
        ],
    };

    private static BridgeDescription NewRootPort(string address, string name) =>
        new() { Address = PciAddress.Parse(address), Name = name, Kind = PciBridgeKind.RootPort };
}
