namespace Wayleave.Core.Topology;

/// <summary>
/// A PCI topology as it is written down, by a person, a program or a machine's sysfs: flat lists, each item with the
/// name of the bridge it is below. Says nothing about whether it can be: <see cref="TopologyBuilder"/> does.
/// </summary>
public sealed record TopologyDescription
{
    public BootProcessor Processor { get; init; } = BootProcessor.Unknown;

    public IReadOnlyList<HostBridgeDescription> HostBridges { get; init; } = [];

    /// <summary>Root ports and ports of switches, in any order.</summary>
    public IReadOnlyList<BridgeDescription> Bridges { get; init; } = [];

    /// <summary>Everything else, in any order.</summary>
    public IReadOnlyList<FunctionDescription> Functions { get; init; } = [];
}

/// <summary>A root bus. Its name is <c>pci0000:00</c>, made of domain and bus.</summary>
public sealed record HostBridgeDescription
{
    public ushort Domain { get; init; }

    public byte RootBus { get; init; }

    /// <summary>
    /// The function 00.0 of the root bus, by which the allow list knows the bridge; null for none, or for one that is
    /// among the functions.
    /// </summary>
    public PciId? Id { get; init; }

    public IommuMode Iommu { get; init; }

    /// <inheritdoc cref="HostBridge.BusOffset"/>
    public ulong BusOffset { get; init; }

    /// <inheritdoc cref="HostBridge.ForwardsPeerRequests"/>
    public bool? ForwardsPeerRequests { get; init; }

    /// <inheritdoc cref="HostBridge.LosesPeerRequests"/>
    public bool LosesPeerRequests { get; init; }

    /// <inheritdoc cref="HostBridge.NumaNode"/>
    public int NumaNode { get; init; }

    /// <summary>
    /// Where it was read, for problems: <c>host_bridges[2]</c>. Null for its place in the list.
    /// </summary>
    public string? Path { get; init; }

    /// <summary>As in sysfs: <c>pci0000:00</c>.</summary>
    public string Name => $"pci{Domain:x4}:{RootBus:x2}";
}

/// <summary>A function that is no bridge, or what a bridge has in common with one.</summary>
public record FunctionDescription
{
    public required PciAddress Address { get; init; }

    /// <summary>Null for the address.</summary>
    public string? Name { get; init; }

    public PciId Id { get; init; }

    /// <summary>
    /// The bridge above it, by name or address; or a host bridge by name. Null for the host bridge whose root bus is in
    /// the address.
    /// </summary>
    public string? Below { get; init; }

    /// <summary>The ACS control register; null for a function without that capability.</summary>
    public AcsControl? Acs { get; init; }

    public IReadOnlyList<BarDescription> Bars { get; init; } = [];

    /// <summary>
    /// A virtual function of SR-IOV, whose bus may be a higher one than that of its physical function.
    /// </summary>
    public bool IsVirtual { get; init; }

    /// <summary>
    /// Where it was read, for problems: <c>functions[2]</c>. Null for its place in the list.
    /// </summary>
    public string? Path { get; init; }

    /// <summary>What it is called: its name, or else its address.</summary>
    public string Label => Name ?? Address.ToString();
}

/// <summary>A root port, a port of a switch, or a bridge of conventional PCI.</summary>
public sealed record BridgeDescription : FunctionDescription
{
    public required PciBridgeKind Kind { get; init; }
}

/// <summary>A base address register.</summary>
public sealed record BarDescription
{
    /// <summary>0 to 5, and 0 or 1 on a bridge.</summary>
    public int Index { get; init; }

    public PciBarKind Kind { get; init; }

    /// <summary>A power of two.</summary>
    public required ulong SizeBytes { get; init; }

    /// <summary>The physical address, a multiple of the size; null for one that the builder chooses.</summary>
    public ulong? Start { get; init; }

    public bool IsPrefetchable { get; init; }

    /// <summary>
    /// Where it was read, for problems: <c>functions[1].bars[2]</c>. Null for its place in the list.
    /// </summary>
    public string? Path { get; init; }
}

/// <summary>One thing that is wrong with a description.</summary>
/// <param name="Where">The path of the value in its JSON form: <c>functions[2].bars[0].size_bytes</c>.</param>
/// <param name="Message">What is wrong and what would be right.</param>
public readonly record struct TopologyProblem(string Where, string Message)
{
    public override string ToString() => $"{Where}: {Message}";
}
