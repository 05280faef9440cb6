namespace Wayleave.Core.Topology;

/// <summary>
/// Something in the device tree (<c>struct device</c>): a PCI function, or a child of one, such as the network
/// interface of a NIC.
/// </summary>
public interface IDeviceNode
{
    string Name { get; }

    /// <summary>The device above this one, or null at the top of a tree.</summary>
    IDeviceNode? ParentDevice { get; }
}

/// <summary>
/// A device that is not a PCI function itself: <c>nvme0n1</c> below its controller, or one with no bus at all.
/// </summary>
public sealed class ChildDevice(string name, IDeviceNode? parent) : IDeviceNode
{
    public string Name { get; } = name;

    public IDeviceNode? ParentDevice { get; } = parent;

    public override string ToString() => Name;
}
