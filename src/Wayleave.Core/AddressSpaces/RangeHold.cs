namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// A range of a process that may not be unmapped, moved or thrown away before this is released: EBUSY. What
/// <c>mseal</c> does for good lasts here as long as somebody outside uses the pages. The end of the process does not
/// ask. Host lock held by the caller.
/// </summary>
public sealed class RangeHold
{
    private readonly AddressSpace _space;

    internal RangeHold(AddressSpace space, AddressRange range, string holder) =>
        (_space, Range, Holder) = (space, range, holder);

    public AddressRange Range { get; }

    /// <summary>Who uses the pages, for people.</summary>
    public string Holder { get; }

    /// <summary>The range may be changed again. The second call does nothing.</summary>
    public void Release() => _space.Remove(this);
}
