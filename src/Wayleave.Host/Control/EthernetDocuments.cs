namespace Wayleave.Host.Control;

/// <summary>An Ethernet NIC with its TCP endpoint.</summary>
public sealed record EthernetDocument
{
    public required string Name { get; init; }

    public required string PciAddress { get; init; }

    /// <summary>The TAP interface that it is linked to.</summary>
    public required string Interface { get; init; }

    public required string Mac { get; init; }

    /// <summary>ADDRESS/BITS.</summary>
    public required IReadOnlyList<string> Addresses { get; init; }

    public required int MtuBytes { get; init; }

    /// <summary>Receive queues in use.</summary>
    public required int Queues { get; init; }

    public required int Connections { get; init; }

    /// <summary>Device memory that its queues place payload in.</summary>
    public required IReadOnlyList<EthernetBindingDocument> Bindings { get; init; }

    /// <summary>Counters by name, as <c>ethtool -S</c> has them; they only grow.</summary>
    public required IReadOnlyDictionary<string, long> Counters { get; init; }

    /// <summary>What stopped the NIC, or is wrong with its link.</summary>
    public string? Failure { get; init; }
}

/// <summary>Memory that receive queues are bound to.</summary>
public sealed record EthernetBindingDocument
{
    /// <summary>What pieces of its memory carry.</summary>
    public required uint Id { get; init; }

    /// <summary>The name of the object, without its device.</summary>
    public required string Buffer { get; init; }

    public required IReadOnlyList<int> Queues { get; init; }

    /// <summary><c>static</c>, as in Linux, or <c>pinned_revocable</c>.</summary>
    public required string Kind { get; init; }

    /// <summary>How the NIC reaches the memory: <c>bus_address</c>, <c>through_host_bridge</c>, ...</summary>
    public required string Route { get; init; }

    /// <summary><c>bound</c>, <c>revoked</c>, <c>unbound</c> or <c>released</c>.</summary>
    public required string State { get; init; }

    public required ulong LengthBytes { get; init; }

    public required int ChunkBytes { get; init; }

    public required int FreeChunks { get; init; }

    /// <summary>Pieces that readers hold.</summary>
    public required int TokensOut { get; init; }

    public required long PlacedBytes { get; init; }

    /// <summary>Of the bytes placed, those that the link read straight into the memory.</summary>
    public required long ScatteredBytes { get; init; }

    /// <summary>
    /// Bytes that the NIC copied to place them, or to take them out again: over the bytes placed, the copies of a byte.
    /// </summary>
    public required long CopiedBytes { get; init; }

    /// <summary>Frames that were read to the wrong place first.</summary>
    public required long ScattersRepaired { get; init; }

    /// <summary>Payload of its queues that went to host memory all the same.</summary>
    public required long LinearBytes { get; init; }
}
