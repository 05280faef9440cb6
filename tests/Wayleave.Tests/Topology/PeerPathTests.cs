using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.Topology;

public sealed class PeerPathTests
{
    [Fact]
    public void P2P_06_Itself_its_sibling_and_its_neighbour_below_a_switch_are_reached_by_bus_address()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciBridge port = (PciBridge)tree["sw.0"];
        tree.Topology.Add(new PciFunction(new PciAddress(0, 3, 0, 1), "a1"), port);

        Assert.Equal((PeerMapType.BusAddress, 0), tree.Path("a", "a"));
        Assert.Equal((PeerMapType.BusAddress, 2), tree.Path("a", "a1"));
        Assert.Equal((PeerMapType.BusAddress, 4), tree.Path("a", "b"));
        Assert.Equal((PeerMapType.BusAddress, 4), tree.Path("b", "a"));
    }

    [Fact]
    public void P2P_06_With_ACS_redirect_of_its_own_a_function_does_not_even_reach_itself_directly()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciTopology.SetAcs(tree["a"], AcsControl.RequestRedirect);

        Assert.Equal((PeerMapType.NotSupported, 0), tree.Path("a", "a"));
    }

    [Theory]
    [InlineData("sw.0")]
    [InlineData("sw.1")]
    public void P2P_07_A_redirect_at_either_port_needs_the_host_bridge(string port)
    {
        Tree unlisted = Trees.Switch(Trees.Unlisted);
        PciTopology.SetAcs(unlisted[port], AcsControl.RequestRedirect);
        Tree listed = Trees.Switch(Trees.AnyPair);
        PciTopology.SetAcs(listed[port], AcsControl.RequestRedirect);

        PeerVerdict refused = unlisted.Verdict("a", "b");
        Assert.Equal((PeerMapType.NotSupported, 4), (refused.MapType, refused.Distance));
        Assert.Equal(PeerObstacle.AcsRedirect, refused.Obstacle);
        Assert.Equal([unlisted[port]], refused.ObstacleAt);
        Assert.Equal((PeerMapType.ThroughHostBridge, 4), listed.Path("a", "b"));
    }

    [Fact]
    public void A_refusal_names_the_ports_that_redirect_and_the_bridge_that_is_not_listed()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciTopology.SetAcs(tree["sw.0"], AcsControl.RequestRedirect);
        PciTopology.SetAcs(tree["sw.1"], AcsControl.EgressControl);

        Assert.Equal(
            "ACS redirect at sw.0 (0000:02:00.0), sw.1 (0000:02:01.0) sends peer requests to the host bridge, "
                + "and host bridge pci0000:00 (8086:1237) is not on the allow list",
            tree.Verdict("a", "b").Refusal);
    }

    [Theory]
    [InlineData(AcsControl.SourceValidation)]
    [InlineData(AcsControl.TranslationBlocking | AcsControl.UpstreamForwarding | AcsControl.DirectTranslated)]
    [InlineData(AcsControl.None)]
    public void P2P_08_The_other_ACS_bits_do_not_count(AcsControl control)
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciTopology.SetAcs(tree["sw.0"], control);
        PciTopology.SetAcs(tree["sw"], control);

        Assert.Equal((PeerMapType.BusAddress, 4), tree.Path("a", "b"));
    }

    [Theory]
    [InlineData(AcsControl.RequestRedirect)]
    [InlineData(AcsControl.CompletionRedirect)]
    [InlineData(AcsControl.EgressControl)]
    public void P2P_09_A_redirect_at_the_common_upstream_port_counts(AcsControl control)
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciTopology.SetAcs(tree["sw"], control);

        Assert.Equal((PeerMapType.NotSupported, 4), tree.Path("a", "b"));
        Assert.Equal([tree["sw"]], tree.Verdict("a", "b").ObstacleAt);
    }

    [Fact]
    public void A_redirect_above_the_common_port_does_not_count()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciTopology.SetAcs(tree["rp0"], AcsControl.RequestRedirect);

        Assert.Equal((PeerMapType.BusAddress, 4), tree.Path("a", "b"));
    }

    [Fact]
    public void P2P_10_Two_root_ports_are_joined_by_every_AMD_processor_since_Zen()
    {
        Assert.Equal((PeerMapType.ThroughHostBridge, 4), Trees.RootPorts(Trees.Unlisted, Trees.Zen).Path("a", "b"));
        Assert.Equal(
            (PeerMapType.NotSupported, 4),
            Trees.RootPorts(Trees.Unlisted, new BootProcessor("AuthenticAMD", 0x15)).Path("a", "b"));
        Assert.Equal(
            (PeerMapType.ThroughHostBridge, 4),
            Trees.RootPorts(Trees.AnyPair, new BootProcessor("AuthenticAMD", 0x15)).Path("a", "b"));
        Assert.Equal(
            (PeerMapType.NotSupported, 4),
            Trees.RootPorts(Trees.Unlisted, new BootProcessor("GenuineIntel", 0x17)).Path("a", "b"));
    }

    [Fact]
    public void P2P_11_Some_bridges_are_listed_for_devices_below_one_of_them_only()
    {
        Assert.Equal((PeerMapType.ThroughHostBridge, 4), Trees.RootPorts(Trees.SameBridge).Path("a", "b"));
        Assert.Equal(
            (PeerMapType.NotSupported, 4), Trees.HostBridges(Trees.SameBridge, Trees.SameBridge).Path("a", "b"));
        Assert.Equal(
            (PeerMapType.ThroughHostBridge, 4), Trees.HostBridges(Trees.AnyPair, Trees.AnyPair).Path("a", "b"));
        Assert.Equal((PeerMapType.NotSupported, 4), Trees.HostBridges(Trees.AnyPair, Trees.Unlisted).Path("a", "b"));
        Assert.Equal((PeerMapType.NotSupported, 4), Trees.HostBridges(Trees.Unlisted, Trees.AnyPair).Path("a", "b"));
        Assert.Equal(
            (PeerMapType.ThroughHostBridge, 4),
            Trees.HostBridges(new PciId(0x1ae0, 0x1234), Trees.AnyPair).Path("a", "b"));
    }

    [Fact]
    public void P2P_12_A_root_bus_whose_first_function_is_a_device_at_01_0_is_known_to_no_list()
    {
        Tree tree = new(null);
        HostBridge bridge = tree.AddBridge(new HostBridge(0, 0));
        tree.Topology.Add(new PciFunction(PciAddress.Parse("0000:00:01.0"), "a", Trees.AnyPair), bridge);
        tree.Topology.Add(new PciFunction(PciAddress.Parse("0000:00:02.0"), "b", Trees.AnyPair), bridge);

        Assert.Equal((PeerMapType.NotSupported, 2), tree.Path("a", "b"));

        tree.Topology.Add(new PciFunction(PciAddress.Parse("0000:00:00.0"), "hb", Trees.AnyPair), bridge);
        Assert.Equal((PeerMapType.ThroughHostBridge, 2), tree.Path("a", "b"));
    }

    [Fact]
    public void P2P_14_Only_a_function_itself_has_a_map_type_a_child_is_found_by_its_function()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        ChildDevice child = new("nvme0n1", tree["b"]);
        PeerDevice provider = tree.Offer("a");

        Assert.Same(tree["b"], PeerPath.FindFunction(child));
        Assert.Equal(PeerMapType.NotSupported, provider.MapTypeFor(child));
        Assert.Equal(PeerMapType.BusAddress, provider.MapTypeFor(tree["b"]));
        Assert.Null(PeerPath.FindFunction(new ChildDevice("dummy0", null)));
    }

    [Fact]
    public void P2P_16_A_map_type_stays_as_it_was_calculated_until_somebody_calculates_again()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PeerDevice provider = tree.Offer("a");
        Assert.Equal(PeerMapType.BusAddress, provider.MapTypeFor(tree["b"]));

        PciTopology.SetAcs(tree["sw.0"], AcsControl.RequestRedirect);

        Assert.Equal(PeerMapType.BusAddress, provider.MapTypeFor(tree["b"]));
        Assert.Equal(PeerMapType.NotSupported, provider.Recalculate(tree["b"]).MapType);
        Assert.Equal(PeerMapType.NotSupported, provider.MapTypeFor(tree["b"]));
    }

    [Fact]
    public void A_path_through_two_switches_counts_every_hop()
    {
        Tree tree = new(null);
        HostBridge bridge = tree.AddBridge(new HostBridge(0, 0));
        PciAddress address = PciAddress.Parse("0000:00:01.0");
        PciBridge port = tree.Add(new PciBridge(address, "rp0", PciBridgeKind.RootPort, Trees.Unlisted), bridge);
        PciBridge upper = tree.AddSwitch(port, "upper", 1, ["a", "b"]);
        PciBridge third =
            new(PciAddress.Parse("0000:02:1f.0"), "upper.31", PciBridgeKind.SwitchDownstream);
        tree.Topology.Add(third, upper);
        tree.AddSwitch(third, "lower", 0x10, ["c", "d"]);

        Assert.Equal((PeerMapType.BusAddress, 6), tree.Path("a", "c"));
        Assert.Equal((PeerMapType.BusAddress, 4), tree.Path("c", "d"));

        // Below the lower switch nothing of the upper one is on the way.
        PciTopology.SetAcs(third, AcsControl.RequestRedirect);
        Assert.Equal((PeerMapType.BusAddress, 4), tree.Path("c", "d"));
        Assert.Equal((PeerMapType.NotSupported, 6), tree.Path("a", "c"));
    }

    [Fact]
    public void What_was_pulled_out_reaches_nothing_and_its_name_and_address_are_free_again()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciFunction gone = tree["b"];
        tree.Topology.Remove(tree["sw.1"]);

        PeerVerdict verdict = PeerPath.Calculate(tree.Topology, tree["a"], gone);
        Assert.Equal((PeerMapType.NotSupported, -1), (verdict.MapType, verdict.Distance));
        Assert.Equal("b (0000:04:00.0) is not plugged in", verdict.Refusal);
        Assert.Null(tree.Topology.Find("b"));
        PciBridge again = new(PciAddress.Parse("0000:02:01.0"), "sw.1", PciBridgeKind.SwitchDownstream);
        tree.Topology.Add(again, (PciBridge)tree["sw"]);
        tree.Topology.Add(new PciFunction(gone.Address, "b"), again);
        Assert.Equal((PeerMapType.BusAddress, 4), tree.Path("a", "b"));
    }

    [Fact]
    public void A_tree_takes_only_what_belongs_where_it_is_put()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciFunction a = tree["a"];

        AssertRefused("in a tree already", () => tree.Topology.Add(a, (PciBridge)tree["sw.1"]));
        AssertRefused("one address", () => tree.Topology.Add(new PciFunction(a.Address, "x"), (PciBridge)tree["sw.1"]));
        AssertRefused(
            "one name", () => tree.Topology.Add(new PciFunction("0000:0a:00.0", "a"), (PciBridge)tree["sw.1"]));
        AssertRefused(
            "only downstream ports",
            () => tree.Topology.Add(new PciFunction("0000:0a:00.0", "x"), (PciBridge)tree["sw"]));
        PciBridge port = new(PciAddress.Parse("0000:0b:00.0"), "dp", PciBridgeKind.SwitchDownstream);
        AssertRefused("without an upstream port", () => tree.Topology.Add(port, (PciBridge)tree["rp0"]));
        AssertRefused("without an upstream port", () => tree.Topology.Add(port, tree.Topology.HostBridges[0]));
        PciBridge root = new(PciAddress.Parse("0000:0c:00.0"), "rp9", PciBridgeKind.RootPort);
        AssertRefused("belongs on a root bus", () => tree.Topology.Add(root, (PciBridge)tree["sw.0"]));
        AssertRefused("already", () => tree.Topology.Add(new HostBridge(0, 0)));
    }

    [Theory]
    [InlineData("0000:01:00.0", true)]
    [InlineData("01:1f.7", true)]
    [InlineData("0000:01:20.0", false)]
    [InlineData("0000:01:00.8", false)]
    [InlineData("0000:01:00:0", false)]
    [InlineData("000:01:00.0", false)]
    [InlineData("0000:1:0.0", false)]
    [InlineData("+000:01:00.0", false)]
    [InlineData("", false)]
    public void An_address_is_read_as_lspci_writes_it(string text, bool isAddress)
    {
        Assert.Equal(isAddress, PciAddress.TryParse(text, out PciAddress address));
        if (isAddress)
        {
            Assert.EndsWith(text, address.ToString(), StringComparison.Ordinal);
        }
    }

    private static void AssertRefused(string because, Action action) =>
        Assert.Contains(because, Assert.Throws<ArgumentException>(action).Message, StringComparison.Ordinal);
}
