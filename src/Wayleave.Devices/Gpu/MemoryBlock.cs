using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu;

//   Free --allocate--> Used --quarantine--> Quarantined
//    ^                  |                        |
//    +------free--------+-----------free---------+

/// <summary>What a piece of device memory is at this moment.</summary>
public enum BlockState
{
    Free,
    Used,

    /// <summary>Taken back from its user without a proof that the use has stopped: neither in use nor free.</summary>
    Quarantined,
}

/// <summary>A contiguous piece of one memory window. Belongs to its <see cref="BlockAllocator"/>.</summary>
public sealed class MemoryBlock
{
    internal MemoryBlock(DeviceRange range) => Range = range;

    public DeviceRange Range { get; }

    public BlockState State { get; internal set; }

    /// <summary>Who has it, for people; null when free.</summary>
    public string? Owner { get; internal set; }

    // Neighbours in the same window, in address order.
    internal MemoryBlock? Previous { get; set; }

    internal MemoryBlock? Next { get; set; }

    public override string ToString() => $"{Range} {State}{(Owner is null ? "" : $" {Owner}")}";
}
