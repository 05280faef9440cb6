namespace Wayleave.Core.Checking;

/// <summary>
/// Something that is neither fence nor reservation and that somebody holds while others wait: a page under
/// invalidation, a lock of a driver, a slot of a ring. Host lock held by the caller.
/// </summary>
public sealed class HeldObject(string label) : IWaitNode
{
    public string Label { get; } = label;

    /// <summary>Who has it; null when it is free.</summary>
    public IWaitNode? Holder { get; set; }

    public void ListWaits(WaitEdges edges)
    {
        if (Holder is { } holder)
        {
            edges.Add("is held by", holder);
        }
    }
}
