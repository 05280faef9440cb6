namespace Wayleave.Core.Checking;

/// <summary>One edge of a circle, in words.</summary>
public readonly record struct WaitCycleEdge(string From, string Verb, string To);

/// <summary>A circle of waits, as it was when the wait that would have closed it was refused.</summary>
public sealed record WaitCycle
{
    internal WaitCycle(IReadOnlyList<WaitCycleEdge> edges) => Edges = edges;

    /// <summary>From the waiter that asked, around, and back to it.</summary>
    public IReadOnlyList<WaitCycleEdge> Edges { get; }

    /// <summary>One sentence: <c>a waits for b, which is held by c, which waits for a</c>.</summary>
    public override string ToString() =>
        Edges[0].From + string.Join(", which", Edges.Select(e => $" {e.Verb} {e.To}"));
}
