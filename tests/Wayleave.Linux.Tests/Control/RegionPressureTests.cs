using System.Globalization;
using Wayleave.Core.Checking;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>
/// Peers on hosts of their own write and read regions of every kind at once, while pages are reclaimed for each other,
/// objects are moved away and back, a GPU works on what peers write, and a process throws its own pages out: it becomes
/// slower, nothing hangs, no byte is wrong. WAYLEAVE_PRESSURE_ROUNDS says how often; 12 unless it is set.
/// </summary>
public sealed class RegionPressureTests : IDisposable
{
    private const int Bytes = ContextPeer.Bytes;

    // Of pages: four clients want 128 KiB each on demand, and one has 64 KiB pinned.
    private const long UserMemoryBytes = 384 << 10;

    private static readonly int s_rounds = int.TryParse(
        Environment.GetEnvironmentVariable("WAYLEAVE_PRESSURE_ROUNDS"),
        NumberStyles.None,
        CultureInfo.InvariantCulture,
        out int rounds)
        ? rounds
        : 12;

    private readonly ControlTestFolder _folder = new();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(GpuUserMemory.WaitForFences, 10)]
    [InlineData(GpuUserMemory.DrainLocally, 30)]
    [InlineData(GpuUserMemory.Fault, 50)]
    public async Task Regions_of_every_kind_keep_their_bytes_while_everything_under_them_is_taken(
        GpuUserMemory mode, int address)
    {
        await using ServedHost served = await StartAsync(mode, $"127.0.47.{address}");
        RegionPressure pressure = new(served, address, s_rounds);
        await Task.WhenAll(
            pressure.UseOwnMemoryAsync(ContextRegionKind.Pinned),
            pressure.UseOwnMemoryAsync(ContextRegionKind.OnDemand),
            pressure.UseOwnMemoryAsync(ContextRegionKind.OnDemand),
            pressure.UseOwnMemoryAsync(ContextRegionKind.Implicit),
            pressure.ComputeOnOwnMemoryAsync(mode),
            pressure.UseObjectAsync(ContextRegionKind.Dynamic),
            pressure.UseObjectAsync(ContextRegionKind.PinnedRevocable),
            pressure.UseObjectAsync(ContextRegionKind.LegacyPeer),
            pressure.UseProcessMemoryAsync());

        ComputeGpuDocument gpu = (await served.Client.GetComputeAsync(Cancellation)).Gpus[0];
        Assert.True(gpu.UserMemoryReclaims > 0, "nobody's pages were taken");
        Assert.Equal(mode == GpuUserMemory.Fault, gpu.Contexts.Any(c => c.Faults > 0));
        Assert.True(pressure.Moves > 0 && pressure.KeysLost > 0, $"{pressure.Moves} moves, {pressure.KeysLost} keys");
        Assert.Null(gpu.Failure);
        await pressure.EndAsync();
        using (served.Host.Context.Enter())
        {
            Assert.True(served.Host.Nics[0].Device.Port.Stats.Faults > 0, "no page was ever missing");
            Assert.Equal(served.Host.Gpus[0].UserMemory.PageCount, served.Host.Gpus[0].UserMemory.FreePages);
            Assert.Equal(0, served.Host.Gpus[0].UserMemory.SwapUsed);
        }

        Assert.DoesNotContain(served.Host.GetViolations(), v => v.Kind != ViolationKind.LateUnmap
            && (mode != GpuUserMemory.DrainLocally || v.Kind != ViolationKind.SignalingSection));
    }

    private Task<ServedHost> StartAsync(GpuUserMemory mode, string address) => ServedHost.StartAsync(
        _folder,
        address,
        TimeProvider.System,
        devices: ControlTestFolder.Config with
        {
            Nics = [new NicConfig { LegacyPeers = LegacyPeerPolicy.Tell }],
            Gpus =
            [
                new GpuConfig
                {
                    VramBytes = 2 << 20,
                    SystemPoolBytes = 16 << 20,
                    Compute = new ComputeConfig { UserMemory = mode, UserMemoryBytes = UserMemoryBytes },
                },
            ],
        });
}
