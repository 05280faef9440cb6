using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Host;
using Wayleave.Host.Topology;
using Wayleave.Linux.Pci;
using Xunit;

namespace Wayleave.Linux.Tests.Topology;

public sealed class PciSysfsTests : IDisposable
{
    private const int BridgeClass = 0x060400;
    private const int NvmeClass = 0x010802;
    private const string Memory = "0x00000000fe800000 0x00000000fe803fff 0x0000000000140204";
    private const string Prefetchable = "0x0000380000000000 0x00003800003fffff 0x000000000014220c";
    private const string Ports = "0x000000000000c000 0x000000000000c03f 0x0000000000040101";

    private readonly SysfsFixture _machine = new();

    public void Dispose() => _machine.Dispose();

    [Fact]
    public void The_links_of_sysfs_are_the_tree()
    {
        AddSwitch(isRoot: true);

        PciMachine machine = PciSysfs.Read(_machine.Root);
        PciTopology topology = Build(machine);

        Assert.Empty(machine.Notes);
        Assert.Equal(new BootProcessor("GenuineIntel", 6), topology.Processor);
        HostBridge bridge = Assert.Single(topology.HostBridges);
        Assert.Equal(new PciId(0x8086, 0x29c0), bridge.Identity!.Id);
        Assert.Equal(
            "nvme1 (0000:04:00.0), 0000:02:01.0 (0000:02:01.0), 0000:01:00.0 (0000:01:00.0), "
                + "0000:02:00.0 (0000:02:00.0), nvme0 (0000:03:00.0)",
            string.Join(", ", PeerProximities.Way(topology.Find("nvme1")!, topology.Find("nvme0")!)));
        Assert.Equal(
            [PciBridgeKind.RootPort, PciBridgeKind.SwitchUpstream, PciBridgeKind.SwitchDownstream],
            Kinds(topology, "00:10.0", "01:00.0", "02:00.0"));
    }

    [Fact]
    public void ACS_is_read_from_the_extended_configuration_space()
    {
        AddSwitch(isRoot: true);

        PciTopology topology = Build(PciSysfs.Read(_machine.Root));

        AcsControl redirect = AcsControl.SourceValidation | AcsControl.RequestRedirect
            | AcsControl.CompletionRedirect | AcsControl.UpstreamForwarding;
        Assert.Equal((null, redirect), (topology.Find("02:00.0")!.Acs, topology.Find("02:01.0")!.Acs));
        PeerVerdict verdict = PeerPath.Calculate(topology, topology.Find("nvme0")!, topology.Find("nvme1")!);
        Assert.Equal((PeerMapType.NotSupported, 4), (verdict.MapType, verdict.Distance));
        Assert.Equal([topology.Find("02:01.0")!], verdict.ObstacleAt);
    }

    [Fact]
    public void Without_root_ACS_is_not_known_and_every_answer_says_so()
    {
        AddSwitch(isRoot: false);

        TopologyView view = TopologyView.OfMachine(_machine.Root);

        // The kinds of the ports follow from their places.
        Assert.Equal(
            [PciBridgeKind.RootPort, PciBridgeKind.SwitchUpstream, PciBridgeKind.SwitchDownstream],
            Kinds(view.Topology, "00:10.0", "01:00.0", "02:01.0"));
        Assert.Equal(
            ["ACS of some functions is not known: only root may read the extended configuration space"], view.Notes);
        RouteDocument route = RouteReports.Explain(view, view.Find("nvme0"), view.Find("nvme1"));
        Assert.Equal(PeerMapType.BusAddress, route.MapType);
        Assert.Equal(
            "ACS of 0000:04:00.0, 0000:02:01.0, 0000:01:00.0, 0000:02:00.0, 0000:03:00.0 is not known and was taken to "
                + "redirect nothing; run as root",
            Assert.Single(route.Notes));
        Assert.False(TopologyReports.Describe(view).HostBridges[0].Functions[1].AcsKnown);
    }

    [Fact]
    public void A_function_without_extended_space_has_no_ACS_and_that_is_known()
    {
        string folder = _machine.Add("pci0000:00/0000:00:02.0", "1af4:1042", 0x018000);
        File.WriteAllBytes(Path.Combine(folder, "config"), new byte[256]);

        PciMachine machine = PciSysfs.Read(_machine.Root);

        Assert.True(machine.Details[PciAddress.Parse("00:02.0")].IsAcsKnown);
        Assert.Null(Assert.Single(machine.Topology.Functions).Acs);
    }

    [Fact]
    public void A_list_of_capabilities_that_is_a_ring_ends()
    {
        string folder = _machine.Add("pci0000:00/0000:00:02.0", "1af4:1042", BridgeClass);
        byte[] config = new byte[4096];
        (config[0x06], config[0x0e], config[0x34], config[0x40], config[0x41]) = (0x10, 1, 0x40, 0x09, 0x40);
        (config[0x100], config[0x102], config[0x103]) = (0x01, 0x01, 0x10); // the next is itself
        File.WriteAllBytes(Path.Combine(folder, "config"), config);

        BridgeDescription bridge = Assert.Single(PciSysfs.Read(_machine.Root).Topology.Bridges);

        Assert.Equal((PciBridgeKind.Conventional, null), (bridge.Kind, bridge.Acs));
    }

    [Fact]
    public void BARs_are_the_first_lines_of_the_resource_file()
    {
        _machine.Add(
            "pci0000:00/0000:00:02.0", "1b36:0010", NvmeClass, resources: [Memory, "0x0 0x0 0x0", Prefetchable, Ports]);

        IReadOnlyList<BarDescription> bars = Assert.Single(PciSysfs.Read(_machine.Root).Topology.Functions).Bars;

        Assert.Equal(
            [
                new BarDescription { Index = 0, SizeBytes = 0x4000, Start = 0xfe800000 },
                new BarDescription { Index = 2, SizeBytes = 0x400000, Start = 0x380000000000, IsPrefetchable = true },
                new BarDescription { Index = 3, SizeBytes = 0x40, Start = 0xc000, Kind = PciBarKind.IoPort },
            ],
            bars);
    }

    [Theory]
    [InlineData("DMA", IommuMode.Strict)]
    [InlineData("DMA-FQ", IommuMode.Strict)]
    [InlineData("identity", IommuMode.Passthrough)]
    [InlineData(null, IommuMode.Off)]
    public void The_mode_of_the_IOMMU_is_that_of_the_strictest_group_of_the_tree(string? type, IommuMode mode)
    {
        string[] functions = AddSwitch(isRoot: true);
        if (type is not null)
        {
            _machine.SetGroup(functions[^1], 7, type);
        }

        TopologyView view = TopologyView.OfMachine(_machine.Root);

        Assert.Equal(mode, view.Topology.HostBridges[0].Iommu);
        FunctionFacts facts = view.FactsOf(view.Find("nvme1"));
        Assert.Equal((type is null ? null : 7, type), (facts.IommuGroup, facts.IommuType));
    }

    [Fact]
    public void A_virtual_function_on_the_next_bus_stays_below_its_port()
    {
        _machine.Add("pci0000:00/0000:00:10.0", "8086:2030", BridgeClass, SysfsFixture.RootPort);
        _machine.Add("pci0000:00/0000:00:10.0/0000:01:00.0", "15b3:101d", 0x020000);
        string virtualFunction = _machine.Add("pci0000:00/0000:00:10.0/0000:02:00.0", "15b3:101e", 0x020000);
        File.CreateSymbolicLink(Path.Combine(virtualFunction, "physfn"), "../0000:01:00.0");
        Directory.CreateDirectory(Path.Combine(virtualFunction, "infiniband/mlx5_2"));

        PciTopology topology = Build(PciSysfs.Read(_machine.Root));

        Assert.Equal("0000:02:00.0", topology.Find("mlx5_2")!.Address.ToString());
        Assert.Equal((byte)1, ((PciBridge)topology.Find("00:10.0")!).SecondaryBus);
    }

    [Fact]
    public void What_cannot_be_shown_is_named_and_the_rest_is_shown()
    {
        _machine.Add("pci10000:e0/10000:e0:06.0", "8086:09ab", BridgeClass);
        string broken = _machine.Add("pci0000:00/0000:00:03.0", "1af4:1041", 0x020000);
        File.Delete(Path.Combine(broken, "vendor"));
        _machine.Add("pci0000:00/0000:00:04.0", "1af4:1041", 0x020000, resources: Memory);
        _machine.Add("pci0000:00/0000:00:05.0", "1af4:1041", 0x020000, resources: Memory);

        TopologyView view = TopologyView.OfMachine(_machine.Root);

        Assert.Equal(["0000:00:04.0", "0000:00:05.0"], view.Devices.Select(d => d.Name));
        Assert.Collection(
            view.Notes,
            n => Assert.StartsWith("0000:00:03.0 is not shown: ", n, StringComparison.Ordinal),
            n => Assert.Equal("10000:e0:06.0 is not shown: domains above ffff are not known here", n),
            n => Assert.StartsWith("the processor is not known: ", n, StringComparison.Ordinal),
            n => Assert.Contains("overlaps BAR 0 of 0000:00:04.0", n, StringComparison.Ordinal),
            n => Assert.StartsWith("BARs and kinds of ports are left out", n, StringComparison.Ordinal));
    }

    [Fact]
    public void A_machine_without_PCI_is_not_supported()
    {
        WayleaveException e = Assert.Throws<WayleaveException>(() => TopologyView.OfMachine(_machine.Root));
        Assert.Equal(Errno.EOPNOTSUPP, e.Errno);
    }

    [Fact]
    public void This_machine_can_be_read()
    {
        Assert.SkipWhen(
            !Directory.Exists("/sys/bus/pci/devices") || Directory.GetFileSystemEntries("/sys/bus/pci/devices") is [],
            "no PCI bus here");

        TopologyView view = TopologyView.OfMachine();

        Assert.NotEmpty(view.Topology.Functions);
    }

    // The tree of the lab: a root port, a switch, a drive at each of its ports; the second port redirects.
    private string[] AddSwitch(bool isRoot)
    {
        const string Port = "pci0000:00/0000:00:10.0";
        const string Upstream = Port + "/0000:01:00.0";
        const int Redirect = 0x1d;
        _machine.SetProcessor("GenuineIntel", 6);
        string[] folders =
        [
            _machine.Add("pci0000:00/0000:00:00.0", "8086:29c0", 0x060000, isRoot: isRoot),
            _machine.Add(Port, "1b36:000c", BridgeClass, SysfsFixture.RootPort, acs: 0, isRoot),
            _machine.Add(Upstream, "104c:8232", BridgeClass, SysfsFixture.Upstream, isRoot: isRoot),
            _machine.Add(
                Upstream + "/0000:02:00.0", "104c:8233", BridgeClass, SysfsFixture.Downstream, isRoot: isRoot),
            _machine.Add(
                Upstream + "/0000:02:01.0", "104c:8233", BridgeClass, SysfsFixture.Downstream, Redirect, isRoot),
            _machine.Add(Upstream + "/0000:02:00.0/0000:03:00.0", "1b36:0010", NvmeClass, 0, isRoot: isRoot),
            _machine.Add(Upstream + "/0000:02:01.0/0000:04:00.0", "1b36:0010", NvmeClass, 0, isRoot: isRoot),
        ];
        Directory.CreateDirectory(Path.Combine(folders[5], "nvme/nvme0"));
        Directory.CreateDirectory(Path.Combine(folders[6], "nvme/nvme1"));
        return folders;
    }

    private static PciBridgeKind[] Kinds(PciTopology topology, params string[] addresses) =>
        [.. addresses.Select(a => ((PciBridge)topology.Find(a)!).Kind)];

    private static PciTopology Build(PciMachine machine)
    {
        Assert.True(TopologyBuilder.TryBuild(
            machine.Topology, out PciTopology? topology, out IReadOnlyList<TopologyProblem> problems));
        Assert.Empty(problems);
        return topology;
    }
}
