namespace Wayleave.Core.Fences;

/// <summary>
/// The earlier fences of its context whose place a fence took, in a reservation or a merge: who looks for evidence
/// finds the later one alone, and an earlier one may yet have to be forced. Almost always none or one. Host lock held.
/// </summary>
internal struct FencePredecessors
{
    private Fence? _one;
    private List<Fence>? _more;

    /// <summary>One whose work has not ended, or null.</summary>
    public readonly Fence? FindOpen() => _one is { HasEnded: false } ? _one : _more?.Find(f => !f.HasEnded);

    public void Clear()
    {
        if (_one is not null)
        {
            this = default;
        }
    }

    public void Add(Fence earlier)
    {
        if (_one is null or { HasEnded: true })
        {
            _one = earlier;
        }
        else if (!ReferenceEquals(_one, earlier))
        {
            (_more ??= []).Add(earlier);
        }
    }
}
