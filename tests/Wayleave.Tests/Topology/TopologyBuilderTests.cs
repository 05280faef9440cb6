using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.Topology;

public sealed class TopologyBuilderTests
{
    private static readonly HostBridgeDescription s_host = new() { Id = Trees.AnyPair };
    private static readonly BridgeDescription s_rootPort = Bridge("rp0", "00:01.0", PciBridgeKind.RootPort, null);
    private static readonly BridgeDescription s_upstream =
        Bridge("sw0", "01:00.0", PciBridgeKind.SwitchUpstream, "rp0");
    private static readonly BridgeDescription s_first =
        Bridge("sw0.0", "02:00.0", PciBridgeKind.SwitchDownstream, "sw0");

    private static readonly BridgeDescription s_second =
        Bridge("sw0.1", "02:01.0", PciBridgeKind.SwitchDownstream, "sw0");

    private static readonly TopologyDescription s_good = new()
    {
        HostBridges = [s_host],
        Bridges = [s_rootPort, s_upstream, s_first, s_second],
        Functions = [Function("gpu0", "03:00.0", "sw0.0"), Function("rdma0", "04:00.0", "0000:02:01.0")],
    };

    [Fact]
    public void A_description_becomes_a_tree_in_whatever_order_it_is_written()
    {
        TopologyDescription shuffled = s_good with { Bridges = [s_second, s_upstream, s_first, s_rootPort] };

        PciTopology topology = Build(shuffled);

        PciFunction gpu = topology.Find("gpu0")!;
        PciFunction nic = topology.Find("04:00.0")!;
        Assert.Equal(["gpu0", "sw0.0", "sw0", "sw0.1", "rdma0"], PeerProximities.Way(gpu, nic).Select(f => f.Name));
        Assert.Equal((PeerMapType.BusAddress, 4),
            (PeerPath.Calculate(topology, gpu, nic).MapType, PeerPath.Calculate(topology, gpu, nic).Distance));
        Assert.Equal([1, 2, 3, 4], Bridges(topology, "rp0", "sw0", "sw0.0", "sw0.1"));
        Assert.Equal(Trees.AnyPair, topology.HostBridges[0].Identity!.Id);
    }

    [Fact]
    public void Every_build_makes_a_tree_of_its_own() =>
        Assert.NotSame(Build(s_good).Find("gpu0"), Build(s_good).Find("gpu0"));

    [Fact]
    public void BARs_keep_the_addresses_they_have_and_the_others_get_free_ones()
    {
        BarDescription fixedBar = new() { Index = 0, SizeBytes = 1 << 20, Start = 1UL << 46 };
        BarDescription free = new() { Index = 2, SizeBytes = 1UL << 33, IsPrefetchable = true };
        BarDescription ports = new() { Index = 4, Kind = PciBarKind.IoPort, SizeBytes = 32 };
        PciTopology topology = Build(s_good with
        {
            Functions = [Function("gpu0", "03:00.0", "sw0.0") with { Bars = [free, fixedBar, ports] }],
        });

        PciFunction gpu = topology.Find("gpu0")!;
        Assert.Equal(new DeviceRange(new DeviceAddress(1UL << 46), 1 << 20), gpu.Bars[0]!.Range);
        Assert.Equal(0UL, gpu.Bars[2]!.Range.Start.Value % (1UL << 33));
        Assert.False(gpu.Bars[2]!.Range.Overlaps(gpu.Bars[0]!.Range));
        Assert.Equal((true, PciBarKind.IoPort), (gpu.Bars[2]!.IsPrefetchable, gpu.Bars[4]!.Kind));

        // The fabric places what it adds beside them.
        PciFabric fabric = new(topology);
        PciBar added = fabric.AddBar(topology.Find("sw0.1")!, 0, PciBarKind.Memory, 4096);
        Assert.All(gpu.Bars.OfType<PciBar>(), b => Assert.False(b.Range.Overlaps(added.Range)));
    }

    [Fact]
    public void System_memory_is_placed_beside_the_BARs_of_the_tree()
    {
        BarDescription low = new() { SizeBytes = 1 << 20, Start = PciFabric.WindowAlignmentBytes };
        PciFabric fabric = new(Build(s_good with
        {
            Functions = [Function("gpu0", "03:00.0", "sw0.0") with { Bars = [low] }],
        }));

        MemoryWindow memory = fabric.AddWindow(new byte[4096], owner: null);

        Assert.False(memory.Range.Overlaps(fabric.Topology.Find("gpu0")!.Bars[0]!.Range));
    }

    [Fact]
    public void All_problems_are_told_at_once_each_with_its_path()
    {
        TopologyDescription description = new()
        {
            HostBridges = [new(), new(), new() { Domain = 1, LosesPeerRequests = true }],
            Bridges =
            [
                s_rootPort,
                Bridge("dp", "05:00.0", PciBridgeKind.SwitchDownstream, "rp0"),
                Bridge("rp1", "06:00.0", PciBridgeKind.RootPort, "dp"),
                Bridge("sw0", "07:00.0", PciBridgeKind.SwitchUpstream, "sw0.0"),
                Bridge("sw0.0", "08:00.0", PciBridgeKind.SwitchDownstream, "sw0"),
            ],
            Functions =
            [
                Function("a", "09:00.0", "sw0"),
                Function("b", "09:00.0", "nowhere"),
                Function("a", "09:01.0", "b"),
                Function("c", "09:02.0", null),
                Function("05:00.0", "00:02.0", null),
                Function("", "00:03.0", null),
            ],
        };

        Assert.Equal(
            [
                "host_bridges[1].bus: there is a host bridge pci0000:00 already",
                "host_bridges[2].loses_peer_requests: only what an IOMMU does not translate is lost: it needs "
                    + "\"iommu\": \"strict\"",
                "functions[1].address: 0000:09:00.0 is also that of functions[0], a",
                "functions[2].name: 'a' is also the name of functions[0]",
                "functions[4].name: '05:00.0' would be taken for something else",
                "functions[5].name: must not be empty",
                "functions[1].below: there is no bridge 'nowhere'",
                "functions[2].below: 'b' is functions[1] and no bridge: nothing can be below it",
                "functions[3].below: c needs one: no host bridge has bus 0000:09, so name the bridge it is below",
                "bridges[3].below: a cycle, each below the next: sw0, sw0.0, sw0",
                "bridges[1].below: dp is a downstream port and rp0 no upstream port: a switch needs an upstream port "
                    + "above its downstream ports",
                "bridges[2].below: rp1 is a root port and belongs on a root bus, not below dp",
                "functions[0].below: sw0 is the upstream port of a switch: name the downstream port that a is at",
                "functions[0].address: bus 09 contradicts the tree: sw0.0 is below sw0 too and has bus 08",
            ],
            Problems(description));
    }

    [Fact]
    public void A_topology_without_a_host_bridge_is_none() =>
        Assert.Equal(
            ["host_bridges: a topology needs at least one: { \"bus\": \"0000:00\" }"],
            Problems(new TopologyDescription()));

    [Fact]
    public void Bus_numbers_must_say_the_same_as_the_tree()
    {
        Assert.Equal(
            ["functions[0].address: bus 02 contradicts the tree: below sw0.0 it must be above 02, the bridge's own"],
            Problems(s_good with { Functions = [Function("gpu0", "02:02.0", "sw0.0")] }));
        Assert.Equal(
            ["functions[1].address: bus 03 contradicts the tree: it is the bus of sw0.0, not of sw0.1"],
            Problems(s_good with
            {
                Functions = [Function("a", "03:00.0", "sw0.0"), Function("b", "03:01.0", "sw0.1")],
            }));
        Assert.Equal(
            ["functions[1].address: bus 05 contradicts the tree: a is below sw0.0 too and has bus 03"],
            Problems(s_good with
            {
                Functions = [Function("a", "03:00.0", "sw0.0"), Function("b", "05:00.0", "sw0.0")],
            }));
        Assert.Equal(
            ["functions[0].address: domain 0001 is not that of its bridge sw0.0"],
            Problems(s_good with { Functions = [Function("a", "0001:03:00.0", "sw0.0")] }));
        Assert.Equal(
            ["functions[0].address: bus 04 contradicts the tree: what is on pci0000:00 has bus 00"],
            Problems(s_good with { Functions = [Function("a", "04:00.0", "pci0000:00")] }));
    }

    [Fact]
    public void Buses_below_two_bridges_do_not_mix()
    {
        // The switch below rp0 has the buses 01 to 04; rp1 cannot have 03.
        BridgeDescription other = Bridge("rp1", "00:02.0", PciBridgeKind.RootPort, null);
        TopologyDescription mixed = s_good with
        {
            Bridges = [.. s_good.Bridges, other],
            Functions = [Function("a", "04:00.0", "sw0.0"), Function("b", "03:00.0", "rp1")],
        };
        Assert.Equal(
            ["bridges[4]: bus 03 of rp1 contradicts the tree: rp0 has the buses from 01 to 04"], Problems(mixed));

        TopologyDescription hosts = s_good with { HostBridges = [s_host, new() { RootBus = 4 }] };
        Assert.Equal(
            ["functions[1].address: bus 04 contradicts the tree: it is the bus of pci0000:04, not of sw0.1"],
            Problems(hosts));
        Assert.Equal(
            ["host_bridges: bus 03 of pci0000:03 contradicts the tree: pci0000:00 has the buses from 00 to 04"],
            Problems(hosts with
            {
                HostBridges = [s_host, new() { RootBus = 3 }],
                Functions = [Function("b", "04:00.0", "sw0.1")],
            }));
    }

    [Fact]
    public void A_virtual_function_may_have_a_higher_bus_than_its_physical_one() =>
        Assert.Equal([3], Bridges(
            Build(s_good with
            {
                Functions =
                [
                    Function("vf", "05:00.0", "sw0.0") with { IsVirtual = true },
                    Function("pf", "03:00.0", "sw0.0"),
                ],
            }),
            "sw0.0"));

    [Fact]
    public void BARs_are_powers_of_two_aligned_numbered_once_and_apart()
    {
        const ulong At = 1UL << 46;
        TopologyDescription description = s_good with
        {
            Bridges =
            [
                s_rootPort with { Bars = [new() { Index = 2, SizeBytes = 4096 }] },
                s_upstream,
                s_first,
                s_second,
            ],
            Functions =
            [
                Function("gpu0", "03:00.0", "sw0.0") with
                {
                    Bars =
                    [
                        new() { Index = 0, SizeBytes = 3 << 20 },
                        new() { Index = 1, SizeBytes = 1 << 20, Start = At },
                        new() { Index = 1, SizeBytes = 4096, Start = At + 2048 },
                        new() { Index = 6, SizeBytes = 0 },
                        new() { Index = 2, SizeBytes = 8 },
                        new() { Index = 3, SizeBytes = 512, Kind = PciBarKind.IoPort },
                        new() { Index = 4, SizeBytes = 1UL << 48 },
                    ],
                },
                Function("rdma0", "04:00.0", "sw0.1") with
                {
                    Bars =
                    [
                        new() { Index = 0, SizeBytes = 4096, Start = At + 8192 },
                        new() { Index = 1, SizeBytes = 32, Start = At, Kind = PciBarKind.IoPort },
                    ],
                },
            ],
        };

        Assert.Equal(
            [
                "bridges[0].bars[0].index: 2 is out of range; a bridge has the BARs 0 to 1",
                "functions[0].bars[0].size_bytes: 3145728 is not a power of two",
                "functions[0].bars[2].index: gpu0 has a BAR 1 already",
                "functions[0].bars[2].address: 0x400000000800 is not a multiple of the size, 0x1000",
                "functions[0].bars[3].index: 6 is out of range; a function has the BARs 0 to 5",
                "functions[0].bars[3].size_bytes: 0 is not a power of two",
                "functions[0].bars[4].size_bytes: 8 is out of range; memory is 16 bytes to 128 TiB",
                "functions[0].bars[5].size_bytes: 512 is out of range; I/O ports are 4 to 256 bytes",
                "functions[0].bars[6].size_bytes: 281474976710656 is out of range; memory is 16 bytes to 128 TiB",
                "functions[1].bars[0].address: 0x400000002000+0x1000 overlaps BAR 1 of gpu0, 0x400000000000+0x100000",
            ],
            Problems(description));
    }

    [Fact]
    public void A_long_chain_of_bridges_is_walked_without_going_deep_for_ever()
    {
        List<BridgeDescription> bridges = [s_rootPort];
        for (int bus = 1; bus < 255; bus++)
        {
            PciBridgeKind kind = bus % 2 == 1 ? PciBridgeKind.SwitchUpstream : PciBridgeKind.SwitchDownstream;
            bridges.Add(Bridge($"b{bus}", $"{bus:x2}:00.0", kind, bridges[^1].Name));
        }

        PciTopology topology = Build(s_good with { Bridges = bridges, Functions = [Function("d", "ff:00.0", "b254")] });

        Assert.Equal(256, PeerPath.Calculate(topology, topology.Find("rp0")!, topology.Find("d")!).Distance + 1);
    }

    private static BridgeDescription Bridge(string name, string address, PciBridgeKind kind, string? below) =>
        new() { Name = name, Address = PciAddress.Parse(address), Kind = kind, Below = below };

    private static FunctionDescription Function(string name, string address, string? below) =>
        new() { Name = name, Address = PciAddress.Parse(address), Below = below };

    private static byte[] Bridges(PciTopology topology, params string[] names) =>
        [.. names.Select(n => ((PciBridge)topology.Find(n)!).SecondaryBus)];

    private static PciTopology Build(TopologyDescription description)
    {
        bool isBuilt = TopologyBuilder.TryBuild(
            description, out PciTopology? topology, out IReadOnlyList<TopologyProblem> problems);
        Assert.Empty(problems);
        Assert.True(isBuilt);
        return topology!;
    }

    private static string[] Problems(TopologyDescription description)
    {
        Assert.False(TopologyBuilder.TryBuild(
            description, out PciTopology? topology, out IReadOnlyList<TopologyProblem> problems));
        Assert.Null(topology);
        return [.. problems.Select(p => p.ToString())];
    }
}
