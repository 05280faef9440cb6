using System.Text.Json;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// Accelerators, functions in the hands of VFIO, and BARs smaller than the memory, from the command line.
/// </summary>
public sealed class OtherDevicesTests : EndToEndTest
{
    private const string Devices = """
        {
          "gpus": [ { "name": "gpu0", "vram_bytes": "32MiB", "system_pool_bytes": "32MiB", "visible_bytes": "8MiB" } ],
          "accelerators": [ { "memory_bytes": "16MiB", "visible_bytes": "4MiB" } ],
          "vfios": [ { "bars": [ { "index": 2, "size_bytes": "8MiB" }, { "index": 4, "size_bytes": "1MiB" } ] } ]
        }
        """;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Fact]
    public async Task The_devices_of_a_configuration_are_listed_with_what_their_BARs_show()
    {
        HostProcess host = await StartAsync();
        string devices = await RunWellAsync("devices", host.Url);
        Assert.Contains("accel0\n        type:                    accelerator\n", devices, StringComparison.Ordinal);
        Assert.Contains("        memory_visible:          4.00 MiB\n", devices, StringComparison.Ordinal);
        Assert.Contains("vfio0\n        type:                    vfio\n", devices, StringComparison.Ordinal);
        Assert.Contains("        bars:                    9.00 MiB\n", devices, StringComparison.Ordinal);
        Assert.Contains("        vram_hidden:             24.0 MiB\n", devices, StringComparison.Ordinal);

        using JsonDocument json = JsonDocument.Parse(await RunWellAsync("devices", host.Url + "/vfio0", "--json"));
        JsonElement vfio = Assert.Single(json.RootElement.GetProperty("vfios").EnumerateArray());
        Assert.True(vfio.GetProperty("memory_enabled").GetBoolean());
        Assert.Empty(json.RootElement.GetProperty("gpus").EnumerateArray());
        Assert.Contains("accel0", await RunWellAsync("topo", host.Url, "-m"), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("accel0", 1_000_003, "device_memory")]
    [InlineData("vfio0", 1_000_003, "bar")]
    [InlineData("gpu0", 1_000_003, "vram")]
    public async Task A_file_goes_to_each_device_and_back_by_the_wire(string device, int length, string place)
    {
        HostProcess host = await StartAsync();
        string source = MakeFile("source", length);
        string back = InFolder("back");

        Assert.Equal(0, (await RunAsync("cp", source, $"{host.Url}/{device}/x")).ExitCode);
        using JsonDocument list = JsonDocument.Parse(await RunWellAsync("ls", host.Url, "--json"));
        JsonElement o = Assert.Single(list.RootElement.GetProperty("objects").EnumerateArray());
        Assert.Equal(
            (device, (ulong)length, place),
            (o.GetProperty("device").GetString(), o.GetProperty("size_bytes").GetUInt64(),
                o.GetProperty("placement").GetString()));
        Assert.Equal(0, (await RunAsync("cp", $"{host.Url}/{device}/x", back)).ExitCode);

        Assert.Equal(Sha256(source), Sha256(back));
        Assert.StartsWith(
            $"{host.Url}/{device}/x: Retired", await RunWellAsync("revoke", $"{host.Url}/{device}/x"),
            StringComparison.Ordinal);
        Assert.Empty(await host.ListAsync());
    }

    [Theory]
    [InlineData("accel0")]
    [InlineData("vfio0")]
    public async Task A_drive_reads_a_file_straight_into_each_device(string device)
    {
        HostProcess host = await StartAsync();
        string source = MakeFile("source", 500_001);
        using JsonDocument loaded = JsonDocument.Parse(await RunWellAsync(
            "cp", source, $"{device}/x", "--deny-staging", "--json"));
        Assert.Equal(0, loaded.RootElement.GetProperty("staging_bytes").GetInt64());
        Assert.Equal(Sha256(source), (await host.Client.GetSha256Async(device, "x", Cancellation)).Sha256);
    }

    [Fact]
    public async Task What_a_BAR_does_not_show_is_refused_with_the_reason()
    {
        HostProcess host = await StartAsync();
        string source = MakeFile("source", 5 << 20);
        await ExpectFailureAsync(
            1,
            $"{host.Authority}: create accel0/x of 5MiB: its BAR shows 4MiB of 16MiB, and what is free is beyond that; "
                + "revoke an object, or give it a larger visible_bytes",
            "cp", source, $"{host.Url}/accel0/x");
        Assert.Empty(await host.ListAsync());

        // The allocator has the memory back: what fits still fits.
        Assert.Equal(0, (await RunAsync("cp", MakeFile("small", 4 << 20), $"{host.Url}/accel0/x")).ExitCode);
    }

    [Fact]
    public async Task A_reset_takes_the_BARs_from_who_borrowed_them_and_leaves_cleared_objects()
    {
        HostProcess host = await StartAsync();
        string source = MakeFile("source", 1 << 20);
        Assert.Equal(0, (await RunAsync("cp", source, $"{host.Url}/vfio0/x")).ExitCode);
        ObjectDocument o = Assert.Single(await host.ListAsync());
        await using WayleaveHost user = await StartUserAsync();
        DeviceObject local = await user.Objects.CreateAsync("gpu0", "local", 1 << 20, null, Cancellation);
        await using Connection connection = await Connection.OpenAsync(user.Nics[0], local);
        await using HeldLease lease = await host.Client.LeaseAsync(o.Id, RequestFor(connection), Cancellation);

        using JsonDocument reset = JsonDocument.Parse(await RunWellAsync("reset", "vfio0", host.Url, "--json"));
        JsonElement proof = Assert.Single(reset.RootElement.GetProperty("proofs").EnumerateArray());
        Assert.Equal("Retired", proof.GetProperty("grade").GetString());
        Assert.Equal("reset of vfio0", proof.GetProperty("reason").GetString());
        Assert.Equal(lease.Lease.Rkey, Assert.Single(proof.GetProperty("importers").EnumerateArray())
            .GetProperty("key").GetUInt32());

        WayleaveException ended = await Assert.ThrowsAsync<WayleaveException>(() => lease.Completion);
        Assert.Equal(Errno.ENODEV, ended.Errno);
        byte[] zeros = new byte[1 << 20];
        Assert.Equal(
            Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(zeros)),
            (await host.Client.GetSha256Async("vfio0", "x", Cancellation)).Sha256);

        // The buffer is alive again: it can be borrowed anew.
        await using HeldLease again = await host.Client.LeaseAsync(o.Id, RequestFor(connection), Cancellation);
        Assert.Equal(1 << 20, (long)again.Lease.LengthBytes);
    }

    [Fact]
    public async Task Memory_of_an_accelerator_is_not_taken_from_its_users()
    {
        HostProcess host = await StartAsync();
        Assert.Equal(0, (await RunAsync("cp", MakeFile("source", 1 << 20), $"{host.Url}/accel0/x")).ExitCode);
        ObjectDocument o = Assert.Single(await host.ListAsync());
        await using WayleaveHost user = await StartUserAsync();
        DeviceObject local = await user.Objects.CreateAsync("gpu0", "local", 1 << 20, null, Cancellation);
        await using Connection connection = await Connection.OpenAsync(user.Nics[0], local);
        HeldLease lease = await host.Client.LeaseAsync(o.Id, RequestFor(connection), Cancellation);

        CliResult refused = await RunAsync("revoke", $"{host.Url}/accel0/x");
        Assert.Equal(1, refused.ExitCode);
        Assert.Contains(
            "accel0 does not take memory back from its users, and rdma0 mr 0x",
            refused.Error,
            StringComparison.Ordinal);

        await lease.DisposeAsync();
        await UntilAsync(
            "the lease has ended", async () => (await RunAsync("revoke", $"{host.Url}/accel0/x")).ExitCode == 0);
        Assert.Empty(await host.ListAsync());
    }

    [Fact]
    public async Task Only_functions_in_the_hands_of_VFIO_are_reset()
    {
        HostProcess host = await StartAsync();
        await ExpectFailureAsync(
            3,
            $"{host.Authority}: reset gpu0: only functions in the hands of VFIO and Ethernet NICs are reset; "
                + "it has vfio0",
            "reset", "gpu0", host.Url);
        await ExpectFailureAsync(
            1, $"{host.Authority}: reset gpu9: the host has no such device; it has vfio0", "reset", "gpu9", host.Url);
    }

    [Fact]
    public async Task Everything_that_is_wrong_with_them_is_told_at_once()
    {
        string file = InFolder("bad.json");
        await File.WriteAllTextAsync(
            file,
            """
            {
              "gpus": [ { "vram_bytes": "32MiB", "visible_bytes": "3MiB" } ],
              "accelerators": [
                { "memory_bytes": "16MiB", "page_bytes": 5000 },
                { "name": "accel1", "memory_bytes": "100KiB", "visible_bytes": "1GiB", "colour": 1 }
              ],
              "vfios": [
                { "bars": [ { "index": 6, "size_bytes": 4097 }, { "index": 6, "size_bytes": "1MiB" }, 7 ] },
                { "name": "accel1", "bars": [], "patience_ms": 0 }
              ]
            }
            """,
            Cancellation);
        CliResult result = await RunAsync("host", "--config", file);
        Assert.Equal((2, ""), (result.ExitCode, result.Out));
        Assert.Equal(
            $$"""
            wayleave: configuration: 13 problems
              accelerators[1].colour: unknown key; known are name, memory_bytes, page_bytes, visible_bytes, function
              vfios[0].bars[2]: must be an object: { ... }
              gpus[0].visible_bytes: 3145728 is not what a BAR can show; give {{Allowed("32MiB")}}
              accelerators[0].page_bytes: 5000 is not a page; give a power of two of 4KiB to 2MiB
              accelerators[1].memory_bytes: 102400 is not a multiple of 64KiB
              accelerators[1].visible_bytes: 1073741824 is not what a BAR can show; give {{Allowed("100KiB")}}
              vfios[0].bars[0].index: 6 is not a BAR; they are 0 to 5
              vfios[0].bars[0].size_bytes: 4097 is not allowed; give a power of two of 4KiB to 1GiB
              vfios[0].bars[1].index: 6 is not a BAR; they are 0 to 5
              vfios[0].bars[1].index: BAR 6 is there twice
              vfios[1].name: 'accel1' is also the name of accelerators[1]
              vfios[1].bars: a function without memory has nothing to share
              vfios[1].patience_ms: 0 is out of range; allowed are 1 to 3600000

            """,
            result.Error);
    }

    private static string Allowed(string all) => $"a power of two of 64KiB to the {all} that there are";

    private static LeaseRequestDocument RequestFor(Connection connection) => new()
    {
        Access = LeaseAccess.ReadWrite,
        Region = ImporterKind.Dynamic,
        Peer = ConnectionEndDocument.From(connection.Local),
    };

    private static Task<WayleaveHost> StartUserAsync() => WayleaveHost.StartAsync(new HostConfig
    {
        Nics = [new NicConfig { Address = NextAddress(), UdpPort = 0 }],
        Gpus = [new GpuConfig { VramBytes = 8 << 20, SystemPoolBytes = 0 }],
        Nvmes = [],
    });

    private async Task<HostProcess> StartAsync()
    {
        string file = InFolder("devices.json");
        await File.WriteAllTextAsync(file, Devices, Cancellation);
        return await StartHostAsync("b", "32MiB", "--config", file);
    }
}
