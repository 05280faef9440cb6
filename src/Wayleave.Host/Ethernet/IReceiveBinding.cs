using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Host.Ethernet;

/// <summary>
/// An object whose memory receive queues of a NIC place payload in, until this is disposed: of the software NIC, or of
/// one of the kernel's. Disposing ends when nothing of it is left: the queues have let go, every token is back.
/// </summary>
public interface IReceiveBinding : IAsyncDisposable
{
    /// <summary>What the reader's descriptions name.</summary>
    uint Id { get; }

    /// <summary>For people: <c>nic0 binding 3</c>.</summary>
    string Name { get; }

    ulong LengthBytes { get; }

    /// <summary>The unit in which the memory comes back.</summary>
    int ChunkBytes { get; }

    IReadOnlyList<int> Queues { get; }

    /// <summary>Static, as Linux binds, or PinnedRevocable.</summary>
    ImporterKind Kind { get; }

    /// <summary>How the NIC reaches the memory, as it was mapped.</summary>
    PeerRoute Route { get; }

    /// <summary>Its owner has taken the memory back: nothing is placed, tokens fail.</summary>
    bool IsRevoked { get; }
}
