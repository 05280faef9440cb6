using System.Text.Json;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// The NVMe-oF pattern: a remote RDMA WRITE lands in a drive's controller memory buffer, and the drive writes it from
/// there.
/// </summary>
public sealed class DriveStoreTests : EndToEndTest
{
    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(1)]
    [InlineData(4096)]
    [InlineData(5_000_003)]
    [InlineData(20_000_000)]
    public async Task A_file_goes_over_the_wire_to_a_drive_by_way_of_its_own_memory(int length)
    {
        HostProcess host = await StartAsync(InFolder("drive"));
        string source = MakeFile("source", length);

        using JsonDocument copied = JsonDocument.Parse(
            await RunWellAsync("cp", source, $"{host.Url}/nvme0/x", "--json"));

        JsonElement root = copied.RootElement;
        Assert.Equal((length, 0), (root.GetProperty("bytes").GetInt64(), root.GetProperty("staging_bytes").GetInt64()));
        Assert.Equal("Retired", root.GetProperty("memory_buffer").GetProperty("grade").GetString());
        Assert.Equal(Sha256(source), Sha256(InFolder("drive/x")));
        Assert.Equal([InFolder("drive/x")], Directory.GetFileSystemEntries(InFolder("drive")));
        Assert.Empty(await host.ListAsync());

        // Every byte came into the buffer by the NIC's bus address and left it by the drive's own reads.
        LinksDocumentCheck(await host.Client.GetLinksAsync(Cancellation), length);
    }

    [Fact]
    public async Task A_buffer_that_is_taken_back_in_mid_copy_has_a_proof_and_leaves_no_file()
    {
        HostProcess host = await StartAsync(InFolder("drive"));
        CliProcess copy = Start("cp", MakeFile("source", 256 << 20), $"{host.Url}/nvme0/x");
        await UntilAsync("the drive writes", async () =>
            (await host.Client.GetLinksAsync(Cancellation)).Paths.Any(p => p.Client == "nvme0" && p.Owner == "nvme0"));
        ObjectDocument window = Assert.Single(await host.ListAsync());
        Assert.Equal(("nvme0", "x", Host.Objects.ObjectPlace.ControllerMemory),
            (window.Device, window.Name, window.Placement));

        using JsonDocument proof = JsonDocument.Parse(await RunWellAsync("revoke", $"{host.Url}/nvme0/x", "--json"));

        Assert.Equal("Retired", proof.RootElement.GetProperty("grade").GetString());
        Assert.Contains(
            proof.RootElement.GetProperty("importers").EnumerateArray(),
            i => i.TryGetProperty("key_dead_at_us", out _) && i.GetProperty("device").GetString() == "rdma0");
        CliResult end = await copy.WaitAsync();
        Assert.Equal((1, ""), (end.ExitCode, end.Out));
        Assert.Single(end.Error.TrimEnd('\n').Split('\n'));
        await UntilAsync(
            "nothing stays", async () => (await host.ListAsync()).Count == 0
                && Directory.GetFileSystemEntries(InFolder("drive")).Length == 0);
        Assert.Equal(0, (await RunAsync("cp", MakeFile("small", 4097), $"{host.Url}/nvme0/x")).ExitCode);
    }

    [Fact]
    public async Task A_drive_without_a_folder_takes_no_files_of_peers()
    {
        HostProcess host = await StartAsync(null);
        CliResult refused = await RunAsync("cp", MakeFile("source", 4097), $"{host.Url}/nvme0/x");
        Assert.Equal(1, refused.ExitCode);
        Assert.Contains(
            "peers may write no files to nvme0; give the drive a folder", refused.Error, StringComparison.Ordinal);
        Assert.Empty(await host.ListAsync());
    }

    private static void LinksDocumentCheck(Host.Topology.LinksDocument links, long length)
    {
        long written = links.Paths.Where(p => p.Client == "rdma0" && p.Owner == "nvme0").Sum(p => p.WrittenBytes);
        long read = links.Paths.Where(p => p.Client == "nvme0" && p.Owner == "nvme0").Sum(p => p.ReadBytes);
        long blocks = (length + 4095) / 4096 * 4096; // a drive writes whole ones
        Assert.Equal((length, blocks, 0), (written, read, links.StagingBytes));
    }

    private async Task<HostProcess> StartAsync(string? folder)
    {
        string file = InFolder("devices.json");
        string drive = "{}";
        if (folder is not null)
        {
            Directory.CreateDirectory(folder);
            drive = $$"""{ "folder": "{{folder}}" }""";
        }

        await File.WriteAllTextAsync(file, $$"""{ "nvmes": [ {{drive}} ] }""", Cancellation);
        return await StartHostAsync("b", "16MiB", "--config", file);
    }
}
