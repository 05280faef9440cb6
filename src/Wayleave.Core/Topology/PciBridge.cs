namespace Wayleave.Core.Topology;

/// <summary>What a bridge is (<c>pci_pcie_type</c>).</summary>
public enum PciBridgeKind
{
    RootPort,
    SwitchUpstream,
    SwitchDownstream,

    /// <summary>A bridge of conventional PCI, or from PCI Express to it.</summary>
    Conventional,
}

/// <summary>
/// A PCI-to-PCI bridge: a root port, or a port of a switch. It is a function itself and has functions below.
/// </summary>
public sealed class PciBridge : PciFunction
{
    private readonly List<PciFunction> _below = [];

    public PciBridge(PciAddress address, string name, PciBridgeKind kind, PciId id = default)
        : base(address, name, id) => Kind = kind;

    public PciBridgeKind Kind { get; }

    /// <summary>The bus below it; functions there have it in their address. 0 until it is known.</summary>
    public byte SecondaryBus { get; internal set; }

    /// <summary>In the order of their addresses.</summary>
    public IReadOnlyList<PciFunction> Below => _below;

    internal void Add(PciFunction function) =>
        _below.Insert(~_below.BinarySearch(function, PciTopology.ByAddress), function);

    internal void Remove(PciFunction function) => _below.Remove(function);
}
