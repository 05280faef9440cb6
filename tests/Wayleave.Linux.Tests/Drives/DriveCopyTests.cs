using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Nvme;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Drives;

public sealed class DriveCopyTests : IAsyncLifetime
{
    private readonly string _folder = Directory.CreateTempSubdirectory("wayleave-drive").FullName;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public ValueTask InitializeAsync() => ValueTask.CompletedTask;

    public ValueTask DisposeAsync()
    {
        Directory.Delete(_folder, recursive: true);
        return ValueTask.CompletedTask;
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4096)]
    [InlineData(1_048_577)]
    [InlineData(5_000_003)]
    public async Task A_file_is_read_into_VRAM_with_no_byte_staged(int length)
    {
        await using WayleaveHost host = await StartAsync(new HostBridgeDescription());
        (string path, string sha256) = NewFile(length);

        (DeviceObject o, DriveCopyResult result) =
            await new DriveCopy(host, host.Nvmes[0]).LoadAsync(path, "gpu0", "file", deniesStaging: true, Cancellation);

        Assert.Equal((ulong)length, result.Bytes);
        Assert.Equal(0UL, result.StagingBytes);
        Assert.Equal(sha256, await host.Objects.Sha256Async(o, Cancellation));
        Assert.Equal(WholePages(length), host.Nvmes[0].Controller.Port.BytesWritten(PeerRoute.BusAddress));
        Assert.Same(o, host.Objects.Find("gpu0", "file"));
    }

    [Fact]
    public async Task Below_a_strict_IOMMU_it_is_the_same()
    {
        await using WayleaveHost host = await StartAsync(new HostBridgeDescription { Iommu = IommuMode.Strict });
        (string path, string sha256) = NewFile(3_000_000);

        (DeviceObject o, DriveCopyResult result) =
            await new DriveCopy(host, host.Nvmes[0]).LoadAsync(path, "gpu0", "file", deniesStaging: true, Cancellation);

        Assert.Equal(0UL, result.StagingBytes);
        Assert.Equal(sha256, await host.Objects.Sha256Async(o, Cancellation));
    }

    [Fact]
    public async Task Without_a_way_the_file_is_staged_and_counted_or_refused_with_the_reason()
    {
        await using WayleaveHost host = await StartAsync(new HostBridgeDescription(), apart: true);
        (string path, string sha256) = NewFile(3_000_000);
        DriveCopy copy = new(host, host.Nvmes[0]);

        WayleaveException refused = await Assert.ThrowsAsync<WayleaveException>(
            () => copy.LoadAsync(path, "gpu0", "file", deniesStaging: true, Cancellation));
        Assert.Equal(Errno.EREMOTEIO, refused.Errno);
        Assert.Contains("have no bridge in common", refused.Message, StringComparison.Ordinal);
        Assert.Null(host.Objects.Find("gpu0", "file"));

        (DeviceObject o, DriveCopyResult result) =
            await copy.LoadAsync(path, "gpu0", "file", deniesStaging: false, Cancellation);
        Assert.Equal(3_000_000UL, result.StagingBytes);
        Assert.Equal(3_000_000, host.StagedBytes); // what was refused moved nothing
        Assert.Equal(sha256, await host.Objects.Sha256Async(o, Cancellation));
        Assert.Equal(ObjectPlace.Vram, o.Placement);
    }

    [Fact]
    public async Task An_owner_who_takes_the_object_back_in_mid_copy_gets_a_proof_and_the_copy_ends()
    {
        await using WayleaveHost host = await StartAsync(new HostBridgeDescription());
        (string path, _) = NewFile(48 << 20);
        DriveCopy copy = new(host, host.Nvmes[0]);
        using HeldMedium medium = new(host.Nvmes[0]);

        Task<(DeviceObject, DriveCopyResult)> load =
            copy.LoadAsync(path, "gpu0", "file", deniesStaging: true, Cancellation);
        medium.AwaitHeld(load);
        DeviceObject o = Assert.Single(host.Objects.List(), l => l.Name == "file");
        RetirementProof proof = await medium.TakeBackAsync(host, o);

        Assert.Equal(RetirementGrade.Retired, proof.Grade);
        WayleaveException ended = await Assert.ThrowsAsync<WayleaveException>(() => load);
        Assert.True(ended.Errno is Errno.ENODEV or Errno.ECANCELED, ended.Message);
        Assert.Equal(0UL, host.Gpus[0].Device.Quarantine.Bytes);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4096)]
    [InlineData(1_048_577)]
    [InlineData(5_000_003)]
    public async Task An_object_is_written_from_VRAM_to_a_file_with_no_byte_staged(int length)
    {
        await using WayleaveHost host = await StartAsync(new HostBridgeDescription());
        (string path, string sha256) = NewFile(length);
        DriveCopy copy = new(host, host.Nvmes[0]);
        (DeviceObject o, _) = await copy.LoadAsync(path, "gpu0", "file", deniesStaging: true, Cancellation);
        long before = host.Nvmes[0].Controller.Port.BytesRead(PeerRoute.BusAddress);
        string saved = Path.Combine(_folder, "saved");

        DriveCopyResult result = await copy.SaveAsync(o, saved, deniesStaging: true, Cancellation);

        Assert.Equal(((ulong)length, 0UL), (result.Bytes, result.StagingBytes));
        Assert.Equal(length, new FileInfo(saved).Length);
        Assert.Equal(sha256, Sha256(saved));
        Assert.Equal(WholePages(length), host.Nvmes[0].Controller.Port.BytesRead(PeerRoute.BusAddress) - before);
        Assert.Equal(0, host.StagedBytes);
    }

    [Fact]
    public async Task An_object_without_a_way_to_the_drive_is_staged_and_counted_or_refused_and_the_file_stays()
    {
        await using WayleaveHost host = await StartAsync(new HostBridgeDescription(), apart: true);
        (string path, string sha256) = NewFile(3_000_000);
        DriveCopy copy = new(host, host.Nvmes[0]);
        (DeviceObject o, _) = await copy.LoadAsync(path, "gpu0", "file", deniesStaging: false, Cancellation);
        string saved = Path.Combine(_folder, "saved");
        await File.WriteAllTextAsync(saved, "as it was", Cancellation);

        WayleaveException refused = await Assert.ThrowsAsync<WayleaveException>(
            () => copy.SaveAsync(o, saved, deniesStaging: true, Cancellation));
        Assert.Equal(Errno.EREMOTEIO, refused.Errno);
        Assert.Contains("have no bridge in common", refused.Message, StringComparison.Ordinal);
        Assert.Equal("as it was", await File.ReadAllTextAsync(saved, Cancellation));
        Assert.Equal(3_000_000, host.StagedBytes);

        DriveCopyResult result = await copy.SaveAsync(o, saved, deniesStaging: false, Cancellation);
        Assert.Equal((3_000_000UL, 6_000_000), (result.StagingBytes, host.StagedBytes));
        Assert.Equal(sha256, Sha256(saved));
        Assert.Equal(ObjectPlace.Vram, o.Placement);

        // What was evicted before is in nobody's way.
        await host.Objects.EvictAsync(o);
        Assert.Equal(0UL, (await copy.SaveAsync(o, saved, deniesStaging: true, Cancellation)).StagingBytes);
    }

    [Fact]
    public async Task An_object_that_is_taken_back_while_it_is_saved_leaves_no_half_written_file()
    {
        await using WayleaveHost host = await StartAsync(new HostBridgeDescription());
        (string path, _) = NewFile(48 << 20);
        DriveCopy copy = new(host, host.Nvmes[0]);
        (DeviceObject o, _) = await copy.LoadAsync(path, "gpu0", "file", deniesStaging: true, Cancellation);
        string saved = Path.Combine(_folder, "saved");
        using HeldMedium medium = new(host.Nvmes[0]);

        Task<DriveCopyResult> save = copy.SaveAsync(o, saved, deniesStaging: true, Cancellation);
        medium.AwaitHeld(save);
        RetirementProof proof = await medium.TakeBackAsync(host, o);

        Assert.Equal(RetirementGrade.Retired, proof.Grade);
        await Assert.ThrowsAsync<WayleaveException>(() => save);
        Assert.Equal([path], Directory.GetFileSystemEntries(_folder));
    }

    [Fact]
    public async Task A_file_that_does_not_answer_ends_the_copy_and_keeps_no_memory()
    {
        WayleaveHost host = await StartAsync(new HostBridgeDescription());
        using ManualResetEventSlim answers = new();
        NvmeHandle drive = host.Nvmes[0];
        drive.Medium = _ =>
        {
            answers.Wait();
            return Errno.EIO;
        };
        (string path, _) = NewFile(8 << 20);
        DriveCopy copy = new(host, drive) { StallMax = TimeSpan.FromMilliseconds(50) };

        WayleaveException ended = await Assert.ThrowsAsync<WayleaveException>(
            () => copy.LoadAsync(path, "gpu0", "file", deniesStaging: true, Cancellation));

        Assert.Equal(Errno.ETIMEDOUT, ended.Errno);
        Assert.Contains("no command of nvme0 ended for 0.05 s", ended.Message, StringComparison.Ordinal);
        Assert.Empty(host.Objects.List());
        Assert.Equal(0UL, host.Gpus[0].Device.Quarantine.Bytes);

        // The medium still has its buffers, and nobody waits for it.
        await host.DisposeAsync();
        answers.Set();
    }

    [Fact]
    public async Task A_move_that_is_given_up_as_its_last_command_ends_leaves_the_drive_alive()
    {
        await using WayleaveHost host = await StartAsync(new HostBridgeDescription());
        NvmeHandle drive = host.Nvmes[0];
        await drive.WaitReadyAsync(Cancellation);
        (string path, string sha256) = NewFile(4096);
        DeviceObject o = await host.Objects.CreateAsync("gpu0", "object", 4096, null, Cancellation);
        using ManualResetEventSlim ended = new(), goesOn = new();
        using CancellationTokenSource left = new();
        DriveMove move = new(host, drive, o.Buffer, drive.Open(path, isWritable: false), NvmeOpcode.Read, 4096)
        {
            Operation = "load",
            Moved = _ =>
            {
                ended.Set(); // its fence has signalled, and the drive's thread is preempted here
                goesOn.Wait(Patience.Max);
            },
        };
        try
        {
            Task run = Task.Run(() => move.RunAsync(left.Token), Cancellation);
            Assert.True(ended.Wait(Patience.Max, Cancellation));
            await left.CancelAsync(); // the client leaves
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => run.WaitAsync(Patience.Max, Cancellation));
        }
        finally
        {
            goesOn.Set();
        }

        (DeviceObject next, _) = await new DriveCopy(host, drive)
            .LoadAsync(path, "gpu0", "next", deniesStaging: true, Cancellation);
        Assert.Equal(sha256, await host.Objects.Sha256Async(next, Cancellation));
        Assert.Null(drive.Failure);
    }

    /// <summary>A file that answers a few requests, and the next ones when the owner has begun to take back.</summary>
    private sealed class HeldMedium : IDisposable
    {
        private const int Answered = 4; // of 48

        private readonly ManualResetEventSlim _answers = new();
        private int _asked;

        public HeldMedium(NvmeHandle drive) => drive.Medium = _ =>
        {
            if (Interlocked.Increment(ref _asked) > Answered)
            {
                _answers.Wait();
            }

            return null;
        };

        /// <summary>Until the copy is in its middle, where it stays.</summary>
        public void AwaitHeld(Task copy)
        {
            Assert.True(SpinWait.SpinUntil(
                () => copy.IsCompleted || Volatile.Read(ref _asked) > Answered, Patience.Max));
            Assert.False(copy.IsCompleted);
        }

        public async Task<RetirementProof> TakeBackAsync(WayleaveHost host, DeviceObject o)
        {
            Task<RetirementProof> revoke = host.Objects.RevokeAsync(o, new RevokePolicy());
            Assert.True(SpinWait.SpinUntil(() => o.Memory.IsFreed, Patience.Max));
            _answers.Set();
            return await revoke;
        }

        public void Dispose() => _answers.Set();
    }

    private static string Sha256(string path) => Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(path)));

    private static async Task<WayleaveHost> StartAsync(HostBridgeDescription bridge, bool apart = false)
    {
        TopologyDescription topology = new() { HostBridges = [bridge] };
        if (apart)
        {
            topology = topology with
            {
                Bridges =
                [
                    NewRootPort("00:01.0", "rp1"),
                    NewRootPort("00:02.0", "rp2"),
                ],
                Functions =
                [
                    new FunctionDescription { Address = PciAddress.Parse("01:00.0"), Name = "gpu0", Below = "rp1" },
                    new FunctionDescription { Address = PciAddress.Parse("02:00.0"), Name = "nvme0", Below = "rp2" },
                ],
            };
        }

        return await WayleaveHost.StartAsync(new HostConfig
        {
            Nics = [new NicConfig { Address = System.Net.IPAddress.Parse("127.0.0.91"), UdpPort = 0 }],
            Gpus = [new GpuConfig { VramBytes = 64 << 20, SystemPoolBytes = 64 << 20 }],
            Topology = topology,
        });
    }

    private static BridgeDescription NewRootPort(string address, string name) =>
        new() { Address = PciAddress.Parse(address), Name = name, Kind = PciBridgeKind.RootPort };

    /// <summary>What crosses the bus: the object's buffer is whole pages, and a drive moves whole blocks.</summary>
    private static long WholePages(int length) => (length + 4095L) / 4096 * 4096;

    private (string Path, string Sha256) NewFile(int length)
    {
        byte[] content = new byte[length];
        new Random(length).NextBytes(content);
        string path = Path.Combine(_folder, "file");
        File.WriteAllBytes(path, content);
        return (path, Convert.ToHexStringLower(SHA256.HashData(content)));
    }
}
