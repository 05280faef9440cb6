using System.Text.Json;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>Devices that are pulled out of a running host, with transfers of other processes in flight.</summary>
public sealed class UnplugTests : EndToEndTest
{
    private const string Devices = """
        {
          "gpus": [
            { "name": "gpu0", "vram_bytes": "64MiB", "system_pool_bytes": "64MiB" },
            { "name": "gpu1", "vram_bytes": "64MiB", "system_pool_bytes": "64MiB" }
          ],
          "accelerators": [ { "memory_bytes": "16MiB" } ],
          "vfios": [ { "bars": [ { "size_bytes": "16MiB" } ] } ]
        }
        """;

    private static readonly string[] s_others = ["gpu1", "accel0", "vfio0"];

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("gpu0", false)]
    [InlineData("accel0", true)]
    [InlineData("vfio0", false)]
    public async Task A_device_with_objects_that_nobody_uses_leaves_with_a_proof_for_each(string device, bool surprise)
    {
        HostProcess host = await StartAsync();
        string source = MakeFile("source", 1 << 20);
        await RunWellAsync("cp", source, $"{device}/a");
        await RunWellAsync("cp", source, $"{device}/b");

        using JsonDocument unplugged = JsonDocument.Parse(
            await RunWellAsync(["unplug", device, host.Url, "--json", .. Options(surprise)]));
        JsonElement[] proofs = [.. unplugged.RootElement.GetProperty("proofs").EnumerateArray()];

        Assert.Equal(["Retired", "Retired"], proofs.Select(p => p.GetProperty("grade").GetString()));
        Assert.All(proofs, p => Assert.Equal($"{device} was pulled out", p.GetProperty("reason").GetString()));
        Assert.Empty(unplugged.RootElement.GetProperty("late").EnumerateArray());
        Assert.Empty(await host.ListAsync());
        Assert.DoesNotContain(device, await RunWellAsync("devices", host.Url), StringComparison.Ordinal);
        Assert.DoesNotContain(device, await RunWellAsync("topo", host.Url), StringComparison.Ordinal);
        CliResult none = await RunAsync("cp", source, $"{host.Url}/{device}/c");
        Assert.Equal(1, none.ExitCode);
        Assert.Contains($"find device {device}: this host has no such device", none.Error, StringComparison.Ordinal);

        // The rest of the host goes on.
        await RunWellAsync("cp", source, $"{host.Url}/gpu1/c");
        await RunWellAsync("cp", "gpu1/c", InFolder("back"));
        Assert.Equal(Sha256(source), Sha256(InFolder("back")));
    }

    [Theory]
    [InlineData("gpu0", false)]
    [InlineData("gpu0", true)]
    [InlineData("vfio0", true)]
    [InlineData("accel0", true)]
    [InlineData("nvme0", false)]
    [InlineData("nvme0", true)]
    public async Task A_device_leaves_under_load_and_everybody_learns_why(string device, bool surprise)
    {
        HostProcess host = await StartAsync();
        string small = MakeFile("small", 1 << 20), large = MakeFile("large", 12 << 20);
        string memory = device == "nvme0" ? "gpu0" : device;
        await RunWellAsync("cp", large, $"{memory}/read");

        // Writers and readers over the wire, and the drive both ways: each runs until it fails or is told to stop.
        using CancellationTokenSource enough = CancellationTokenSource.CreateLinkedTokenSource(Cancellation);
        Task<CliResult?>[] load =
        [
            RepeatAsync(enough.Token, "cp", small, $"{host.Url}/{memory}/written"),
            RepeatAsync(enough.Token, "cp", $"{host.Url}/{memory}/read", InFolder("pulled")),
            RepeatAsync(enough.Token, "cp", small, $"{memory}/loaded"),
            RepeatAsync(enough.Token, "cp", $"{memory}/read", InFolder("saved")),
        ];
        await UntilAsync("all four move bytes", async () =>
            (await host.ListAsync()).Count(o => o.Name is "written" or "loaded") >= 2
                && File.Exists(InFolder("pulled")) && File.Exists(InFolder("saved")));

        CliResult unplugged = await RunAsync(["unplug", device, host.Url, .. Options(surprise)]);
        Assert.Equal((0, ""), (unplugged.ExitCode, unplugged.Error));
        Assert.StartsWith($"{device}: pulled out ", unplugged.Out, StringComparison.Ordinal);

        // Who used the device ends with exit 1 and one line; who used something else goes on.
        CliResult?[] ends = await Task.WhenAll(device == "nvme0" ? load[2..] : load);
        Assert.All(ends, e =>
        {
            Assert.NotNull(e);
            Assert.Equal(1, e.ExitCode);
            Assert.Single(e.Error.TrimEnd('\n').Split('\n'));
        });
        Assert.Contains(ends, e => Says(e!, $"{device} was pulled out") || Says(e!, $"{device}: this host has no")
            || Says(e!, "the host has no drive") || Says(e!, "there is no such object"));
        if (device == "nvme0")
        {
            Assert.All(load[..2], t => Assert.False(t.IsCompleted, "a transfer that needs no drive ended"));
        }

        await enough.CancelAsync();
        await Task.WhenAll(load);
        await ExpectAliveAsync(host, device, small);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_host_without_a_NIC_says_so_and_its_drives_go_on(bool surprise)
    {
        HostProcess host = await StartAsync();
        string source = MakeFile("source", 1 << 20), large = MakeFile("large", 32 << 20);
        await RunWellAsync("cp", large, "gpu0/read");
        using CancellationTokenSource enough = CancellationTokenSource.CreateLinkedTokenSource(Cancellation);
        Task<CliResult?> reader = RepeatAsync(
            enough.Token, "cp", $"{host.Url}/gpu0/read", InFolder("pulled"), "--stall-timeout", "5s");
        await UntilAsync("bytes move", () => Task.FromResult(File.Exists(InFolder("pulled"))));

        Assert.StartsWith(
            "rdma0: pulled out ",
            await RunWellAsync(["unplug", "rdma0", host.Url, .. Options(surprise)]),
            StringComparison.Ordinal);

        CliResult end = Assert.IsType<CliResult>(await reader);
        Assert.Equal(1, end.ExitCode);
        Assert.Single(end.Error.TrimEnd('\n').Split('\n'));
        await ExpectFailureAsync(
            1,
            $"{host.Authority}: lend gpu0/x: the host has no NIC left; start it again, or another one",
            "cp", source, host.UrlOf("x"));
        await RunWellAsync("cp", source, "gpu0/x");
        Assert.Empty((await host.Client.GetDevicesAsync(Cancellation)).Nics);
    }

    [Fact]
    public async Task A_device_that_is_not_there_is_named()
    {
        HostProcess host = await StartAsync();
        await RunWellAsync("unplug", "gpu0", host.Url);
        const string Left = "gpu1, accel0, vfio0, nvme0, rdma0";
        foreach (string device in new[] { "gpu0", "gpu9" })
        {
            await ExpectFailureAsync(
                1,
                $"{host.Authority}: unplug {device}: the host has no such device; it has {Left}",
                "unplug", device, host.Url);
        }
    }

    private static bool Says(CliResult result, string text) => result.Error.Contains(text, StringComparison.Ordinal);

    private static string[] Options(bool surprise) => surprise ? ["--surprise"] : [];

    private async Task ExpectAliveAsync(HostProcess host, string device, string source)
    {
        Assert.False(host.Process.HasExited);
        Assert.DoesNotContain($"{device}/", await RunWellAsync("ls", host.Url), StringComparison.Ordinal);
        foreach (string other in s_others.Where(d => d != device))
        {
            await RunWellAsync("cp", source, $"{host.Url}/{other}/after");
            await RunWellAsync("cp", $"{host.Url}/{other}/after", InFolder("after"));
            Assert.Equal(Sha256(source), Sha256(InFolder("after")));
        }

        DevicesDocument devices = await host.Client.GetDevicesAsync(Cancellation);
        Assert.All(devices.Gpus, g => Assert.Equal(0UL, g.VramQuarantinedBytes));
        host.Process.Signal(CliProcess.SigTerm);
        CliResult end = await host.Process.WaitAsync();
        Assert.Equal((0, ""), (end.ExitCode, end.Error));
    }

    /// <summary>Runs a command again and again, until it fails, or until it is told to stop: then null.</summary>
    private async Task<CliResult?> RepeatAsync(CancellationToken enough, params string[] arguments)
    {
        while (!enough.IsCancellationRequested)
        {
            CliResult result = await RunAsync(arguments);
            if (result.ExitCode != 0)
            {
                return result;
            }
        }

        return null;
    }

    private async Task<HostProcess> StartAsync()
    {
        string file = InFolder("devices.json");
        await File.WriteAllTextAsync(file, Devices, Cancellation);
        return await StartHostAsync("b", "64MiB", "--config", file);
    }
}
