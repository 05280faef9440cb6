namespace Wayleave.Core.Topology;

/// <summary>How an IOMMU treats the requests of the devices below a host bridge.</summary>
public enum IommuMode
{
    /// <summary>There is none, or it is off: a device's address is a physical address.</summary>
    Off,

    /// <summary>Translation on, every domain an identity map (<c>iommu=pt</c>).</summary>
    Passthrough,

    /// <summary>A domain per function: only what was mapped for it answers.</summary>
    Strict,
}

/// <summary>
/// The top of a PCI tree (<c>struct pci_host_bridge</c>): a root bus in a domain, and what the processor behind it does
/// with peer requests.
/// </summary>
public sealed class HostBridge
{
    private readonly List<PciFunction> _below = [];

    /// <param name="domain">PCI domain; two host bridges may share one with different root buses.</param>
    /// <param name="rootBus">The number of its bus.</param>
    public HostBridge(ushort domain, byte rootBus) => (Domain, RootBus) = (domain, rootBus);

    public ushort Domain { get; }

    public byte RootBus { get; }

    /// <summary>As in sysfs: <c>pci0000:00</c>.</summary>
    public string Name => $"pci{Domain:x4}:{RootBus:x2}";

    /// <summary>
    /// PCI bus address minus physical address of the memory below (<c>window->offset</c> with its sign turned), modulo
    /// 2^64.
    /// </summary>
    public ulong BusOffset { get; init; }

    public IommuMode Iommu { get; init; }

    /// <summary>The NUMA node that its root bus is at; a machine without NUMA is one node, 0.</summary>
    public int NumaNode { get; init; }

    /// <summary>
    /// What the hardware really does with a request from one root port to memory below another: the allow list is a
    /// guess about this. Null for hardware that does as the rules say.
    /// </summary>
    public bool? ForwardsPeerRequests { get; init; }

    /// <summary>
    /// Switches below send every peer request up, ACS or not, and whatever does not translate there is lost without an
    /// error: the rules see a good path and the bytes never arrive. Software IOMMUs of virtual machines do that.
    /// </summary>
    public bool LosesPeerRequests { get; init; }

    /// <summary>The functions of the root bus, in the order of their addresses.</summary>
    public IReadOnlyList<PciFunction> Below => _below;

    /// <summary>
    /// The function by which the allow list knows this bridge (<c>pci_host_bridge_dev</c>): the first of the root bus,
    /// if it is 00.0 or a root port.
    /// </summary>
    public PciFunction? Identity =>
        _below.Count > 0 && (_below[0].Address.DevFn == 0 || _below[0] is PciBridge { Kind: PciBridgeKind.RootPort })
            ? _below[0]
            : null;

    public override string ToString() => Name;

    internal void Add(PciFunction function) =>
        _below.Insert(~_below.BinarySearch(function, PciTopology.ByAddress), function);

    internal void Remove(PciFunction function) => _below.Remove(function);
}
