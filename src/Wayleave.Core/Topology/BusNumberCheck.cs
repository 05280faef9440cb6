namespace Wayleave.Core.Topology;

// A bridge forwards the buses from its secondary to its subordinate number, and so the numbers say the tree a second
// time (PCI-to-PCI Bridge Architecture 3.2.5.2-4):
//
//   one bus below a bridge, higher than the bridge's own    no two bridges with one bus
//   the buses below two bridges of one bus do not mix       nor those of two host bridges of one domain
//
// Virtual functions may have higher buses than their physical one (SR-IOV 2.1.2).

/// <summary>Whether the bus numbers of a description say the same as its parents.</summary>
internal sealed class BusNumberCheck(
    IReadOnlyList<TopologyNode> nodes, IReadOnlyList<HostBridge> hostBridges, List<TopologyProblem> problems)
{
    private readonly Dictionary<TopologyNode, List<TopologyNode>> _below = [];
    private readonly Dictionary<HostBridge, List<TopologyNode>> _onRootBus = [];
    private readonly Dictionary<(ushort Domain, byte Bus), string> _owners = [];

    public void Run()
    {
        foreach (HostBridge bridge in hostBridges)
        {
            _onRootBus.Add(bridge, []);
            _owners.Add((bridge.Domain, bridge.RootBus), bridge.Name);
        }

        foreach (TopologyNode node in nodes.Where(n => n.Kind is not null))
        {
            _below.Add(node, []);
        }

        foreach (TopologyNode node in nodes)
        {
            if (node.HostBridge is not null)
            {
                _onRootBus[node.HostBridge].Add(node);
            }
            else if (node.Parent is not null)
            {
                _below[node.Parent].Add(node);
            }
        }

        int before = problems.Count;
        foreach ((TopologyNode bridge, List<TopologyNode> below) in _below)
        {
            CheckBusBelow(bridge, below);
        }

        if (problems.Count != before)
        {
            return; // ranges of wrong numbers say nothing
        }

        foreach (IGrouping<ushort, HostBridge> domain in hostBridges.GroupBy(b => b.Domain))
        {
            CheckSeparate(
                [.. domain.Select(b => new BusRange(b.Name, null, b.RootBus, LastBus(b.RootBus, _onRootBus[b])))]);
        }

        foreach (List<TopologyNode> siblings in _onRootBus.Values.Concat(_below.Values))
        {
            CheckSeparate(
            [
                .. siblings.Where(n => n.Kind is not null && _below[n].Count > 0)
                    .Select(n => new BusRange(n.Name, n.Path, BusBelow(_below[n]), LastBus(0, _below[n]))),
            ]);
        }
    }

    private void CheckBusBelow(TopologyNode bridge, List<TopologyNode> below)
    {
        if (below.Count == 0)
        {
            return;
        }

        byte bus = BusBelow(below);
        foreach (TopologyNode node in below)
        {
            if (node.Address.Domain != bridge.Address.Domain)
            {
                Report(node, $"domain {node.Address.Domain:x4} is not that of its bridge {bridge.Name}");
            }
            else if (node.Address.Bus != bus && !node.Description.IsVirtual)
            {
                Report(
                    node,
                    $"bus {node.Address.Bus:x2} contradicts the tree: {below[0].Name} is below {bridge.Name} too and "
                        + $"has bus {bus:x2}");
            }
        }

        if (bus <= bridge.Address.Bus)
        {
            Report(
                below[0],
                $"bus {bus:x2} contradicts the tree: below {bridge.Name} it must be above {bridge.Address.Bus:x2}, the "
                    + "bridge's own");
        }
        else if (!_owners.TryAdd((bridge.Address.Domain, bus), bridge.Name))
        {
            string owner = _owners[(bridge.Address.Domain, bus)];
            Report(below[0], $"bus {bus:x2} contradicts the tree: it is the bus of {owner}, not of {bridge.Name}");
        }
    }

    private static byte BusBelow(List<TopologyNode> below) =>
        (below.Find(n => !n.Description.IsVirtual) ?? below[0]).Address.Bus;

    private byte LastBus(byte bus, List<TopologyNode> below)
    {
        foreach (TopologyNode node in below)
        {
            byte last = node.Kind is null ? node.Address.Bus : LastBus(node.Address.Bus, _below[node]);
            bus = Math.Max(bus, last);
        }

        return bus;
    }

    private void CheckSeparate(List<BusRange> ranges)
    {
        ranges.Sort((a, b) => a.First.CompareTo(b.First));
        for (int i = 1; i < ranges.Count; i++)
        {
            BusRange lower = ranges[i - 1], upper = ranges[i];
            if (upper.First <= lower.Last)
            {
                problems.Add(new TopologyProblem(
                    upper.Path ?? lower.Path ?? "host_bridges",
                    $"bus {upper.First:x2} of {upper.Name} contradicts the tree: {lower.Name} has the buses from "
                        + $"{lower.First:x2} to {lower.Last:x2}"));
            }
        }
    }

    private void Report(TopologyNode node, string message) =>
        problems.Add(new TopologyProblem(node.Path + ".address", message));

    private readonly record struct BusRange(string Name, string? Path, byte First, byte Last);
}
