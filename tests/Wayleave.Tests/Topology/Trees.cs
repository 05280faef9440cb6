using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;

namespace Wayleave.Tests.Topology;

/// <summary>
/// Trees of the shapes that the rules tell apart. The switch has its upstream port at 01:00.0, its downstream ports on
/// bus 2.
/// </summary>
internal static class Trees
{
    public static readonly PciId Unlisted = new(0x8086, 0x1237);
    public static readonly PciId AnyPair = new(0x8086, 0x2030);
    public static readonly PciId SameBridge = new(0x8086, 0x2f00);

    public static readonly BootProcessor Zen = new("AuthenticAMD", 0x17);

    /// <summary>
    /// One root port (the identity of its host bridge), a switch with two ports, a device below each.
    /// </summary>
    public static Tree Switch(PciId host, BootProcessor? processor = null, HostBridge? bridge = null)
    {
        Tree tree = new(processor);
        bridge = tree.AddBridge(bridge ?? new HostBridge(0, 0));
        PciBridge port = new(new PciAddress(0, 0, 0, 0), "rp0", PciBridgeKind.RootPort, host);
        tree.Add(port, bridge);
        tree.AddSwitch(port, "sw", 1, ["a", "b"]);
        return tree;
    }

    /// <summary>A root port each for two devices.</summary>
    public static Tree RootPorts(PciId host, BootProcessor? processor = null, HostBridge? bridge = null)
    {
        Tree tree = new(processor);
        bridge = tree.AddBridge(bridge ?? new HostBridge(0, 0));
        tree.AddBelowRootPort(bridge, 0, 1, "a", host);
        tree.AddBelowRootPort(bridge, 1, 2, "b", host);
        return tree;
    }

    /// <summary>A host bridge each for two devices.</summary>
    public static Tree HostBridges(PciId first, PciId second, BootProcessor? processor = null)
    {
        Tree tree = new(processor);
        tree.AddBelowRootPort(tree.AddBridge(new HostBridge(0, 0)), 0, 1, "a", first);
        tree.AddBelowRootPort(tree.AddBridge(new HostBridge(0, 0x80)), 0, 0x81, "b", second);
        return tree;
    }
}

/// <summary>A topology with devices by name, and a verdict from one to the memory of another.</summary>
internal sealed class Tree(BootProcessor? processor)
{
    public PciTopology Topology { get; } = new(processor);

    public PciFunction this[string name] => Topology.Find(name)!;

    public HostBridge AddBridge(HostBridge bridge)
    {
        Topology.Add(bridge);
        return bridge;
    }

    public PciBridge Add(PciBridge bridge, HostBridge parent)
    {
        Topology.Add(bridge, parent);
        return bridge;
    }

    public void AddBelowRootPort(HostBridge bridge, byte device, byte bus, string name, PciId id)
    {
        PciBridge port = new(new PciAddress(0, bridge.RootBus, device, 0), $"rp-{name}", PciBridgeKind.RootPort, id);
        Topology.Add(port, bridge);
        Topology.Add(new PciFunction(new PciAddress(0, bus, 0, 0), name), port);
    }

    public PciBridge AddSwitch(PciBridge above, string name, byte bus, string[] devices)
    {
        PciBridge upstream = new(new PciAddress(0, bus, 0, 0), name, PciBridgeKind.SwitchUpstream);
        Topology.Add(upstream, above);
        for (int i = 0; i < devices.Length; i++)
        {
            PciBridge port =
                new(new PciAddress(0, (byte)(bus + 1), (byte)i, 0), $"{name}.{i}", PciBridgeKind.SwitchDownstream);
            Topology.Add(port, upstream);
            Topology.Add(new PciFunction(new PciAddress(0, (byte)(bus + 2 + i), 0, 0), devices[i]), port);
        }

        return upstream;
    }

    public PeerVerdict Verdict(string provider, string client) =>
        PeerPath.Calculate(Topology, this[provider], this[client]);

    public PeerDevice Offer(string name) => PeerDevice.Initialize(Topology, this[name]);

    public (PeerMapType Type, int Distance) Path(string provider, string client)
    {
        PeerVerdict verdict = Verdict(provider, client);
        return (verdict.MapType, verdict.Distance);
    }
}
