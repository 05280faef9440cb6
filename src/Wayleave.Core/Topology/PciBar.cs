namespace Wayleave.Core.Topology;

/// <summary>What kind of addresses a BAR answers to.</summary>
public enum PciBarKind
{
    Memory,

    /// <summary>I/O ports: never reachable by a peer's DMA.</summary>
    IoPort,
}

/// <summary>
/// A base address register: a range of physical addresses at which a function's memory or registers answer.
/// </summary>
public sealed class PciBar
{
    internal PciBar(PciFunction owner, int index, PciBarKind kind, DeviceRange range) =>
        (Owner, Index, Kind, Range) = (owner, index, kind, range);

    public PciFunction Owner { get; }

    /// <summary>0 to 5.</summary>
    public int Index { get; }

    public PciBarKind Kind { get; }

    /// <summary>Physical addresses, as the processor sees them; the length is a power of two.</summary>
    public DeviceRange Range { get; }

    /// <summary>Reads have no side effects, so that bridges may merge and prefetch.</summary>
    public bool IsPrefetchable { get; internal init; }

    public override string ToString() => $"{Owner} BAR {Index}";
}
