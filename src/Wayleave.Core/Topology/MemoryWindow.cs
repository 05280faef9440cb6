namespace Wayleave.Core.Topology;

/// <summary>A range of physical addresses and the bytes behind it: a part of a BAR, or of system memory.</summary>
public sealed class MemoryWindow
{
    internal MemoryWindow(DeviceRange range, Memory<byte> memory, PciFunction? owner) =>
        (Range, Memory, Owner) = (range, memory, owner);

    /// <summary>Physical addresses; a device uses them only through <see cref="PciFabric.TryMap"/>.</summary>
    public DeviceRange Range { get; }

    /// <summary>The function whose BAR this is, or null for system memory.</summary>
    public PciFunction? Owner { get; }

    /// <summary>Whether it is behind no BAR: nobody but its owner reaches it.</summary>
    public bool IsPrivate { get; internal init; }

    /// <summary>Whether it only carries bytes from one device to another.</summary>
    public bool IsStaging { get; internal init; }

    internal Memory<byte> Memory { get; }

    /// <summary>Whether requests of others find it on the bus.</summary>
    internal bool IsOnBus => Owner is null || (!IsPrivate && Owner.DecodesMemory);
}
