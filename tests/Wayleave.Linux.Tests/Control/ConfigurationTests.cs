using System.Net;
using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

public sealed class ConfigurationTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("wayleave-config-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Without_any_source_a_host_has_one_gpu_and_one_nic_on_127_0_0_2()
    {
        HostConfig config = Load().Config;
        Assert.Equal("host", config.Name);
        GpuConfig gpu = Assert.Single(config.Gpus);
        Assert.Equal(("gpu0", 1L << 30, 1L << 30), (gpu.Name, gpu.VramBytes, gpu.SystemPoolBytes));
        NicConfig nic = Assert.Single(config.Nics);
        Assert.Equal(
            ("rdma0", "127.0.0.2", 4791, 4096), (nic.Name, nic.Address.ToString(), nic.UdpPort, nic.PathMtuBytes));
        Assert.Equal((IPAddress.Parse("127.0.0.2"), 7471), (config.ControlAddress, config.Control.Port));
        Assert.Empty(new HostConfig().Validate());
    }

    [Fact]
    public void A_file_may_have_comments_and_set_everything()
    {
        string file = Write(
            """
            {
              // two GPUs, one NIC
              "name": "b",
              "gpus": [
                { "vram_bytes": "64MiB", "system_pool_bytes": 0 },
                { "name": "big", "vram_bytes": 2147483648, },
              ],
              "nics": [ { "address": "::1", "udp_port": 0, "path_mtu_bytes": 1024 } ],
              "control": { "address": "127.0.0.9", "port": 0, "socket": "none", "token_file": "/run/t" }
            }
            """);
        HostConfig config = Load(file).Config;
        Assert.Equal(["gpu0", "big"], config.Gpus.Select(g => g.Name));
        Assert.Equal([64L << 20, 2L << 30], config.Gpus.Select(g => g.VramBytes));
        Assert.Equal((IPAddress.IPv6Loopback, 0, 1024),
            (config.Nics[0].Address, config.Nics[0].UdpPort, config.Nics[0].PathMtuBytes));
        Assert.Equal(("127.0.0.9", 0), (config.ControlAddress.ToString(), config.Control.Port));
        Assert.Equal((ControlConfig.None, "/run/t"), (config.Control.SocketPath, config.Control.TokenFile));
    }

    [Fact]
    public void The_command_line_wins_over_the_environment_over_the_file_over_the_default()
    {
        string file = Write("""{ "name": "file", "control": { "port": 1 }, "nics": [ { "udp_port": 1 } ] }""");
        LoadedConfiguration loaded = Load(
            file,
            new() { ["--port"] = "3" },
            new() { ["WAYLEAVE_PORT"] = "2", ["WAYLEAVE_UDP_PORT"] = "2" });
        Assert.Equal(("3", "--port"), Value(loaded, "control.port"));
        Assert.Equal(("2", "WAYLEAVE_UDP_PORT"), Value(loaded, "nics[0].udp_port"));
        Assert.Equal(("file", file), Value(loaded, "name"));
        Assert.Equal(("4096", "default"), Value(loaded, "nics[0].path_mtu_bytes"));
        Assert.Equal((3, 2), (loaded.Config.Control.Port, loaded.Config.Nics[0].UdpPort));
    }

    [Fact]
    public void The_file_may_come_from_the_environment() =>
        Assert.Equal("e", Load(environment: new() { ["WAYLEAVE_CONFIG"] = Write("""{ "name": "e" }""") }).Config.Name);

    [Fact]
    public void Every_problem_is_reported_at_once_with_its_place()
    {
        string file = Write(
            """
            {
              "name": "", "nmae": 1,
              "gpus": [ { "name": "x", "vram_bytes": "1Q" }, { "name": "x", "vram_bytes": 65537 }, 7 ],
              "nics": [
                { "address": "0.0.0.0", "udp_port": 70000, "path_mtu_bytes": 1500 }, { "address": "localhost" }
              ],
              "control": { "port": "7471", "socket": "relative", "token": "short" }
            }
            """);
        File.SetUnixFileMode(file, UnixFileMode.UserRead | UnixFileMode.OtherRead);
        ConfigurationException e = Assert.Throws<ConfigurationException>(
            () => Load(file, new() { ["--address"] = "224.0.0.1" }, new() { ["WAYLEAVE_VRAM"] = "10" }));
        Assert.Equal(
            [
                "nmae: unknown key; known are name, gpus, nics, nvmes, accelerators, vfios, ethernets, linux_nics, "
                    + "control, broker, topology",
                "gpus[2]: must be an object: { ... }",
                "nics[1].address: 'localhost' is not an IPv4 or IPv6 address",
                "control.port: must be a whole number",
                $"control.token: others can read the token in {file}; chmod 600 {file}",
                "name: the host name is empty",
                "WAYLEAVE_VRAM: 10 is out of range; allowed are 64KiB to 1TiB",
                "gpus[1].name: 'x' is also the name of gpus[0]",
                "gpus[1].vram_bytes: 65537 is not a multiple of 64KiB",
                "--address: 224.0.0.1 is not the address of one machine; peers are told this address",
                "nics[0].udp_port: 70000 is not a port; ports are 1 to 65535, and 0 lets the system choose",
                "nics[0].path_mtu_bytes: 1500 is not a path MTU; choose 256, 512, 1024, 2048 or 4096",
                "control.socket: 'relative' is not an absolute path",
                "control.token: a token of 5 characters; it needs 32 to 512: openssl rand -hex 32",
            ],
            e.Problems.Select(p => p.ToString()));
        Assert.Equal("configuration: " + string.Join("; ", e.Problems), e.Message);
    }

    [Fact]
    public void An_option_that_is_no_number_is_reported_under_its_own_name()
    {
        ConfigurationException e = Assert.Throws<ConfigurationException>(
            () => Load(options: new() { ["--port"] = "x", ["--vram"] = "1Q" }));
        Assert.Equal(
            ["--vram: '1Q' is not a size such as 64MiB, 1G or 4096", "--port: 'x' is not a whole number"], Texts(e));
    }

    [Fact]
    public void Two_nics_cannot_share_an_address_and_port() =>
        Assert.Equal(
            ["nics[1].udp_port: 127.0.0.2 port 4791 is also that of nics[0]"],
            Texts(Assert.Throws<ConfigurationException>(() => Load(Write("""{ "nics": [ {}, {} ] }""")))));

    [Fact]
    public void A_NIC_may_have_further_ports_and_no_two_have_one_address()
    {
        string file = Write(
            """
            { "nics": [ { "further_ports": [ { "address": "127.0.0.12", "udp_port": 5 }, { "address": "::1" } ] } ] }
            """);
        LoadedConfiguration loaded = Load(file);
        Assert.Equal(
            [(IPAddress.Parse("127.0.0.12"), 5), (IPAddress.IPv6Loopback, 4791)],
            loaded.Config.Nics[0].FurtherPorts.Select(p => (p.Address, p.UdpPort)));
        Assert.Equal("127.0.0.12", Value(loaded, "nics[0].further_ports[0].address").Item1);
        Assert.Equal(
            [
                "nics[0].further_ports[0].address: 0.0.0.0 is not the address of one machine; "
                    + "peers are told this address",
                "nics[0].further_ports[2].udp_port: 127.0.0.2 port 4791 is also that of nics[0]",
            ],
            Texts(Assert.Throws<ConfigurationException>(() => Load(Write(
                """
                {
                  "nics": [
                    { "further_ports": [ { "address": "0.0.0.0" }, { "address": "::1" }, { "address": "127.0.0.2" } ] }
                  ]
                }
                """)))));
    }

    [Fact]
    public void An_override_of_something_that_the_file_excludes_is_reported() =>
        Assert.Contains(
            "--vram: there is no gpus[0] in the file that this could be for",
            Texts(Assert.Throws<ConfigurationException>(
                () => Load(Write("""{ "gpus": [] }"""), new() { ["--vram"] = "1G" }))));

    [Theory]
    [InlineData("{", "line 1")]
    [InlineData("{\n\"name\": x }", "line 2")]
    [InlineData("{ \"name\": \"a\", \"name\": \"b\" }", "line 1")]
    [InlineData("[]", "is not a JSON object")]
    [InlineData("", "line 1")]
    public void A_file_that_is_no_configuration_is_named_with_the_line(string text, string expected)
    {
        string file = Write(text);
        ConfigurationException e = Assert.Throws<ConfigurationException>(() => Load(file));
        Assert.Contains(expected, e.Message, StringComparison.Ordinal);
        Assert.Contains(file, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void A_missing_file_is_an_error_and_not_the_default()
    {
        string file = Path.Combine(_folder, "none.json");
        WayleaveException e = Assert.Throws<WayleaveException>(() => Load(file));
        Assert.Equal(Errno.ENOENT, e.Errno);
        Assert.Equal($"read the configuration {file}: does not exist; name another file by --config", e.Message);
    }

    [Fact]
    public void A_file_without_end_is_refused() =>
        Assert.Equal(Errno.E2BIG, Assert.Throws<WayleaveException>(() => Load("/dev/zero")).Errno);

    [Fact]
    public void A_nearer_token_file_replaces_a_farther_token()
    {
        Dictionary<string, string?> environment = new() { ["WAYLEAVE_TOKEN"] = new string('t', 32) };
        Assert.Equal(new string('t', 32), Load(environment: environment).Config.Control.Token);
        HostConfig config = Load(options: new() { ["--token-file"] = "/run/t" }, environment: environment).Config;
        Assert.Equal((null, "/run/t"), (config.Control.Token, config.Control.TokenFile));
    }

    [Fact]
    public void A_token_is_never_printed()
    {
        string token = new('t', 32);
        LoadedConfiguration loaded = Load(environment: new() { ["WAYLEAVE_TOKEN"] = token });
        Assert.Equal(("(hidden)", "WAYLEAVE_TOKEN"), Value(loaded, "control.token"));
        Assert.DoesNotContain(token, loaded.Config.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void What_is_typed_is_relative_to_the_current_folder() =>
        Assert.Equal(Path.GetFullPath("t"), Load(options: new() { ["--token-file"] = "t" }).Config.Control.TokenFile);

    private static LoadedConfiguration Load(
        string? file = null,
        Dictionary<string, string>? options = null,
        Dictionary<string, string?>? environment = null) =>
        ConfigurationLoader.Load(file, options ?? [], name => environment?.GetValueOrDefault(name));

    private static (string Value, string Origin) Value(LoadedConfiguration loaded, string path)
    {
        ConfigValue value = loaded.Values.Single(v => v.Path == path);
        return (value.Value, value.Origin);
    }

    private static IEnumerable<string> Texts(ConfigurationException e) => e.Problems.Select(p => p.ToString());

    private string Write(string text)
    {
        string file = Path.Combine(_folder, "wayleave.json");
        File.WriteAllText(file, text);
        File.SetUnixFileMode(file, UnixFileMode.UserRead | UnixFileMode.UserWrite);
        return file;
    }
}
