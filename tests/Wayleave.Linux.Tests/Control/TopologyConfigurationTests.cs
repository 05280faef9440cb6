using Wayleave.Core.Topology;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

public sealed class TopologyConfigurationTests : IDisposable
{
    private const string TwoRootPorts =
        """
        "topology": {
          "processor": { "vendor": "AuthenticAMD", "family": 25 },
          "host_bridges": [
            { "bus": "0000:40", "id": "8086:2030", "iommu": "strict", "bus_offset": "-0x1000", "numa_node": 1,
              "forwards_peer_requests": false, "loses_peer_requests": true },
          ],
          "bridges": [
            { "name": "rp0", "kind": "root_port", "address": "40:01.0", "id": "8086:1234" },
            { "name": "rp1", "kind": "root_port", "address": "40:02.0",
              "acs": [ "request_redirect", "egress_control" ] },
          ],
          "functions": [
            { "name": "slot1", "address": "41:00.0", "below": "rp0", "id": "10de:2330",
              "bars": [
                { "index": 0, "size_bytes": "64MiB", "address": "0x200000000000", "prefetchable": true },
                { "index": 2, "size_bytes": 32, "kind": "io_port" } ] },
            { "name": "rdma0", "address": "42:00.0", "below": "rp1", "acs": [] },
          ],
        }
        """;

    private readonly string _folder = Directory.CreateTempSubdirectory("wayleave-config-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_file_says_everything_that_a_tree_can_be()
    {
        HostConfig config = Load($$"""
            {
              "gpus": [ { "vram_bytes": "64MiB", "function": "slot1" } ],
              {{TwoRootPorts}}
            }
            """);

        PciTopology topology = TopologyPlacement.Build(config);
        HostBridge bridge = Assert.Single(topology.HostBridges);
        Assert.Equal(
            ("pci0000:40", IommuMode.Strict, unchecked(0UL - 0x1000), 1),
            (bridge.Name, bridge.Iommu, bridge.BusOffset, bridge.NumaNode));
        Assert.Equal((false, true), (bridge.ForwardsPeerRequests, bridge.LosesPeerRequests));
        Assert.Equal(new PciId(0x8086, 0x2030), bridge.Identity!.Id);
        Assert.True(topology.Processor.ForwardsPeerRequests);
        Assert.Equal(AcsControl.RequestRedirect | AcsControl.EgressControl, topology.Find("rp1")!.Acs);
        Assert.Equal((null, AcsControl.None), (topology.Find("rp0")!.Acs, topology.Find("rdma0")!.Acs));

        // The GPU has taken the function and its name.
        PciFunction gpu = topology.Find("gpu0")!;
        Assert.Equal(("0000:41:00.0", new PciId(0x10de, 0x2330)), (gpu.Address.ToString(), gpu.Id));
        Assert.Null(topology.Find("slot1"));
        Assert.Equal((1UL << 45, true), (gpu.Bars[0]!.Range.Start.Value, gpu.Bars[0]!.IsPrefetchable));
        Assert.Equal((32UL, PciBarKind.IoPort), (gpu.Bars[2]!.Range.LengthBytes, gpu.Bars[2]!.Kind));
    }

    [Fact]
    public void Without_a_topology_the_devices_are_below_one_switch_as_lspci_would_number_them()
    {
        PciTopology topology = TopologyPlacement.Build(new HostConfig());

        Assert.Equal(
            [
                "rp0 (0000:00:01.0)", "sw0 (0000:01:00.0)", "sw0.0 (0000:02:00.0)", "sw0.1 (0000:02:01.0)",
                "sw0.2 (0000:02:02.0)", "gpu0 (0000:03:00.0)", "rdma0 (0000:04:00.0)", "nvme0 (0000:05:00.0)",
            ],
            topology.Functions.OrderBy(f => f.Address).Select(f => f.ToString()));
        PeerVerdict verdict = PeerPath.Calculate(topology, topology.Find("gpu0")!, topology.Find("rdma0")!);
        Assert.Equal((PeerMapType.BusAddress, 4), (verdict.MapType, verdict.Distance));
    }

    [Fact]
    public void A_device_that_no_function_is_named_for_gets_a_switch_behind_the_tree()
    {
        HostConfig config = Load($$"""
            { "gpus": [ { "name": "gpu0" }, { "name": "gpu1", "function": "41:00.0", "vram_bytes": "64MiB" } ],
              {{TwoRootPorts}} }
            """);

        PciTopology topology = TopologyPlacement.Build(config);

        Assert.Equal("0000:41:00.0", topology.Find("gpu1")!.Address.ToString());
        Assert.Equal("0000:45:00.0", topology.Find("gpu0")!.Address.ToString());
        Assert.Equal(
            "gpu0 (0000:45:00.0), sw0.0 (0000:44:00.0), sw0 (0000:43:00.0), rp2 (0000:40:03.0)",
            string.Join(", ", PeerProximities.Way(topology.Find("gpu0")!, topology.Find("rp2")!)));
    }

    [Fact]
    public void Every_problem_of_a_tree_is_told_at_once_with_its_path_in_the_file()
    {
        ConfigurationException e = Assert.Throws<ConfigurationException>(() => Load(
            """
            {
              "gpus": [ { "function": "nowhere" }, { "name": "big", "function": "x" } ],
              "nics": [ { "function": "x" } ],
              "topology": {
                "colour": "red",
                "host_bridges": [ { "bus": "0", "iommu": "on", "id": "intel", "bus_offset": "12" }, {}, {} ],
                "bridges": [
                  { "address": "00:01.0" },
                  { "kind": "switch", "address": "00:02.0" },
                  { "name": "rp0", "kind": "root_port", "address": "00:03.0", "acs": [ "redirect", 7 ] },
                  { "name": "up", "kind": "switch_upstream", "address": "02:00.0", "below": "down" },
                  { "name": "down", "kind": "switch_downstream", "address": "03:00.0", "below": "up" },
                ],
                "functions": [
                  { "name": "nameless" },
                  { "name": "x", "address": "01:00.0", "below": "rp0", "virtual": 1,
                    "bars": [
                      {}, { "size_bytes": "3MiB" }, { "size_bytes": "4KiB" }, { "index": 1, "size_bytes": -1 } ] },
                  { "name": "y", "address": "01:00.0", "below": "rp0" },
                ],
              },
            }
            """));
        Assert.Equal(
            [
                "topology.colour: unknown key; known are processor, host_bridges, bridges, functions",
                "topology.host_bridges[0].id: 'intel' is not vendor and device; write them as 8086:2030, in "
                    + "hexadecimal",
                "topology.host_bridges[0].iommu: 'on' is not one of off, passthrough, strict",
                "topology.host_bridges[0].bus_offset: '12' is not an address; write one as 0x100000000",
                "topology.host_bridges[0].bus: '0' is not a bus; write one as 0000:00, domain and bus in hexadecimal",
                "topology.bridges[0].kind: is missing; one of root_port, switch_upstream, switch_downstream, "
                    + "conventional",
                "topology.bridges[1].kind: 'switch' is not one of root_port, switch_upstream, switch_downstream, "
                    + "conventional",
                "topology.bridges[2].acs[0]: 'redirect' is not one of source_validation, translation_blocking, "
                    + "request_redirect, completion_redirect, upstream_forwarding, egress_control, direct_translated",
                "topology.bridges[2].acs[1]: '' is not one of source_validation, translation_blocking, "
                    + "request_redirect, completion_redirect, upstream_forwarding, egress_control, direct_translated",
                "topology.functions[0].address: is missing; write one as 0000:01:00.0, all hexadecimal",
                "topology.functions[1].bars[0].size_bytes: a BAR needs a size, a power of two: 64MiB, 256",
                "topology.functions[1].bars[3].size_bytes: a BAR needs a size, a power of two: 64MiB, 256",
                "topology.functions[1].virtual: must be true or false",
                "gpus[0].function: there is no function 'nowhere' in the topology; it has x, y",
                "topology.functions[1].bars[1].size_bytes: BAR 0 of big is where its 1GiB of VRAM answer: make it "
                    + "memory of at least that size",
                "nics[0].function: there is no function 'x' in the topology; it has big, y",
                "topology.host_bridges[2].bus: there is a host bridge pci0000:00 already",
                "topology.functions[2].address: 0000:01:00.0 is also that of functions[1], big",
                "topology.bridges[3].below: a cycle, each below the next: up, down, up",
                "topology.functions[1].bars[1].size_bytes: 3145728 is not a power of two",
                "topology.functions[1].bars[2].index: big has a BAR 0 already",
            ],
            e.Problems.Select(p => p.ToString()));
    }

    [Fact]
    public void A_tree_without_room_for_the_devices_says_so()
    {
        ConfigurationException e = Assert.Throws<ConfigurationException>(() => Load(
            """{ "topology": { "host_bridges": [ { "bus": "fd" } ] } }"""));
        Assert.Equal(
            "gpus[0].function: no room on pci0000:fd for a switch with gpu0, rdma0, nvme0: give them functions of "
                + "the topology",
            Assert.Single(e.Problems).ToString());
    }

    [Fact]
    public async Task A_host_runs_on_its_tree_and_copies_through_it()
    {
        HostConfig config = ControlTestFolder.Config with
        {
            Topology = Load("{ " + TwoRootPorts + ", \"gpus\": [ { \"vram_bytes\": \"64MiB\" } ] }").Topology! with
            {
                HostBridges = [new HostBridgeDescription { RootBus = 0x40, Iommu = IommuMode.Strict }],
            },
            Gpus = [new GpuConfig { VramBytes = 64 << 20, SystemPoolBytes = 64 << 20, Function = "slot1" }],
        };

        // A host checks at its start that memory can be taken back, which moves bytes by every route it needs.
        await using WayleaveHost host = await WayleaveHost.StartAsync(config);

        Assert.Equal("0000:41:00.0", host.Gpus[0].Device.Function.Address.ToString());
        Assert.Equal(1UL << 45, host.Gpus[0].Device.Function.Bars[0]!.Range.Start.Value);
    }

    private HostConfig Load(string json)
    {
        string path = Path.Combine(_folder, "wayleave.json");
        File.WriteAllText(path, json);
        return ConfigurationLoader.Load(path, new Dictionary<string, string>(), _ => null).Config;
    }
}
