using System.Text.Json;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>Files and device memory, by a drive of the host that runs here.</summary>
public sealed class DriveCommandTests : EndToEndTest
{
    private const string Apart = """
        {
          "gpus": [ { "name": "gpu0", "vram_bytes": "32MiB", "system_pool_bytes": "32MiB" } ],
          "topology": {
            "host_bridges": [ { "bus": "0000:00" } ],
            "bridges": [
              { "name": "rp1", "address": "0000:00:01.0", "kind": "root_port" },
              { "name": "rp2", "address": "0000:00:02.0", "kind": "root_port" }
            ],
            "functions": [
              { "name": "gpu0", "address": "0000:01:00.0", "below": "rp1" },
              { "name": "nvme0", "address": "0000:02:00.0", "below": "rp2" }
            ]
          }
        }
        """;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("gpu0")]
    [InlineData("vfio0")]
    [InlineData("accel0")]
    public async Task A_file_goes_to_a_device_and_back_with_no_byte_staged(string device)
    {
        HostProcess host = await StartAsync("""{ "accelerators": [ {} ], "vfios": [ {} ] }""");
        string source = MakeFile("source", 3_000_001), back = InFolder("back");
        await RunWellAsync("cp", source, $"{device}/x", "--deny-staging");

        using JsonDocument saved = JsonDocument.Parse(
            await RunWellAsync("cp", $"{device}/x", back, "--deny-staging", "--json"));

        JsonElement root = saved.RootElement;
        Assert.Equal("wayleave.save.v1", root.GetProperty("schema").GetString());
        Assert.Equal(
            (3_000_001, 0, "bus_address"),
            (root.GetProperty("bytes").GetInt64(), root.GetProperty("staging_bytes").GetInt64(),
                root.GetProperty("route").GetString()));
        Assert.Equal(Sha256(source), Sha256(back));
        Assert.StartsWith(
            $"{device}/x -> nvme0 -> {Root}: 2.86 MiB by bus address, ",
            await RunWellAsync("cp", $"{device}/x", Root),
            StringComparison.Ordinal); // into a folder, under its name
        Assert.Equal(Sha256(source), Sha256(InFolder("x")));
        Assert.Equal(0, (await host.Client.GetLinksAsync(Cancellation)).StagingBytes);
    }

    [Fact]
    public async Task Without_a_way_the_bytes_are_staged_and_counted_or_refused_with_the_reason()
    {
        HostProcess host = await StartAsync(Apart);
        string source = MakeFile("source", 3_000_001), back = InFolder("back");
        Assert.Contains(
            "2.86 MiB staged\nstaged because ", await RunWellAsync("cp", source, "gpu0/x"), StringComparison.Ordinal);

        CliResult refused = await RunAsync("cp", "gpu0/x", back, "--deny-staging");
        Assert.Equal((1, ""), (refused.ExitCode, refused.Out));
        Assert.Contains("have no bridge in common", refused.Error, StringComparison.Ordinal);
        Assert.False(File.Exists(back));

        string said = await RunWellAsync("cp", "gpu0/x", back);
        Assert.Contains("2.86 MiB staged\nstaged because ", said, StringComparison.Ordinal);
        Assert.Equal(Sha256(source), Sha256(back));
        Assert.Equal(6_000_002, (await host.Client.GetLinksAsync(Cancellation)).StagingBytes);
    }

    [Fact]
    public async Task What_is_not_there_or_cannot_be_written_is_named()
    {
        HostProcess host = await StartAsync("{}");
        await RunWellAsync("cp", MakeFile("source", 4097), "gpu0/x");
        string socket = (await host.Client.GetHostAsync(Cancellation)).Socket!;
        CliResult missing = await RunAsync("cp", "gpu0/none", InFolder("back"));
        Assert.Equal(1, missing.ExitCode);
        Assert.EndsWith(
            ": find gpu0/none: there is no such object; wayleave ls shows what there is\n", missing.Error,
            StringComparison.Ordinal);
        string folder = InFolder("nowhere");
        CliResult nowhere = await RunAsync("cp", "gpu0/x", folder + "/back", "--socket", socket);
        Assert.EndsWith(
            $": write {folder}/back: there is no folder {folder}; make it first\n", nowhere.Error,
            StringComparison.Ordinal);
        CliResult neither = await RunAsync("cp", "no/file", "gpu0/y");
        Assert.Equal(1, neither.ExitCode);
        Assert.Contains("/no/file as a namespace of nvme0: ", neither.Error, StringComparison.Ordinal);
    }

    private async Task<HostProcess> StartAsync(string config)
    {
        string file = InFolder("devices.json");
        await File.WriteAllTextAsync(file, config, Cancellation);
        return await StartHostAsync("b", "32MiB", "--config", file);
    }
}
