using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;

namespace Wayleave.Tests.Buffers;

/// <summary>An importer that cannot be made to stop.</summary>
internal sealed class TestPinnedImporter : IImporter
{
    public string Name => "pinned importer";

    public ImporterKind Kind => ImporterKind.Pinned;

    public bool AllowPeerToPeer => true;
}

/// <summary>An importer that stops when told: at once, or when the test says that its last user has left.</summary>
internal sealed class TestImporter(Timeline timeline, ImporterKind kind = ImporterKind.Dynamic, uint? key = null)
    : IRevocableImporter
{
    public string Name => "importer";

    public ImporterKind Kind { get; } = kind;

    public bool AllowPeerToPeer => true;

    /// <summary>How many users are inside the gate.</summary>
    public int Inside { get; set; }

    /// <summary>Whether the drain's fence stands for the mapping too, or the unmap comes later.</summary>
    public bool UnmapsWithDrain { get; set; } = true;

    public int Invalidations { get; private set; }

    public bool WasLocked { get; private set; }

    public Fence? Drain { get; private set; }

    public Attachment? Told { get; private set; }

    public InvalidateOutcome InvalidateMappings(Attachment attachment)
    {
        Invalidations++;
        Told = attachment;
        WasLocked = attachment.Buffer.Host.IsHeld && attachment.Buffer.Reservation.Owner is not null;
        if (attachment.Buffer.IsRevoked && key is { } dead)
        {
            attachment.Evidence!.RecordKeyDead(dead);
        }

        if (attachment.State != MappingState.Invalidated)
        {
            return InvalidateOutcome.Done;
        }

        attachment.Evidence!.RecordGateClosed(Inside);
        if (Inside == 0)
        {
            attachment.Evidence!.RecordDrained();
            attachment.UnmapInvalidated();
            return InvalidateOutcome.Done;
        }

        Drain ??= timeline.CreateFence();
        return InvalidateOutcome.Draining(Drain);
    }

    /// <summary>The last user leaves. Host lock held.</summary>
    public void Leave()
    {
        Inside = 0;
        Told!.Evidence!.RecordDrained();
        if (UnmapsWithDrain)
        {
            Told.UnmapInvalidated();
        }

        (Fence? drain, Drain) = (Drain, null);
        drain!.Signal();
    }
}
