using System.Diagnostics.CodeAnalysis;

namespace Wayleave.Core.Topology;

/// <summary>
/// Makes a <see cref="PciTopology"/> of a <see cref="TopologyDescription"/>, or says everything that is wrong with it.
/// </summary>
public sealed class TopologyBuilder
{
    // Both as PciFabric places what it places itself.
    private const ulong FirstMemoryAddress = 1UL << 45;
    private const ulong FirstPortAddress = 0x1000;

    private readonly TopologyDescription _description;
    private readonly List<TopologyProblem> _problems = [];
    private readonly Dictionary<string, HostBridge> _hostBridges = new(StringComparer.Ordinal);
    private readonly List<TopologyNode> _nodes = [];
    private readonly Dictionary<PciAddress, TopologyNode> _byAddress = [];
    private readonly Dictionary<string, TopologyNode> _byName = new(StringComparer.Ordinal);

    private TopologyBuilder(TopologyDescription description) => _description = description;

    /// <summary>Checks all of it, then builds.</summary>
    /// <param name="description">Read, not kept.</param>
    /// <param name="topology">A topology of its own for every call; null when there are problems.</param>
    /// <param name="problems">All of them, each with its path; empty on success.</param>
    public static bool TryBuild(
        TopologyDescription description,
        [NotNullWhen(true)] out PciTopology? topology,
        out IReadOnlyList<TopologyProblem> problems)
    {
        ArgumentNullException.ThrowIfNull(description);
        TopologyBuilder builder = new(description);
        builder.Check();
        problems = builder._problems;
        topology = problems.Count == 0 ? builder.Build() : null;
        return topology is not null;
    }

    private void Check()
    {
        AddHostBridges();
        AddNodes();
        foreach (TopologyNode node in _nodes)
        {
            FindParent(node);
        }

        BreakCycles();
        foreach (TopologyNode node in _nodes)
        {
            CheckPlace(node);
        }

        new BusNumberCheck(_nodes, [.. _hostBridges.Values], _problems).Run();
        new BarCheck(_nodes, _problems).Run();
    }

    private PciTopology Build()
    {
        PciTopology topology = new(_description.Processor);
        foreach (HostBridge bridge in _hostBridges.Values)
        {
            topology.Add(bridge);
        }

        foreach (TopologyNode node in _nodes)
        {
            Place(topology, node);
        }

        PlaceBars();
        return topology;
    }

    private void AddHostBridges()
    {
        if (_description.HostBridges.Count == 0)
        {
            Report("host_bridges", "a topology needs at least one: { \"bus\": \"0000:00\" }");
        }

        for (int i = 0; i < _description.HostBridges.Count; i++)
        {
            HostBridgeDescription bridge = _description.HostBridges[i];
            string path = bridge.Path ?? $"host_bridges[{i}]";
            if (bridge.LosesPeerRequests && bridge.Iommu != IommuMode.Strict)
            {
                Report(
                    path + ".loses_peer_requests",
                    "only what an IOMMU does not translate is lost: it needs \"iommu\": \"strict\"");
            }

            HostBridge made = new(bridge.Domain, bridge.RootBus)
            {
                Iommu = bridge.Iommu,
                BusOffset = bridge.BusOffset,
                ForwardsPeerRequests = bridge.ForwardsPeerRequests,
                LosesPeerRequests = bridge.LosesPeerRequests,
                NumaNode = bridge.NumaNode,
            };
            if (!_hostBridges.TryAdd(made.Name, made))
            {
                Report(path + ".bus", $"there is a host bridge {made} already");
                continue;
            }

            if (bridge.Id is PciId id)
            {
                PciAddress address = new(bridge.Domain, bridge.RootBus, 0, 0);
                FunctionDescription identity = new() { Address = address, Name = made.Name, Id = id };
                AddNode(new TopologyNode(identity, path) { HostBridge = made });
            }
        }
    }

    private void AddNodes()
    {
        for (int i = 0; i < _description.Bridges.Count; i++)
        {
            AddNode(new TopologyNode(_description.Bridges[i], _description.Bridges[i].Path ?? $"bridges[{i}]"));
        }

        for (int i = 0; i < _description.Functions.Count; i++)
        {
            AddNode(new TopologyNode(_description.Functions[i], _description.Functions[i].Path ?? $"functions[{i}]"));
        }
    }

    private void AddNode(TopologyNode node)
    {
        _nodes.Add(node);
        if (_byAddress.TryGetValue(node.Address, out TopologyNode? other))
        {
            Report(node.Path + ".address", $"{node.Address} is also that of {other.Path}, {other.Name}");
        }
        else
        {
            _byAddress.Add(node.Address, node);
        }

        bool isOwn = node.HostBridge?.Name == node.Name;
        if (node.Name.Length == 0)
        {
            Report(node.Path + ".name", "must not be empty");
        }
        else if (!isOwn && (_hostBridges.ContainsKey(node.Name)
            || (PciAddress.TryParse(node.Name, out PciAddress address) && address != node.Address)))
        {
            Report(node.Path + ".name", $"'{node.Name}' would be taken for something else");
        }
        else if (!_byName.TryAdd(node.Name, node))
        {
            Report(node.Path + ".name", $"'{node.Name}' is also the name of {_byName[node.Name].Path}");
        }
    }

    private void FindParent(TopologyNode node)
    {
        if (node.HostBridge is not null)
        {
            return;
        }

        string path = node.Path + ".below";
        string ownBus = $"pci{node.Address.Domain:x4}:{node.Address.Bus:x2}";
        string below = node.Description.Below ?? ownBus;
        if (_hostBridges.TryGetValue(below, out HostBridge? bridge))
        {
            node.HostBridge = bridge;
            if (below != ownBus && !node.Description.IsVirtual)
            {
                Report(
                    node.Path + ".address",
                    $"bus {node.Address.Bus:x2} contradicts the tree: what is on {below} has bus {bridge.RootBus:x2}");
            }
        }
        else if (node.Description.Below is null)
        {
            string bus = $"{node.Address.Domain:x4}:{node.Address.Bus:x2}";
            Report(path, $"{node.Name} needs one: no host bridge has bus {bus}, so name the bridge it is below");
        }
        else if (Find(below) is not TopologyNode parent)
        {
            Report(path, $"there is no bridge '{below}'");
        }
        else if (parent.Kind is null)
        {
            Report(path, $"'{below}' is {parent.Path} and no bridge: nothing can be below it");
        }
        else
        {
            node.Parent = parent;
        }
    }

    private TopologyNode? Find(string nameOrAddress) =>
        _byName.GetValueOrDefault(nameOrAddress)
        ?? (PciAddress.TryParse(nameOrAddress, out PciAddress address) ? _byAddress.GetValueOrDefault(address) : null);

    // Every cycle is told once, at its first item, and cut there, so that what follows can walk up.
    private void BreakCycles()
    {
        HashSet<TopologyNode> done = [];
        foreach (TopologyNode start in _nodes)
        {
            List<TopologyNode> way = [];
            for (TopologyNode? node = start; node is not null && !done.Contains(node); node = node.Parent)
            {
                int first = way.IndexOf(node);
                if (first >= 0)
                {
                    IEnumerable<string> names = way.Skip(first).Append(node).Select(n => n.Name);
                    Report(node.Path + ".below", $"a cycle, each below the next: {string.Join(", ", names)}");
                    node.Parent = null;
                    break;
                }

                way.Add(node);
            }

            done.UnionWith(way);
        }
    }

    private void CheckPlace(TopologyNode node)
    {
        string path = node.Path + ".below";
        bool isDownstream = node.Kind == PciBridgeKind.SwitchDownstream;
        string above = node.Parent?.Name ?? node.HostBridge?.Name ?? "";
        if (above.Length == 0)
        {
            return; // told before
        }

        if (isDownstream && node.Parent?.Kind != PciBridgeKind.SwitchUpstream)
        {
            Report(
                path,
                $"{node.Name} is a downstream port and {above} no upstream port: a switch needs an upstream port "
                    + "above its downstream ports");
        }
        else if (!isDownstream && node.Parent?.Kind == PciBridgeKind.SwitchUpstream)
        {
            Report(path, $"{above} is the upstream port of a switch: name the downstream port that {node.Name} is at");
        }
        else if (node.Kind == PciBridgeKind.RootPort && node.Parent is not null)
        {
            Report(path, $"{node.Name} is a root port and belongs on a root bus, not below {above}");
        }
    }

    private static void Place(PciTopology topology, TopologyNode node)
    {
        if (node.Made is not null)
        {
            return;
        }

        FunctionDescription description = node.Description;
        node.Made = node.Kind is PciBridgeKind kind
            ? new PciBridge(node.Address, node.Name, kind, description.Id)
            : new PciFunction(node.Address, node.Name, description.Id);
        if (node.HostBridge is not null)
        {
            topology.Add(node.Made, node.HostBridge);
        }
        else
        {
            Place(topology, node.Parent!);
            PciBridge parent = (PciBridge)node.Parent!.Made!;
            if (!description.IsVirtual)
            {
                parent.SecondaryBus = node.Address.Bus;
            }

            topology.Add(node.Made, parent);
        }

        PciTopology.SetAcs(node.Made, description.Acs);
    }

    // What has an address keeps it; the others follow behind the last one, each kind in its own space.
    private void PlaceBars()
    {
        ulong nextMemory = FirstMemoryAddress;
        ulong nextPort = FirstPortAddress;
        foreach (BarDescription bar in _nodes.SelectMany(n => n.Description.Bars).Where(b => b.Start is not null))
        {
            ref ulong next = ref bar.Kind == PciBarKind.Memory ? ref nextMemory : ref nextPort;
            next = Math.Max(next, bar.Start!.Value + bar.SizeBytes);
        }

        foreach (TopologyNode node in _nodes)
        {
            foreach (BarDescription bar in node.Description.Bars)
            {
                bool isMemory = bar.Kind == PciBarKind.Memory;
                ref ulong next = ref isMemory ? ref nextMemory : ref nextPort;
                ulong alignment =
                    Math.Max(bar.SizeBytes, isMemory ? PciFabric.WindowAlignmentBytes : FirstPortAddress);
                ulong start = bar.Start ?? ((next + alignment - 1) & ~(alignment - 1));
                next = Math.Max(next, start + bar.SizeBytes);
                DeviceRange range = new(new DeviceAddress(start), bar.SizeBytes);
                node.Made!.SetBar(
                    new PciBar(node.Made, bar.Index, bar.Kind, range) { IsPrefetchable = bar.IsPrefetchable });
            }
        }
    }

    private void Report(string path, string message) => _problems.Add(new TopologyProblem(path, message));
}

/// <summary>A function of a description on its way into a tree.</summary>
internal sealed class TopologyNode(FunctionDescription description, string path)
{
    public FunctionDescription Description { get; } = description;

    /// <summary><c>functions[2]</c>.</summary>
    public string Path { get; } = path;

    public PciAddress Address => Description.Address;

    public string Name => Description.Label;

    /// <summary>Null for what is no bridge.</summary>
    public PciBridgeKind? Kind => (Description as BridgeDescription)?.Kind;

    public TopologyNode? Parent { get; set; }

    /// <summary>For what is on a root bus.</summary>
    public HostBridge? HostBridge { get; set; }

    public PciFunction? Made { get; set; }
}
