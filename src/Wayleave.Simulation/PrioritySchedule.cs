namespace Wayleave.Simulation;

// Actors get their priorities when they are first ready, drawn above `depth`; the i-th change, at a step drawn without
// regard to i, gives the actor of that moment the priority i, below all that were drawn. The paper's bound holds for
// actors that end; one that polls would starve the others, so an actor that had its way for a thousand steps in a row
// goes to the end.

/// <summary>The priorities of one run of probabilistic concurrency testing.</summary>
internal sealed class PrioritySchedule
{
    private const int PatienceSteps = 1000;

    private readonly SplitMix64 _random;
    private readonly List<long> _priorities = []; // by actor; 0: not drawn yet
    private readonly Dictionary<int, int> _changes = []; // the priority to fall to, by step
    private readonly int _depth;
    private int _step;
    private int _last = -1;
    private int _inARow;
    private long _lowest;

    public PrioritySchedule(ulong seed, int depth, int steps)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(depth);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(steps);
        _random = new SplitMix64(~seed);
        _depth = depth;
        for (int i = 1; i < depth; i++)
        {
            _changes.TryAdd(_random.Next(steps), i);
        }
    }

    /// <summary>A place in <paramref name="ready"/>. Called once for each step.</summary>
    public int Choose(List<int> ready)
    {
        foreach (int actor in ready)
        {
            Draw(actor);
        }

        int place = Highest(ready);
        int chosen = ready[place];
        _inARow = chosen == _last && ready.Count > 1 ? _inARow + 1 : 0;
        bool isChange = _changes.TryGetValue(_step, out int fallen);
        if (isChange || _inARow >= PatienceSteps)
        {
            _priorities[chosen] = isChange ? fallen : --_lowest;
            _inARow = 0;
            place = Highest(ready);
            chosen = ready[place];
        }

        _step++;
        _last = chosen;
        return place;
    }

    private void Draw(int actor)
    {
        while (_priorities.Count <= actor)
        {
            _priorities.Add(0);
        }

        if (_priorities[actor] == 0)
        {
            _priorities[actor] = _depth + (long)(_random.NextUInt64() >> 2);
        }
    }

    private int Highest(List<int> ready)
    {
        int best = 0;
        for (int i = 1; i < ready.Count; i++)
        {
            best = _priorities[ready[i]] > _priorities[ready[best]] ? i : best;
        }

        return best;
    }
}
