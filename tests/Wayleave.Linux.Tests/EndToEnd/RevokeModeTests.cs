using Wayleave.Core.Retirement;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>NICs of a running host whose keys die under traffic, only while the port stands still, or not.</summary>
public sealed class RevokeModeTests : EndToEndTest
{
    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_NIC_that_has_to_stand_still_gives_memory_back_with_a_proof_under_traffic()
    {
        HostProcess host = await StartAsync("quiesce");
        Assert.Contains("        revoke:                  quiesce\n", await RunWellAsync("devices", host.Url),
            StringComparison.Ordinal);
        string source = MakeFile("source", 8 << 20), back = InFolder("back");
        Assert.Equal(0, (await RunAsync("cp", source, host.UrlOf("x"))).ExitCode);
        Assert.Equal(0, (await RunAsync("cp", host.UrlOf("x"), back)).ExitCode);
        Assert.Equal(Sha256(source), Sha256(back));

        // A lease is alive, and copies go on, when its memory is wanted back.
        ObjectDocument o = Assert.Single(await host.ListAsync());
        await using WayleaveHost user = await StartUserAsync();
        DeviceObject local = await user.Objects.CreateAsync("gpu0", "local", 1 << 20, null, Cancellation);
        await using Connection connection = await Connection.OpenAsync(user.Nics[0], local);
        await using HeldLease lease = await host.Client.LeaseAsync(
            o.Id,
            new LeaseRequestDocument { Access = LeaseAccess.Read, Peer = ConnectionEndDocument.From(connection.Local) },
            Cancellation);
        CliProcess copy = Start("cp", source, host.UrlOf("y"));
        ProofDocument proof = await host.Client.RevokeAsync("gpu0", "x", new RevokeObjectDocument(), Cancellation);
        Assert.Equal(RetirementGrade.Retired, proof.Grade);
        Assert.Equal(0, (await copy.WaitAsync()).ExitCode);
        Assert.True(await host.ReadCounterAsync("quiesces") > 0);
    }

    [Fact]
    public async Task A_NIC_that_cannot_revoke_is_refused_by_whoever_must_be_able_to()
    {
        HostProcess host = await StartAsync("none");
        string source = MakeFile("source", 1 << 20);
        Assert.Equal(0, (await RunAsync("cp", source, host.UrlOf("x"))).ExitCode);
        CliResult refused = await RunAsync("cp", source, $"{host.Url}/vfio0/x");
        Assert.Equal(3, refused.ExitCode);
        Assert.DoesNotContain("internal error", refused.Error, StringComparison.Ordinal);
        Assert.DoesNotContain(await host.ListAsync(), o => o.Device == "vfio0");
    }

    [Fact]
    public async Task A_NIC_with_two_addresses_shows_both_as_ports_of_one_device()
    {
        string file = InFolder("ports.json");
        System.Net.IPAddress second = NextAddress();
        await File.WriteAllTextAsync(
            file,
            $$"""
            {
              "nics": [
                { "further_ports": [ { "address": "{{second}}", "udp_port": 0 } ] }
              ]
            }
            """,
            Cancellation);
        HostProcess host = await StartHostAsync("r", "64MiB", "--config", file);
        NicDocument nic = Assert.Single((await host.Client.GetDevicesAsync(Cancellation)).Nics);
        Assert.Equal(
            [(1, nic.Gid, "active", "lo"), (2, second.ToString(), "active", "lo")],
            nic.Ports.Select(p => (p.Number, p.Gid, p.State, p.Interface)));
        string text = await RunWellAsync("devices", host.Url);
        foreach (NicPortDocument port in nic.Ports)
        {
            Assert.Contains(
                $"port:                    {port.Number}: {port.Gid} udp {port.UdpPort} on lo, active\n",
                text,
                StringComparison.Ordinal);
        }

        string source = MakeFile("source", 1 << 20);
        Assert.Equal(0, (await RunAsync("cp", source, host.UrlOf("x"))).ExitCode);
        nic = Assert.Single((await host.Client.GetDevicesAsync(Cancellation)).Nics);
        Assert.True(nic.Ports[0].Counters["bytes_received"] > 1 << 20);
        Assert.Equal(0, nic.Ports[1].Counters["packets_received"]);
    }

    [Fact]
    public async Task An_unknown_way_to_revoke_is_told_with_what_there_is()
    {
        string file = InFolder("bad.json");
        await File.WriteAllTextAsync(file, """{ "nics": [ { "revoke": "gently" } ] }""", Cancellation);
        await ExpectFailureAsync(
            2,
            "configuration: nics[0].revoke: 'gently' is none of concurrent, quiesce, none",
            "host", "--config", file);
    }

    private async Task<HostProcess> StartAsync(string revoke)
    {
        string file = InFolder("nic.json");
        await File.WriteAllTextAsync(
            file,
            $$"""
            {
              "nics": [ { "revoke": "{{revoke}}" } ],
              "vfios": [ { "bars": [ { "index": 2, "size_bytes": "8MiB" } ] } ]
            }
            """,
            Cancellation);
        return await StartHostAsync("r", "64MiB", "--config", file);
    }

    private static Task<WayleaveHost> StartUserAsync() => WayleaveHost.StartAsync(new HostConfig
    {
        Name = "user",
        Nics = [new NicConfig { Address = NextAddress(), UdpPort = 0 }],
        Gpus = [new GpuConfig { VramBytes = 16 << 20, SystemPoolBytes = 16 << 20 }],
        Control = new ControlConfig { Port = 0 },
    });
}
