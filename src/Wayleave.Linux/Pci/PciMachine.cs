using Wayleave.Core.Topology;

namespace Wayleave.Linux.Pci;

/// <summary>The PCI trees of a machine as its kernel shows them.</summary>
/// <param name="Topology">What <see cref="TopologyBuilder"/> builds.</param>
/// <param name="Details">What a tree has no place for, by address.</param>
/// <param name="Notes">What could not be read, a sentence each.</param>
public sealed record PciMachine(
    TopologyDescription Topology, IReadOnlyDictionary<PciAddress, PciDetails> Details, IReadOnlyList<string> Notes);

/// <summary>What sysfs says about a function besides its place.</summary>
public sealed record PciDetails
{
    /// <summary>Base class, subclass and programming interface: 0x020000 is an Ethernet controller.</summary>
    public required int ClassCode { get; init; }

    /// <summary>The driver that has it, or null.</summary>
    public string? Driver { get; init; }

    /// <summary>
    /// Whether the ACS capability could be looked for: false when the extended configuration space is there and only
    /// root may read it.
    /// </summary>
    public required bool IsAcsKnown { get; init; }

    /// <summary>Its IOMMU group, or null.</summary>
    public int? IommuGroup { get; init; }

    /// <summary>As the kernel writes it: <c>DMA</c>, <c>DMA-FQ</c>, <c>identity</c>; null without a group.</summary>
    public string? IommuType { get; init; }
}
