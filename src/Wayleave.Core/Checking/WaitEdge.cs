namespace Wayleave.Core.Checking;

/// <summary>
/// Something in the graph of waits: who waits (a ticket, an engine, a notifier), or what is waited for (a fence, a
/// reservation, anything that somebody holds).
/// </summary>
public interface IWaitNode
{
    /// <summary>For people: <c>reservation of kv-cache</c>.</summary>
    string Label { get; }

    /// <summary>
    /// Adds what must happen before this node can go on, or come true; nothing when it can or is. Host lock held.
    /// Changes nothing and asks nobody else.
    /// </summary>
    void ListWaits(WaitEdges edges);
}

/// <summary>One reason why a node cannot go on.</summary>
/// <param name="Verb">How it reads between two labels: <c>is held by</c>.</param>
/// <param name="To">What it needs.</param>
public readonly record struct WaitEdge(string Verb, IWaitNode To);

/// <summary>Collects the edges of one node. Used again for every node of a search.</summary>
public sealed class WaitEdges
{
    private readonly List<WaitEdge> _edges = [];

    /// <summary>The node cannot go on before <paramref name="to"/>.</summary>
    /// <param name="verb">How it reads between the two labels: <c>is held by</c>.</param>
    /// <param name="to">What the node needs.</param>
    public void Add(string verb, IWaitNode to) => _edges.Add(new WaitEdge(verb, to));

    internal List<WaitEdge> Items => _edges;
}
