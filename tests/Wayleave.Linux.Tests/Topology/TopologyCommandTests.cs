using System.Globalization;
using System.Text.Json;
using Wayleave.Cli;
using Wayleave.Core.Topology;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Linux.Tests.Control;
using Xunit;

namespace Wayleave.Linux.Tests.Topology;

/// <summary>What the commands about paths print, byte for byte.</summary>
public sealed class TopologyCommandTests : IDisposable
{
    private const string TwoHostBridges =
        """
        { "topology": {
            "host_bridges": [ { "bus": "0000:00", "id": "8086:1237", "iommu": "strict" },
                              { "bus": "0000:80", "id": "8086:2030", "numa_node": 1,
                                "forwards_peer_requests": false } ],
            "bridges": [
              { "name": "rp0", "kind": "root_port", "address": "00:01.0", "acs": [] },
              { "name": "sw0", "kind": "switch_upstream", "address": "01:00.0", "below": "rp0" },
              { "name": "sw0.0", "kind": "switch_downstream", "address": "02:00.0", "below": "sw0",
                "acs": [ "request_redirect", "completion_redirect" ] },
              { "name": "sw0.1", "kind": "switch_downstream", "address": "02:01.0", "below": "sw0" },
              { "name": "rp1", "kind": "root_port", "address": "00:02.0" },
              { "name": "rp8", "kind": "root_port", "address": "80:01.0" } ],
            "functions": [
              { "name": "gpu0", "address": "03:00.0", "below": "sw0.0", "id": "10de:2330" },
              { "name": "rdma0", "address": "04:00.0", "below": "sw0.1" },
              { "name": "nvme0", "address": "81:00.0", "below": "rp8",
                "bars": [ { "size_bytes": "16KiB", "address": "0xfe000000" },
                          { "index": 2, "size_bytes": "16MiB", "address": "0x3800000000", "prefetchable": true },
                          { "index": 4, "size_bytes": 32, "kind": "io_port" } ] } ] } }
        """;

    private readonly ControlTestFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Topo_prints_the_tree_of_lspci_and_what_it_has_no_room_for() => Assert.Equal(
        """
        -+-[0000:00]-+-00.0  pci0000:00 [8086:1237]
         |           +-01.0-[01-04]----00.0-[02-04]--+-00.0-[03]----00.0  gpu0 (gpu) [10de:2330]
         |           |                               \-01.0-[04]----00.0  rdma0 (rdma)
         |           \-02.0-[]--
         \-[0000:80]-+-00.0  pci0000:80 [8086:2030]
                     \-01.0-[81]----00.0  nvme0 (nvme)

        ROOT BUS    IOMMU   NUMA  IDENTITY   PEER REQUESTS BETWEEN ITS PORTS
        pci0000:00  strict     0  8086:1237  refused: not on the list
        pci0000:80  off        1  8086:2030  allowed: on the list; the hardware aborts them

        ADDRESS       NAME        KIND               ID         ACS                    BARS
        0000:00:00.0  pci0000:00  host bridge        8086:1237  -                      -
        0000:00:01.0  rp0         root port          -          nothing set            -
        0000:01:00.0  sw0         switch upstream    -          -                      -
        0000:02:00.0  sw0.0       switch downstream  -          ReqRedir+ CmpltRedir+  -
        0000:03:00.0  gpu0        gpu                10de:2330  -                      -
        0000:02:01.0  sw0.1       switch downstream  -          -                      -
        0000:04:00.0  rdma0       rdma               -          -                      -
        0000:00:02.0  rp1         root port          -          -                      -
        0000:80:00.0  pci0000:80  host bridge        8086:2030  -                      -
        0000:80:01.0  rp8         root port          -          -                      -
        0000:81:00.0  nvme0       nvme               -          -                      0: 16KiB at 0xfe000000
                                                                                       2: 16MiB at 0x3800000000 pref
                                                                                       4: 32 at 0x1000 ports

        """.ReplaceLineEndings("\n"),
        await RunWellAsync("topo", "--config", Config(TwoHostBridges)));

    [Fact]
    public async Task Topo_of_a_machine_shows_its_IOMMU_groups_and_what_only_root_could_read()
    {
        using SysfsFixture machine = new();
        machine.SetProcessor("AuthenticAMD", 25);
        machine.Add("pci0000:00/0000:00:00.0", "1022:14b5", 0x060000);
        machine.Add("pci0000:00/0000:00:01.1", "1022:14ba", 0x060400, isRoot: false);
        string nic = machine.Add("pci0000:00/0000:00:01.1/0000:01:00.0", "15b3:101d", 0x020000, isRoot: false);
        Directory.CreateDirectory(Path.Combine(nic, "infiniband/mlx5_0"));
        machine.SetGroup(nic, 12, "DMA-FQ");

        (int code, string output, string error) = await RunAsync("topo", "--live", "--root", machine.Root);

        Assert.Equal(
            (0, "note: ACS of some functions is not known: only root may read the extended configuration space\n"),
            (code, error));
        Assert.Equal(
            """
            -[0000:00]-+-00.0  [1022:14b5]
                       \-01.1-[01]----00.0  mlx5_0 (network) [15b3:101d]

            ROOT BUS    IOMMU   NUMA  IDENTITY   PEER REQUESTS BETWEEN ITS PORTS
            pci0000:00  strict     0  1022:14b5  allowed: AuthenticAMD family 0x19

            ADDRESS       NAME    KIND         ID         ACS      IOMMU GROUP  BARS
            0000:00:00.0  -       host bridge  1022:14b5  -        -            -
            0000:00:01.1  -       root port    1022:14ba  unknown  -            -
            0000:01:00.0  mlx5_0  network      15b3:101d  unknown  12 DMA-FQ    -

            """.ReplaceLineEndings("\n"),
            output);
    }

    [Fact]
    public async Task Topo_m_prints_the_letters_of_nvidia_smi_and_who_reaches_whose_memory() => Assert.Equal(
        """
               gpu0  rdma0  nvme0
        gpu0   X     PIX    SYS
        rdma0  PIX   X      SYS
        nvme0  SYS   SYS    X

        Legend:

          X    = Self
          SYS  = Across the interconnect between NUMA nodes
          NODE = Across the host bridges of one NUMA node
          PHB  = Across a PCIe host bridge (typically the CPU)
          PXB  = Across several PCIe bridges, but no host bridge
          PIX  = Across at most one PCIe bridge or switch

               gpu0  rdma0  nvme0
        gpu0   X     NO     NO
        rdma0  -     X      -
        nvme0  NO    NO     X

        P2P: how the device of a column reaches the memory of the device of a row

          BUS  = By bus address: the request stays below a common bridge, past every IOMMU
          HOST = Through the host bridge
          NO   = Not at all: wayleave explain ROW COLUMN says why
          BAD  = Allowed, but a probe failed
          -    = It offers no memory to peers

        """.ReplaceLineEndings("\n"),
        await RunWellAsync("topo", "-m", "--config", Config(TwoHostBridges)));

    [Fact]
    public async Task Explain_of_a_refusal_names_the_object_and_what_would_change_it()
    {
        (int code, string output, string error) =
            await RunAsync("explain", "gpu0", "rdma0", "--config", Config(TwoHostBridges));

        Assert.Equal((1, ""), (code, error));
        Assert.Equal(
            """
            rdma0 (0000:04:00.0) to memory of gpu0 (0000:03:00.0)
                    route:       none
                    distance:    4
                    proximity:   PIX
                    path:        rdma0 > sw0.1 > sw0 > rp0 > pci0000:00 > rp0 > sw0 > sw0.0 > gpu0
                    reason:      ACS redirect at sw0.0 (0000:02:00.0) sends peer requests to the host bridge,
                                 and host bridge pci0000:00 (8086:1237) is not on the allow list
                    object:      sw0.0 (0000:02:00.0): ReqRedir+ CmpltRedir+
                    remedy:      clear the redirect at sw0.0 (Linux: pci=disable_acs_redir=0000:02:00.0; in a
                                 configuration: its "acs"), which also ends the isolation that it gives; or use
                                 a processor (AMD since family 17h) or a host bridge that is known to forward

            """.ReplaceLineEndings("\n"),
            output);
    }

    [Fact]
    public async Task Explain_by_address_across_host_bridges_names_the_bridge_that_is_not_listed()
    {
        (int code, string output, _) =
            await RunAsync("explain", "81:00.0", "0000:04:00.0", "--config", Config(TwoHostBridges));

        Assert.Equal(1, code);
        Assert.Equal(
            """
            rdma0 (0000:04:00.0) to memory of nvme0 (0000:81:00.0)
                    route:       none
                    distance:    6
                    proximity:   SYS
                    path:        rdma0 > sw0.1 > sw0 > rp0 > pci0000:00 > pci0000:80 > rp8 > nvme0
                    reason:      nvme0 and rdma0 have no bridge in common below the host bridge, and host bridge
                                 pci0000:00 (8086:1237) is not on the allow list
                    object:      pci0000:00 (8086:1237): not on the allow list for this pair
                    remedy:      put nvme0 and rdma0 below one switch, or use a processor (AMD since family 17h)
                                 or a host bridge that is known to forward

            """.ReplaceLineEndings("\n"),
            output);
    }

    [Theory]
    [InlineData("8086:2f00", "allowed: on the list, for this bridge alone", true)]
    [InlineData("1ae0:0001", "allowed: on the list", true)]
    [InlineData("8086:0000", "refused: not on the list", false)]
    public async Task The_allow_list_decides_between_two_root_ports(string id, string words, bool isAllowed)
    {
        string config = Config($$"""
            { "topology": {
                "host_bridges": [ { "id": "{{id}}" } ],
                "bridges": [ { "name": "rp0", "kind": "root_port", "address": "00:01.0" },
                             { "name": "rp1", "kind": "root_port", "address": "00:02.0" } ],
                "functions": [ { "name": "gpu0", "address": "01:00.0", "below": "rp0" },
                               { "name": "rdma0", "address": "02:00.0", "below": "rp1" } ] } }
            """);

        Assert.Contains($"  {id}  {words}\n", await RunWellAsync("topo", "--config", config), StringComparison.Ordinal);
        (int code, string output, _) = await RunAsync("explain", "gpu0", "rdma0", "--config", config, "--json");
        using JsonDocument route = JsonDocument.Parse(output);
        Assert.Equal(isAllowed ? 0 : 1, code);
        Assert.Equal(
            isAllowed ? "through_host_bridge" : "not_supported",
            route.RootElement.GetProperty("map_type").GetString());
        Assert.Equal(
            ("wayleave.route.v1", "PHB", 4),
            (route.RootElement.GetProperty("schema").GetString(),
                route.RootElement.GetProperty("proximity").GetString(),
                route.RootElement.GetProperty("distance").GetInt32()));
    }

    [Fact]
    public async Task Json_is_one_document_with_a_schema()
    {
        string config = Config(TwoHostBridges);

        using JsonDocument tree = JsonDocument.Parse(await RunWellAsync("topo", "--json", "--config", config));
        using JsonDocument matrix = JsonDocument.Parse(await RunWellAsync("topo", "-m", "--json", "--config", config));

        Assert.Equal("wayleave.topology.v1", tree.RootElement.GetProperty("schema").GetString());
        JsonElement rootPort = tree.RootElement.GetProperty("host_bridges")[0].GetProperty("functions")[1];
        Assert.Equal(
            ("rp0", "root_port", 1, 4),
            (rootPort.GetProperty("name").GetString(), rootPort.GetProperty("kind").GetString(),
                rootPort.GetProperty("secondary_bus").GetInt32(), rootPort.GetProperty("subordinate_bus").GetInt32()));
        Assert.Equal("wayleave.routes.v1", matrix.RootElement.GetProperty("schema").GetString());
        Assert.Equal(6, matrix.RootElement.GetProperty("routes").GetArrayLength());
    }

    [Fact]
    public async Task Mistakes_end_with_the_number_that_scripts_rely_on()
    {
        string config = Config(TwoHostBridges);
        Assert.Equal(
            (1, $"wayleave: find zz: {config} has no such function; it has gpu0, rdma0, nvme0\n"),
            await FailAsync("explain", "gpu0", "zz", "--config", config));
        Assert.Equal(
            (2, "wayleave: one of a host's URL, --config and --live\n"),
            await FailAsync("topo", "--live", "--config", config));
        Assert.Equal(
            (2, "wayleave: one of a host's URL, --config and --live\n"),
            await FailAsync("topo", "wl://127.0.0.9", "--live"));
        Assert.Equal(
            (3, "wayleave: read the PCI trees of this machine: it shows no PCI bus\n"),
            await FailAsync("topo", "--live", "--root", _folder.Root));
        Assert.Equal(
            (2, "wayleave: configuration: topology.colour: unknown key; known are processor, host_bridges, bridges, "
                + "functions\n"),
            await FailAsync("topo", "--config", Config("""{ "topology": { "colour": 1, "host_bridges": [ {} ] } }""")));
    }

    [Fact]
    public async Task A_running_host_answers_the_same_and_counts_what_crosses_its_links()
    {
        await using RunningHost host = await RunningHost.StartAsync(ControlTestFolder.Config, _folder);

        Assert.StartsWith(
            "-[0000:00]---01.0-[01-05]----00.0-[02-05]--+-00.0-[03]----00.0  gpu0 (gpu)\n",
            await RunWellAsync(["topo", .. host.Options]),
            StringComparison.Ordinal);
        string matrix = await RunWellAsync(["topo", "-m", .. host.Options]);
        Assert.Contains(
            "gpu0   X     BUS    BUS\nrdma0  -     X      -\nnvme0  BUS   BUS    X\n",
            matrix,
            StringComparison.Ordinal);
        Assert.Contains(
            "        route:       bus address: the request stays below a common bridge\n",
            await RunWellAsync(["explain", "gpu0", "rdma0", .. host.Options]),
            StringComparison.Ordinal);
        Assert.Equal(
            "rdma0 to memory of gpu0: good\n        write:  64.0 KiB intact\n        read:   64.0 KiB intact\n",
            await RunWellAsync(["probe", "gpu0", "rdma0", "--size", "64K", .. host.Options]));

        Assert.Equal(
            """
            nvme0 to memory of gpu0: good
                    write:  64.0 KiB intact
                    read:   64.0 KiB intact
            gpu0 to memory of nvme0: good
                    write:  64.0 KiB intact
                    read:   64.0 KiB intact

            """.ReplaceLineEndings("\n"),
            await RunWellAsync(["probe", "gpu0", "nvme0", "--size", "64K", .. host.Options]));

        string links = await RunWellAsync(["links", .. host.Options]);

        // The NIC wrote 64 KiB up to the switch and down to the GPU, and read as much back.
        Assert.Contains(
            "    sw0.1    0000:02:01.0     65536       65536\n      rdma0  0000:04:00.0     65536       65536\n",
            links,
            StringComparison.Ordinal);
        Assert.Contains("\nrdma0   gpu0       bus address ", links, StringComparison.Ordinal);
        Assert.EndsWith("\nstaging_bytes: 0\niommu_faults: 0\n", links, StringComparison.Ordinal);
        using JsonDocument json = JsonDocument.Parse(await RunWellAsync(["links", "--json", .. host.Options]));
        Assert.Equal(
            ("wayleave.links.v1", 0),
            (json.RootElement.GetProperty("schema").GetString(),
                json.RootElement.GetProperty("staging_bytes").GetInt64()));
    }

    [Fact]
    public async Task Links_watched_are_a_line_of_JSON_each_until_somebody_interrupts()
    {
        await using RunningHost host = await RunningHost.StartAsync(ControlTestFolder.Config, _folder);
        using CancellationTokenSource interrupt = new();
        using LineWriter output = new(lines =>
        {
            if (lines == 3)
            {
                interrupt.Cancel();
            }
        });
        using StringWriter error = new(CultureInfo.InvariantCulture) { NewLine = "\n" };

        int code = await CommandLine.RunAsync(
            ["links", "--watch", "1ms", "--json", .. host.Options], output, error, interrupt.Token);

        Assert.Equal((130, "wayleave: interrupted\n"), (code, error.ToString()));
        Assert.Equal(3, output.Lines.Count);
        Assert.All(output.Lines, l => JsonDocument.Parse(l).Dispose());
    }

    [Fact]
    public async Task Probe_finds_the_strict_IOMMU_that_loses_requests_and_later_maps_are_refused()
    {
        HostBridgeDescription loses = new() { Iommu = IommuMode.Strict, LosesPeerRequests = true };
        await using RunningHost host = await RunningHost.StartAsync(
            ControlTestFolder.Config with { Topology = new TopologyDescription { HostBridges = [loses] } }, _folder);
        Assert.Contains("BUS", await RunWellAsync(["topo", "-m", .. host.Options]), StringComparison.Ordinal);

        (int code, string output, string error) =
            await RunAsync(["probe", "gpu0", "rdma0", "--size", "64K", .. host.Options]);

        Assert.Equal((1, ""), (code, error));
        Assert.Equal(
            """
            rdma0 to memory of gpu0: BAD
                    write:  corrupt: wrong are 65536 of 65536 bytes, the first at 0x0
                    read:   corrupt: wrong are 65536 of 65536 bytes, the first at 0x0
                    reason: a probe wrote 64KiB of which 65536 bytes did not arrive, and read as much of which
                            65536 bytes were wrong: the requests vanished without an error
                    mark:   later maps over this route are refused

            """.ReplaceLineEndings("\n"),
            output);
        Assert.Contains(
            "gpu0   X     BAD    BUS\n", await RunWellAsync(["topo", "-m", .. host.Options]), StringComparison.Ordinal);
        (code, output, _) = await RunAsync(["explain", "gpu0", "rdma0", .. host.Options]);
        Assert.Equal(1, code);
        Assert.Contains("        reason:      a probe wrote 64KiB of which", output, StringComparison.Ordinal);
        Assert.Contains("wayleave probe gpu0 rdma0 --again\n", output, StringComparison.Ordinal);

        // A second probe sends nothing; with --again it does, and finds the same.
        (code, output, _) = await RunAsync(["probe", "gpu0", "rdma0", .. host.Options]);
        Assert.Equal(1, code);
        Assert.DoesNotContain("write:", output, StringComparison.Ordinal);
        (code, output, _) = await RunAsync(["probe", "gpu0", "rdma0", "--again", .. host.Options]);
        Assert.Equal(1, code);
        Assert.Contains("write:  corrupt", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Probe_finds_the_listed_host_bridge_that_forwards_nothing()
    {
        TopologyDescription topology = new()
        {
            HostBridges = [new() { Id = new PciId(0x8086, 0x2030), ForwardsPeerRequests = false }],
            Bridges =
            [
                new() { Name = "rp0", Kind = PciBridgeKind.RootPort, Address = PciAddress.Parse("00:01.0") },
                new() { Name = "rp1", Kind = PciBridgeKind.RootPort, Address = PciAddress.Parse("00:02.0") },
            ],
            Functions =
            [
                new() { Name = "gpu0", Address = PciAddress.Parse("01:00.0"), Below = "rp0" },
                new() { Name = "rdma0", Address = PciAddress.Parse("02:00.0"), Below = "rp1" },
            ],
        };
        await using RunningHost host =
            await RunningHost.StartAsync(ControlTestFolder.Config with { Topology = topology }, _folder);

        (int code, string output, _) = await RunAsync(["probe", "rdma0", "gpu0", "--size", "4K", .. host.Options]);

        Assert.Equal(1, code);
        Assert.StartsWith(
            """
            rdma0 to memory of gpu0: BAD
                    write:  aborted: nothing answered 4096 of 4096 bytes, the first at 0x0
                    read:   aborted: nothing answered 4096 of 4096 bytes, the first at 0x0

            """.ReplaceLineEndings("\n"),
            output,
            StringComparison.Ordinal);
    }

    [Fact]
    public async Task Probe_says_what_it_cannot_try()
    {
        await using RunningHost host = await RunningHost.StartAsync(ControlTestFolder.Config, _folder);
        string name = host.Url[5..];
        Assert.Equal(
            (1, $"wayleave: {name}: probe gpu0 x: x is no device of this host; it has gpu0, nvme0, rdma0\n"),
            await FailAsync(["probe", "gpu0", "x", .. host.Options]));
        Assert.Equal(
            (3, $"wayleave: {name}: probe rdma0 rdma0: neither offers memory to peers, so there is no route between "
                + "them; name a GPU, or a drive with a memory buffer, as one of the two\n"),
            await FailAsync(["probe", "rdma0", "rdma0", .. host.Options]));
        Assert.Equal(
            (1, $"wayleave: {name}: probe gpu0 gpu0: 3 bytes are no multiple of 8 up to 1GiB\n"),
            await FailAsync(["probe", "gpu0", "gpu0", "--size", "3", .. host.Options]));
    }

    private string Config(string json)
    {
        string path = Path.Combine(_folder.Root, "wayleave.json");
        File.WriteAllText(path, json);
        return path;
    }

    private static async Task<string> RunWellAsync(params string[] arguments)
    {
        (int code, string output, string error) = await RunAsync(arguments);
        Assert.Equal((0, ""), (code, error));
        return output;
    }

    private static async Task<(int Code, string Error)> FailAsync(params string[] arguments)
    {
        (int code, string output, string error) = await RunAsync(arguments);
        Assert.Empty(output);
        return (code, error);
    }

    private static async Task<(int Code, string Output, string Error)> RunAsync(params string[] arguments)
    {
        using StringWriter output = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        using StringWriter error = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        int code = await CommandLine.RunAsync(arguments, output, error, TestContext.Current.CancellationToken);
        return (code, output.ToString(), error.ToString());
    }

    /// <summary>Says after each line how many there are.</summary>
    private sealed class LineWriter(Action<int> written) : StringWriter(CultureInfo.InvariantCulture)
    {
        public List<string> Lines { get; } = [];

        public override void WriteLine(string? value)
        {
            Lines.Add(value ?? "");
            written(Lines.Count);
        }
    }

    private sealed class RunningHost(WayleaveHost host, ControlServer server) : IAsyncDisposable
    {
        public string Url => WlUrl.Create(server.EndPoint.Address.ToString(), server.EndPoint.Port).ToString();

        public string[] Options => [Url, "--token-file", server.TokenFile!];

        public static async Task<RunningHost> StartAsync(HostConfig config, ControlTestFolder folder)
        {
            WayleaveHost host = await WayleaveHost.StartAsync(config);
            ControlServer server = await ControlServer.StartAsync(
                host, folder.ListenerOptions, TestContext.Current.CancellationToken);
            return new RunningHost(host, server);
        }

        public async ValueTask DisposeAsync()
        {
            await server.DisposeAsync();
            await host.DisposeAsync();
        }
    }
}
