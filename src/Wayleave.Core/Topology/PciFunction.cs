using Wayleave.Core.PeerMemory;

namespace Wayleave.Core.Topology;

/// <summary>Vendor and device number of a PCI function, as <c>lspci -n</c> prints them: <c>8086:2030</c>.</summary>
public readonly record struct PciId(ushort Vendor, ushort Device)
{
    public override string ToString() => $"{Vendor:x4}:{Device:x4}";
}

/// <summary>
/// One PCI function of a host (<c>struct pci_dev</c>): the identity by which the fabric knows who reads and who owns
/// memory. It has its place in a tree once it is added to a bridge or plugged into a <see cref="PciFabric"/>.
/// </summary>
public class PciFunction : IDeviceNode
{
    /// <summary>BARs of a type 0 header.</summary>
    public const int BarCountMax = 6;

    private readonly PciBar?[] _bars = new PciBar?[BarCountMax];
    private DecodeTable? _decode;

    /// <param name="address">Bus, device and function.</param>
    /// <param name="name">The name users give the device: <c>gpu0</c>, <c>rdma0</c>.</param>
    /// <param name="id">Vendor and device; zero when nobody depends on it.</param>
    public PciFunction(PciAddress address, string name, PciId id = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        (Address, Name, Id) = (address, name, id);
    }

    /// <exception cref="FormatException"><paramref name="address"/> is not written as <c>0000:01:00.0</c>.</exception>
    public PciFunction(string address, string name)
        : this(PciAddress.Parse(address), name)
    {
    }

    public PciAddress Address { get; }

    public string Name { get; }

    public PciId Id { get; }

    /// <summary>
    /// The bridge above (<c>pci_upstream_bridge</c>), or null for a function on a root bus or in no tree.
    /// </summary>
    public PciBridge? Upstream { get; internal set; }

    /// <summary>The host bridge at the top of its tree, or null while it is in none.</summary>
    public HostBridge? Root { get; internal set; }

    /// <summary>The ACS control register, or null for a function without that capability.</summary>
    public AcsControl? Acs { get; internal set; }

    /// <summary>Whether ACS sends this function's peer requests to the root complex.</summary>
    public bool HasAcsRedirect => Acs is AcsControl control && (control & AcsControl.AnyRedirect) != 0;

    /// <summary>
    /// The memory bit of its command register: whether its BARs answer (<see cref="PciFabric.SetMemoryDecoding"/>).
    /// </summary>
    public bool DecodesMemory { get; internal set; } = true;

    /// <summary>
    /// Whether the processor cannot map its BARs (<c>non_mappable_bars</c>): such a function offers no memory to peers.
    /// </summary>
    public bool HasUnmappableBars { get; init; }

    /// <summary>
    /// The longest piece that its DMA engine takes at once, in bytes (<c>dma_get_max_seg_size</c>). Exporters of device
    /// pages cut by it.
    /// </summary>
    public ulong DmaSegmentBytesMax { get; init; } = uint.MaxValue;

    /// <summary>By number; null where there is none.</summary>
    public IReadOnlyList<PciBar?> Bars => _bars;

    /// <summary>What peers may use of this function's memory; null until the owner offers some.</summary>
    public PeerDevice? PeerDevice { get; internal set; }

    IDeviceNode? IDeviceNode.ParentDevice => Upstream;

    /// <summary>What answers this function's requests; null while it is not plugged. Read without a lock.</summary>
    internal DecodeTable? Decode
    {
        get => Volatile.Read(ref _decode);
        set => Volatile.Write(ref _decode, value);
    }

    public override string ToString() => $"{Name} ({Address})";

    internal void SetBar(PciBar bar) => _bars[bar.Index] = bar;

    internal int NextBarIndex()
    {
        // A 64-bit BAR takes two registers; which numbers are left is the caller's problem only when there are none.
        int index = Array.FindIndex(_bars, b => b is null);
        return index >= 0 ? index : throw new InvalidOperationException($"{this} has no BAR left");
    }
}
