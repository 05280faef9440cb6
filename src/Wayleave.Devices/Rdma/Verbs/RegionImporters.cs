using Wayleave.Core.Buffers;

namespace Wayleave.Devices.Rdma.Verbs;

// Two classes, because whether an importer can be made to stop is part of its type.

/// <summary>A region whose device cannot revoke: its memory stays until it is deregistered.</summary>
internal sealed class PinnedRegionImporter(MemoryRegion region) : IImporter
{
    public string Name => region.Name;

    public ImporterKind Kind => region.Kind;

    public bool AllowPeerToPeer => true;

    public string? Holder => region.Holder;
}

/// <summary>A region that gives its memory up when the owner asks, for a while or for good.</summary>
internal sealed class RevocableRegionImporter(MemoryRegion region) : IRevocableImporter
{
    public string Name => region.Name;

    public ImporterKind Kind => region.Kind;

    public bool AllowPeerToPeer => true;

    public string? Holder => region.Holder;

    public InvalidateOutcome InvalidateMappings(Attachment attachment) => region.HandleInvalidate(attachment);
}
