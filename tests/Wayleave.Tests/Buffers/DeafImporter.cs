using Wayleave.Core.Buffers;

namespace Wayleave.Tests.Buffers;

/// <summary>An importer that says that it stops, and does nothing.</summary>
internal sealed class DeafImporter(ImporterKind kind, string? holder = null) : IRevocableImporter
{
    public string Name => "deaf importer";

    public ImporterKind Kind { get; } = kind;

    public bool AllowPeerToPeer => true;

    public string? Holder { get; } = holder;

    public InvalidateOutcome InvalidateMappings(Attachment attachment) => InvalidateOutcome.Done;
}
