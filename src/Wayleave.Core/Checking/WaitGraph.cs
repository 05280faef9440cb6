namespace Wayleave.Core.Checking;

// The graph is not stored. Each node says what it needs at the moment it is asked: a reservation knows its owner, a
// fence its timeline, its engine and the fences that its work runs after. Only a waiter keeps a list, of what it waits
// for. So there is nothing to keep in step, and an operation that never waits pays nothing.
//
// A search runs breadth first from the thing that is to be waited for, until it meets the waiter or has seen all: the
// first path found is a shortest one, which is the best explanation.

/// <summary>Looks for circles before they close. Host lock held.</summary>
internal sealed class WaitGraph
{
    private readonly Dictionary<IWaitNode, (IWaitNode From, string Verb)> _seen =
        new(ReferenceEqualityComparer.Instance);

    private readonly Queue<IWaitNode> _next = new();
    private readonly WaitEdges _edges = new();

    /// <summary>Searches made and nodes visited, for measurements.</summary>
    public long SearchCount { get; private set; }

    public long NodeCount { get; private set; }

    /// <summary>
    /// The circle that would close if <paramref name="waiter"/> waited for <paramref name="target"/>.
    /// </summary>
    public WaitCycle? Find(IWaitNode waiter, string verb, IWaitNode target)
    {
        SearchCount++;
        if (ReferenceEquals(waiter, target))
        {
            return new WaitCycle([new WaitCycleEdge(waiter.Label, verb, target.Label)]);
        }

        _next.Enqueue(target);
        WaitCycle? found = null;
        while (found is null && _next.TryDequeue(out IWaitNode? node))
        {
            NodeCount++;
            _edges.Items.Clear();
            node.ListWaits(_edges);
            foreach ((string why, IWaitNode to) in _edges.Items)
            {
                if (ReferenceEquals(to, target) || !_seen.TryAdd(to, (node, why)))
                {
                    continue;
                }

                if (ReferenceEquals(to, waiter))
                {
                    found = Describe(waiter, verb, target);
                    break;
                }

                _next.Enqueue(to);
            }
        }

        _seen.Clear();
        _next.Clear();
        _edges.Items.Clear(); // nothing is kept alive until the next search
        return found;
    }

    private WaitCycle Describe(IWaitNode waiter, string verb, IWaitNode target)
    {
        List<WaitCycleEdge> edges = [];
        for (IWaitNode to = waiter; !ReferenceEquals(to, target);)
        {
            (IWaitNode from, string why) = _seen[to];
            edges.Add(new WaitCycleEdge(from.Label, why, to.Label));
            to = from;
        }

        edges.Add(new WaitCycleEdge(waiter.Label, verb, target.Label));
        edges.Reverse();
        return new WaitCycle(edges);
    }
}
