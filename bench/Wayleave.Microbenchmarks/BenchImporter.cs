using Wayleave.Core.Buffers;

namespace Wayleave.Microbenchmarks;

/// <summary>An importer with a gate that nobody is inside of: it stops when it is told.</summary>
internal sealed class BenchImporter(ImporterKind kind) : IRevocableImporter
{
    private InFlightGate? _gate;

    public string Name => "importer";

    public ImporterKind Kind { get; } = kind;

    public bool AllowPeerToPeer => true;

    public void Publish() => _gate = new InFlightGate();

    public InvalidateOutcome InvalidateMappings(Attachment attachment)
    {
        if (attachment.State == MappingState.Invalidated)
        {
            _gate!.Close(out long inside);
            attachment.Evidence!.RecordKeyDead(1);
            attachment.Evidence.RecordGateClosed(inside);
            attachment.Evidence.RecordDrained();
            attachment.UnmapInvalidated();
        }

        return InvalidateOutcome.Done;
    }
}
