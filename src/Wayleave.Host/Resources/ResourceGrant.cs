using Wayleave.Core.PeerMemory;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Resources;

/// <summary>
/// A handle that the host keeps for somebody, and what was imported by it. Changed under the host lock.
/// </summary>
public sealed class ResourceGrant
{
    internal ResourceGrant(IObjectDevice owner, PeerHandle handle) => (Owner, Handle) = (owner, handle);

    /// <summary>Whose memory it is.</summary>
    public IObjectDevice Owner { get; }

    public PeerHandle Handle { get; }

    public PeerResource Resource => Handle.Resource;

    /// <summary>Regions of NICs, each with its chunk, in the order they came.</summary>
    public IReadOnlyList<ResourceUse> Uses => Imported;

    internal List<ResourceUse> Imported { get; } = [];

    internal Task? Ending { get; set; }

    /// <summary>DEVICE/NAME.</summary>
    public override string ToString() => $"{Owner.Name}/{Resource.Name}";
}

/// <summary>A resource as one NIC uses it.</summary>
/// <param name="Nic">The importer.</param>
/// <param name="Region">Of the whole resource, with a key of its own.</param>
/// <param name="Import">What the handle gave.</param>
/// <param name="Chunk">What was taken out of it; void once the resource is removed.</param>
public sealed record ResourceUse(NicHandle Nic, MemoryRegion Region, PeerImport Import, PeerChunk Chunk);
