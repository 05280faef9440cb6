namespace Wayleave.Core.AddressSpaces;

/// <summary>What kind of memory a page is (<c>enum memory_type</c>, and what is ordinary).</summary>
public enum PageFrameKind
{
    /// <summary>The machine's own memory.</summary>
    System,

    /// <summary>A device's memory that the processor does not reach: touching it faults.</summary>
    DevicePrivate,

    /// <summary>A device's memory that the processor reaches as its own, over a coherent link.</summary>
    DeviceCoherent,

    /// <summary>Persistent memory of a file system, mapped without a page cache.</summary>
    FsDax,

    /// <summary>A device's memory that a driver gives to others without a file system.</summary>
    Generic,

    /// <summary>A part of a BAR that peers may reach (PCI P2PDMA).</summary>
    PeerToPeer,
}

/// <summary>Where ordinary memory lies.</summary>
public enum MemoryZoneKind
{
    Normal,

    /// <summary>
    /// Must stay free of what cannot move (<c>ZONE_MOVABLE</c>, CMA): a long-term pin moves a page out of it first.
    /// </summary>
    Movable,
}
