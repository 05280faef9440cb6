using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.Topology;

public sealed class PeerProximityTests
{
    [Fact]
    public void Two_devices_are_as_near_as_nvidia_smi_would_say()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciBridge third = new(PciAddress.Parse("0000:02:1f.0"), "sw.31", PciBridgeKind.SwitchDownstream);
        tree.Topology.Add(third, (PciBridge)tree["sw"]);
        tree.AddSwitch(third, "lower", 0x10, ["c", "d"]);
        tree.Topology.Add(new PciFunction("0000:10:00.1", "e"), third);
        tree.AddBelowRootPort(tree.Topology.HostBridges[0], 2, 0x40, "f", Trees.Unlisted);
        tree.AddBelowRootPort(tree.AddBridge(new HostBridge(0, 0x80)), 0, 0x81, "g", Trees.Unlisted);
        tree.AddBelowRootPort(tree.AddBridge(new HostBridge(0, 0xc0) { NumaNode = 1 }), 0, 0xc1, "h", Trees.Unlisted);

        Assert.Equal(PeerProximity.Self, Between("a", "a"));
        Assert.Equal(PeerProximity.OneBridge, Between("a", "b"));
        Assert.Equal(PeerProximity.OneBridge, Between("c", "d"));
        Assert.Equal(PeerProximity.OneBridge, Between("c", "e"));
        Assert.Equal(PeerProximity.SeveralBridges, Between("a", "c"));
        Assert.Equal(PeerProximity.HostBridge, Between("a", "f"));
        Assert.Equal(PeerProximity.NumaNode, Between("a", "g"));
        Assert.Equal(PeerProximity.System, Between("a", "h"));
        Assert.Equal(PeerProximity.System, Between("h", "a"));
        Assert.Null(PeerProximities.Between(tree["a"], new PciFunction("0000:77:00.0", "gone")));

        PeerProximity? Between(string one, string other) => PeerProximities.Between(tree[one], tree[other]);
    }

    [Fact]
    public void A_way_names_every_port_in_order()
    {
        Tree below = Trees.Switch(Trees.Unlisted);
        Assert.Equal("a sw.0 sw sw.1 b", Way(below));
        Tree through = Trees.RootPorts(Trees.Unlisted);
        Assert.Equal("a rp-a rp-b b", Way(through));

        static string Way(Tree tree) => string.Join(' ', PeerProximities.Way(tree["a"], tree["b"]).Select(f => f.Name));
    }
}
