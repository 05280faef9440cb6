namespace Wayleave.Core.AddressSpaces;

/// <summary>Why the CPU side takes a range back (<c>enum mmu_notifier_event</c>, same order).</summary>
public enum InvalidateEvent
{
    /// <summary>The range is unmapped, or moves to another address.</summary>
    Unmap,

    /// <summary>Entries are cleared; the pages behind them may change: copy-on-write, reclaim, discard.</summary>
    Clear,

    /// <summary>The rights of a whole range of regions change.</summary>
    ProtectionRegion,

    /// <summary>The rights of single pages change: a fork write-protects them.</summary>
    ProtectionPage,

    /// <summary>Write protection, to see which pages get dirty.</summary>
    SoftDirty,

    /// <summary>The process ends: everything goes.</summary>
    Release,

    /// <summary>Pages migrate to or from a device, whose driver is the owner of the event.</summary>
    Migrate,

    /// <summary>A device gets pages for itself alone; its driver is the owner of the event.</summary>
    Exclusive,
}

/// <summary>What an invalidation is about (<c>struct mmu_notifier_range</c>).</summary>
/// <param name="Addresses">Whole pages.</param>
/// <param name="Event">Why.</param>
/// <param name="IsBlockable">
/// Whether a mirror may wait. Where it may not (the out-of-memory killer), one that would have to refuses.
/// </param>
/// <param name="Owner">
/// Set for <see cref="InvalidateEvent.Migrate"/> and <see cref="InvalidateEvent.Exclusive"/>: a driver that finds
/// itself here started it and need not be told.
/// </param>
public readonly record struct InvalidateRange(
    AddressRange Addresses, InvalidateEvent Event, bool IsBlockable = true, object? Owner = null);
