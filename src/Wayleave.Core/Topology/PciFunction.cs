namespace Wayleave.Core.Topology;

/// <summary>
/// One PCI function of a host (<c>struct pci_dev</c>): the identity by which the fabric knows who reads and who owns
/// memory.
/// </summary>
/// <param name="address">Bus, device and function, as <c>lspci</c> prints them: <c>0000:01:00.0</c>.</param>
/// <param name="name">The name users give the device: <c>gpu0</c>, <c>rdma0</c>.</param>
public sealed class PciFunction(string address, string name)
{
    /// <summary>Bus, device and function, as <c>lspci</c> prints them.</summary>
    public string Address { get; } = address;

    public string Name { get; } = name;

    public override string ToString() => $"{Name} ({Address})";
}
