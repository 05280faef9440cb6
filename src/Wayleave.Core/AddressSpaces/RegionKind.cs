using Wayleave.Core.PeerMemory;

namespace Wayleave.Core.AddressSpaces;

public enum RegionKind
{
    /// <summary>Memory of no file; zero until written. Shared, it is shared memory of its own.</summary>
    Anonymous,

    File,

    /// <summary>Registers or memory of a device without pages (<c>VM_IO</c>, <c>VM_PFNMAP</c>).</summary>
    Device,

    /// <summary>Pages of a BAR from a peer pool (<see cref="PeerUserMapping"/>).</summary>
    PeerMemory,
}

/// <summary>What a process asks <c>mmap</c> for.</summary>
public sealed record RegionRequest
{
    /// <summary>Rounded up to whole pages; not 0.</summary>
    public required ulong LengthBytes { get; init; }

    public SpaceProtection Protection { get; init; } = SpaceProtection.ReadWrite;

    public RegionKind Kind { get; init; }

    /// <summary><c>MAP_SHARED</c>.</summary>
    public bool IsShared { get; init; }

    /// <summary>
    /// <c>MAP_FIXED_NOREPLACE</c>: exactly there, and only if nothing is. Null: the lowest free address, so that an
    /// address that was given back is soon used again.
    /// </summary>
    public ulong? Address { get; init; }

    /// <summary>For <see cref="RegionKind.File"/>.</summary>
    public MemoryFile? File { get; init; }

    /// <summary>Into the file; whole pages.</summary>
    public ulong FileOffset { get; init; }

    /// <summary>For <see cref="RegionKind.PeerMemory"/>: owned by the region, which ends it.</summary>
    public PeerUserMapping? Peer { get; init; }

    /// <summary>Huge pages are used where a whole one fits (<c>MADV_HUGEPAGE</c>).</summary>
    public bool UsesHugePages { get; init; }

    /// <summary>A child does not get it (<c>MADV_DONTFORK</c>).</summary>
    public bool IsNotInherited { get; init; }

    /// <summary>For people.</summary>
    public string Name { get; init; } = "";
}
