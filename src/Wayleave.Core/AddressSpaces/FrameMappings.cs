namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// Which page-table entries show a frame (the reverse mapping, <c>rmap</c>). Nearly always one, so that one needs no
/// list, and no object: it is a field of its frame, and never copied.
/// </summary>
internal struct FrameMappings
{
    private AddressSpace? _firstSpace;
    private ulong _firstPage;
    private List<(AddressSpace Space, ulong Page)>? _more;

    public readonly int Count => (_firstSpace is null ? 0 : 1) + (_more?.Count ?? 0);

    public readonly (AddressSpace Space, ulong Page) this[int index] =>
        index == 0 ? (_firstSpace!, _firstPage) : _more![index - 1];

    /// <summary>
    /// Takes over what another list holds; nothing is in that one afterwards, and nothing was in this one before.
    /// </summary>
    public void TakeOver(ref FrameMappings other)
    {
        (_firstSpace, _firstPage, _more) = (other._firstSpace, other._firstPage, other._more);
        (other._firstSpace, other._more) = (null, null);
    }

    public void Add(AddressSpace space, ulong page)
    {
        if (_firstSpace is null)
        {
            (_firstSpace, _firstPage) = (space, page);
        }
        else
        {
            (_more ??= []).Add((space, page));
        }
    }

    public void Remove(AddressSpace space, ulong page)
    {
        if (ReferenceEquals(_firstSpace, space) && _firstPage == page)
        {
            (_firstSpace, _firstPage) = (null, 0);
            if (_more is { Count: > 0 })
            {
                (_firstSpace, _firstPage) = _more[^1];
                _more.RemoveAt(_more.Count - 1);
            }

            return;
        }

        if (_more is null || !_more.Remove((space, page)))
        {
            throw new InvalidOperationException($"page {page} of {space.Name} does not show this frame");
        }
    }
}
