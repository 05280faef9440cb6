namespace Wayleave.Core.AddressSpaces;

/// <summary>What a page-table entry says.</summary>
internal enum EntryState : byte
{
    /// <summary>Nothing: the region says what a touch makes of it.</summary>
    None,

    /// <summary>The processor reaches the frame.</summary>
    Present,

    /// <summary>The content is in a device's memory that the processor does not reach.</summary>
    DevicePrivate,

    /// <summary>A device uses the frame alone; the processor's touch takes it back.</summary>
    DeviceExclusive,

    /// <summary>The page is between two places: whoever needs it waits for its lock.</summary>
    Migration,

    /// <summary>The content is in a slot of the swap store.</summary>
    Swap,

    /// <summary>The content is lost.</summary>
    Poison,
}

/// <summary>One entry of a page table (a <c>pte</c>, present or not).</summary>
internal struct PageEntry
{
    public PageFrame? Frame;
    public long Slot;
    public EntryState State;

    /// <summary>
    /// A store needs no fault. Of a device-private, exclusive or migration entry: the right that comes back with it.
    /// </summary>
    public bool IsWritable;

    /// <summary>The anonymous page is nobody else's (<c>PageAnonExclusive</c>): a store need not copy it.</summary>
    public bool IsExclusive;

    /// <summary>The size of the mapping that this entry is a part of, as a power of two pages.</summary>
    public byte Order;

    /// <summary>
    /// It stands for a folio: for 2^<see cref="Order"/> pages, of which only the first has an entry (a <c>pmd</c>). In
    /// what <see cref="PageTable.Peek"/> answers: the page is one of those.
    /// </summary>
    public bool IsWhole;

    public readonly bool IsPresent => State == EntryState.Present;
}
