using System.Text.Json;
using Wayleave.Core;
using Wayleave.Core.PeerMemory;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Resources;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>Ranges of device memory that processes borrow by a handle, from the command line.</summary>
public sealed class ResourceCommandTests : EndToEndTest
{
    private const string Devices = """
        {
          "gpus": [ { "name": "gpu0", "vram_bytes": "32MiB", "system_pool_bytes": "32MiB" } ],
          "accelerators": [ { "memory_bytes": "16MiB" } ],
          "nvmes": [
            { "name": "nvme0", "memory_buffer_bytes": "4MiB" },
            { "name": "nvme1", "memory_buffer_bytes": "4MiB" }
          ]
        }
        """;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_resource_is_listed_with_its_handle_and_its_users_and_removed_with_them_inside()
    {
        HostProcess host = await StartAsync();
        CliProcess holder = Start(
            "resources", "add", "gpu0/ring", "16MiB", "--import", "rdma0=4MiB", "--import", "rdma0=1MiB");
        Assert.Equal("gpu0/ring: 16.0 MiB, 11.0 MiB free, lent", await holder.ReadFirstLineAsync());

        string list = await RunWellAsync("resources");
        Assert.Contains($"    handle of process {holder.Id}\n", list, StringComparison.Ordinal);
        Assert.Contains(
            $" for process {holder.Id}: 4.00 MiB in 1 chunk, dynamic, mapped\n", list, StringComparison.Ordinal);
        Assert.Contains("nvme0 ", list, StringComparison.Ordinal);
        Assert.Contains("pool of 4.00 MiB, 4.00 MiB free, published\n", list, StringComparison.Ordinal);
        using JsonDocument json = JsonDocument.Parse(await RunWellAsync("resources", host.Url + "/gpu0", "--json"));
        JsonElement ring = Assert.Single(Assert.Single(json.RootElement.GetProperty("providers").EnumerateArray())
            .GetProperty("resources").EnumerateArray());
        Assert.Equal(
            [4UL << 20, 1UL << 20],
            ring.GetProperty("users").EnumerateArray().Select(u => u.GetProperty("chunk_bytes").GetUInt64()));

        using JsonDocument proof = JsonDocument.Parse(
            await RunWellAsync("resources", "remove", "gpu0/ring", "--json"));
        Assert.Equal("Retired", proof.RootElement.GetProperty("grade").GetString());
        Assert.Equal(
            ["Retired", "Retired"],
            proof.RootElement.GetProperty("importers").EnumerateArray()
                .Select(i => i.GetProperty("grade").GetString()));
        CliResult end = await holder.WaitAsync();
        Assert.Equal((0, ""), (end.ExitCode, end.Error));
        Assert.Matches("gpu0/ring: removed by process [0-9]+: Retired\n$", end.Out);
        Assert.Equal(0UL, (await host.ReadGpuAsync()).VramUsedBytes);
    }

    [Fact]
    public async Task A_holder_that_is_killed_loses_its_resource_and_its_NICs_let_go()
    {
        HostProcess host = await StartAsync();
        CliProcess holder = Start("resources", "add", "gpu0/ring", "8MiB", "--import", "rdma0=8MiB");
        await holder.ReadFirstLineAsync();
        holder.Signal(CliProcess.SigKill);
        await UntilAsync("the memory is back", async () => (await host.ReadGpuAsync()).VramUsedBytes == 0);
        ResourcesDocument left = await host.Client.GetResourcesAsync(Cancellation);
        Assert.All(left.Providers, p => Assert.Empty(p.Resources));
    }

    [Theory]
    [InlineData("gpu0 was pulled out")]
    [InlineData("gpu0 is gone", "--surprise")]
    public async Task A_device_that_is_pulled_out_takes_its_resources_with_it(string reason, params string[] how)
    {
        HostProcess host = await StartAsync();
        CliProcess holder = Start("resources", "add", "gpu0/ring", "8MiB", "--import", "rdma0=8MiB");
        await holder.ReadFirstLineAsync();
        CliResult unplugged = await RunAsync(["unplug", "gpu0", host.Url, .. how]);
        Assert.Equal((0, ""), (unplugged.ExitCode, unplugged.Error));
        CliResult end = await holder.WaitAsync();
        Assert.Equal((0, ""), (end.ExitCode, end.Error));
        Assert.EndsWith($"gpu0/ring: {reason}: Retired\n", end.Out, StringComparison.Ordinal);
        Assert.DoesNotContain("gpu0", await RunWellAsync("resources"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task What_cannot_be_lent_is_refused_with_the_reason()
    {
        HostProcess host = await StartAsync();
        await RefusedAsync(1, "lend gpu0/x of 1GiB: gpu0 has not that much free memory in one piece", "gpu0/x", "1GiB");
        await RefusedAsync(3, "lend accel0/x of 1MiB: nobody lends memory of accel0", "accel0/x", "1MiB");
        await RefusedAsync(
            1,
            "lend memory of gpu9: the host has no gpu9; it has gpu0, accel0, nvme0, nvme1, rdma0",
            "gpu9/x", "1MiB");
        await RefusedAsync(
            1,
            "import gpu0/x by rdma0: the resource has not that much left in one piece",
            "gpu0/x", "1MiB", "--import", "rdma0=2MiB");
        await RefusedAsync(
            1, "import gpu0/x by gpu0: the host has no such NIC; it has rdma0",
            "gpu0/x", "1MiB", "--import", "gpu0=1MiB");
        Assert.Equal(0UL, (await host.ReadGpuAsync()).VramUsedBytes);
        await ExpectFailureAsync(
            1,
            $"{host.Authority}: remove gpu0/x: there is no such resource; wayleave resources shows what there is",
            "resources", "remove", "gpu0/x", host.Url);

        CliResult usage = await RunAsync("resources", "add", "x", "1MiB");
        Assert.Equal((2, ""), (usage.ExitCode, usage.Out));

        async Task RefusedAsync(int exitCode, string line, params string[] add) =>
            await ExpectFailureAsync(
                exitCode, $"{host.Authority}: {line}", ["resources", "add", .. add[..2], host.Url, .. add[2..]]);
    }

    [Theory]
    [InlineData(0, "nvme0")]
    [InlineData(1, "nvme1")]
    public async Task Of_two_published_memories_that_are_equally_near_chance_takes_one(int choice, string device)
    {
        await using WayleaveHost host = await WayleaveHost.StartAsync(new HostConfig
        {
            Nics = [new NicConfig { Address = NextAddress(), UdpPort = 0 }],
            Gpus = [new GpuConfig { VramBytes = 8 << 20, SystemPoolBytes = 0 }],
            Nvmes =
            [
                new NvmeConfig { Name = "nvme0", MemoryBufferBytes = 1 << 20 },
                new NvmeConfig { Name = "nvme1", MemoryBufferBytes = 1 << 20 },
            ],
        });
        ResourceService service = new(host, new FixedChoice(choice));
        ResourceGrant grant = await service.AddAsync(
            new ResourceRequest("ring", 4096, "a test") { Near = ["rdma0", "gpu0"] });
        Assert.Equal(device, grant.Owner.Name);

        await service.EndAsync(grant);
        await UntilAsync("the range is cleared and the drive's again", () => Task.FromResult(
            grant.Resource.State == PeerResourceState.Returned));
        WayleaveException none = await Assert.ThrowsAsync<WayleaveException>(() => service.AddAsync(
            new ResourceRequest("ring", 4096, "a test") { Near = ["gpu7"] }));
        Assert.Equal(Errno.ENODEV, none.Errno);
    }

    private async Task<HostProcess> StartAsync()
    {
        string file = InFolder("devices.json");
        await File.WriteAllTextAsync(file, Devices, Cancellation);
        return await StartHostAsync("b", "32MiB", "--config", file);
    }

    private sealed class FixedChoice(int answer) : IRandomChoice
    {
        public int Next(int count) => count == 2 ? answer : throw new InvalidOperationException("two are equal");
    }
}
