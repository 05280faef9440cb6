using Wayleave.Core;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;
using Wayleave.Simulation;
using Wayleave.Tests.Topology;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

public sealed class PeerFinderTests
{
    private readonly HostContext _host = new(new VirtualClock());

    [Fact]
    public void P2P_13_Distances_add_up_and_one_client_without_a_path_spoils_them()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciFunction sibling = new(new PciAddress(0, 3, 0, 1), "a1");
        tree.Topology.Add(sibling, (PciBridge)tree["sw.0"]);
        PciBridge port = new(new PciAddress(0, 0, 1, 0), "rp1", PciBridgeKind.RootPort, Trees.Unlisted);
        tree.Topology.Add(port, tree.Topology.HostBridges[0]);
        tree.Topology.Add(new PciFunction(new PciAddress(0, 9, 0, 0), "far"), port);

        Assert.Equal(6, Distance(tree, "a", sibling, tree["b"]));
        Assert.Equal(4, Distance(tree, "a", new ChildDevice("nvme0n1", tree["b"])));
        Assert.Equal(-1, Distance(tree, "a", sibling, tree["far"], tree["b"]));
        Assert.Equal(-1, Distance(tree, "a"));
        Assert.Equal(-1, Distance(tree, "a", sibling, new ChildDevice("dummy0", null)));
    }

    [Fact]
    public void The_verbose_form_looks_at_every_client_all_the_same()
    {
        Tree tree = Trees.RootPorts(Trees.Unlisted);
        List<PeerVerdict> report = [];

        Assert.Equal(
            -1, PeerFinder.DistanceMany(tree.Topology, tree["a"], [tree["b"], tree["a"]], report));

        Assert.Equal(
            [PeerMapType.NotSupported, PeerMapType.BusAddress], report.Select(v => v.MapType));
        Assert.Equal(-1, PeerFinder.DistanceMany(tree.Topology, tree["a"], [new ChildDevice("dummy0", null)], report));
        Assert.Equal("dummy0 is not a PCI device", report[^1].Refusal);
    }

    [Fact]
    public void P2P_07_With_a_redirect_the_distance_to_an_unlisted_host_is_refused_and_cached()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PeerDevice provider = tree.Offer("a");
        Assert.Equal(PeerMapType.BusAddress, provider.MapTypeFor(tree["b"]));
        PciTopology.SetAcs(tree["sw.0"], AcsControl.RequestRedirect);

        Assert.Equal(-1, Distance(tree, "a", tree["b"]));
        Assert.Equal(PeerMapType.NotSupported, provider.MapTypeFor(tree["b"]));
    }

    [Fact]
    public void P2P_15_The_nearest_pool_is_found_and_among_equals_each_of_them_in_turn()
    {
        // c is behind one port with two functions that offer memory; d, with memory too, is behind another port.
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciBridge port = (PciBridge)tree["sw.0"];
        tree.Topology.Add(new PciFunction(new PciAddress(0, 3, 0, 1), "a1"), port);
        tree.Topology.Add(new PciFunction(new PciAddress(0, 3, 0, 2), "c"), port);
        PciFabric fabric = new(tree.Topology);
        using HostContext.Scope scope = _host.Enter();
        PeerPool far = Publish(fabric, tree["b"]);
        PeerPool first = Publish(fabric, tree["a"]);
        PeerPool second = Publish(fabric, tree["a1"]);
        Assert.Equal([2, 2, 4], [
            Distance(tree, "a", tree["c"]), Distance(tree, "a1", tree["c"]), Distance(tree, "b", tree["c"])]);

        SplitMix64 random = new(15);
        PeerPool?[] found =
            [.. Enumerable.Range(0, 64).Select(_ => PeerFinder.FindMany(tree.Topology, [tree["c"]], random))];

        Assert.DoesNotContain(far, found);
        Assert.Contains(first, found);
        Assert.Contains(second, found);
    }

    [Fact]
    public void One_candidate_needs_no_chance_and_an_explorer_sees_every_other_one()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciFabric fabric = new(tree.Topology);
        using HostContext.Scope scope = _host.Enter();
        PeerPool only = Publish(fabric, tree["a"]);
        Assert.Same(only, PeerFinder.FindMany(tree.Topology, [tree["a"], tree["b"]], new NoChoice()));

        PeerPool other = Publish(fabric, tree["b"]);
        HashSet<PeerPool?> seen = [];
        Choices choices = Choices.Exhaustive();
        do
        {
            seen.Add(PeerFinder.FindMany(tree.Topology, [tree["a"], tree["b"]], choices));
        }
        while (choices.MoveNext());

        Assert.Equal([only, other], seen);
    }

    private static int Distance(Tree tree, string provider, params IDeviceNode[] clients) =>
        PeerFinder.DistanceMany(tree.Topology, tree[provider], clients);

    private PeerPool Publish(PciFabric fabric, PciFunction function)
    {
        fabric.AddBar(function, 0, PciBarKind.Memory, PeerPool.PageBytes);
        Assert.Equal(
            Errno.Success,
            PeerDevice.TryAddResource(_host, fabric.Topology, function, 0, 0, 0, out PeerPool? pool));
        pool!.Publish(true);
        return pool;
    }

    private sealed class NoChoice : IRandomChoice
    {
        public int Next(int count) => throw new InvalidOperationException("nobody was to ask");
    }
}
