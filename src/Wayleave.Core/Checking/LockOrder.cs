using System.Numerics;

namespace Wayleave.Core.Checking;

/// <summary>
/// Which class was seen to be taken while which other was held, with everything that follows from it. One bit per pair,
/// so that a question is one load and one test. Host lock held.
/// </summary>
internal sealed class LockOrder
{
    private readonly List<string> _names = [];
    private readonly ulong[] _after = new ulong[LockClass.CountMax]; // bit b of [a]: b is taken while a is held
    private readonly ulong[] _reported = new ulong[LockClass.CountMax];
    private readonly Dictionary<(int, int), string> _witnesses = [];

    public LockOrder()
    {
        foreach (LockClass one in LockClass.EstablishedOrder)
        {
            _names.Add(one.Name);
        }

        for (int i = 1; i < LockClass.EstablishedOrder.Count; i++)
        {
            Learn(LockClass.EstablishedOrder[i - 1], LockClass.EstablishedOrder[i], "the order of dma-resv.c");
        }
    }

    public LockClass Define(string name)
    {
        if (_names.Count == LockClass.CountMax)
        {
            throw new InvalidOperationException(
                $"a host tells {LockClass.CountMax} lock classes apart; {name} is one more");
        }

        _names.Add(name);
        return new LockClass(_names.Count - 1, name);
    }

    /// <summary>Whether <paramref name="first"/> is known to come before <paramref name="second"/>.</summary>
    public bool IsBefore(LockClass first, LockClass second) => (_after[first.Number] >> second.Number & 1) != 0;

    /// <summary>From now on <paramref name="first"/> comes before <paramref name="second"/>.</summary>
    public void Learn(LockClass first, LockClass second, string witness)
    {
        if (IsBefore(first, second))
        {
            return;
        }

        _witnesses[(first.Number, second.Number)] = witness;
        ulong follows = _after[second.Number] | 1UL << second.Number;
        for (int i = 0; i < _names.Count; i++)
        {
            if (i == first.Number || (_after[i] >> first.Number & 1) != 0)
            {
                _after[i] |= follows;
            }
        }
    }

    /// <summary>True the first time that this pair is met in the wrong order.</summary>
    public bool TryMarkReported(LockClass held, LockClass taken)
    {
        ulong bit = 1UL << taken.Number;
        bool isFirst = (_reported[held.Number] & bit) == 0;
        _reported[held.Number] |= bit;
        return isFirst;
    }

    /// <summary>Why <paramref name="first"/> comes before <paramref name="second"/>, step by step.</summary>
    public string Explain(LockClass first, LockClass second)
    {
        List<string> steps = [];
        for (int at = first.Number; at != second.Number;)
        {
            int next = Step(at, second.Number);
            string witness = _witnesses[(at, next)];
            bool isLast = next == second.Number;
            bool saysMore = isLast || _witnesses[(next, Step(next, second.Number))] != witness;
            steps.Add($"{_names[next]} inside {_names[at]}{(saysMore ? $" ({witness})" : "")}");
            at = next;
        }

        return string.Join(", ", steps);
    }

    // The first direct edge on a way to the goal; there is one, because the closure says that there is a way.
    private int Step(int from, int goal)
    {
        if (_witnesses.ContainsKey((from, goal)))
        {
            return goal;
        }

        for (ulong rest = _after[from]; rest != 0; rest &= rest - 1)
        {
            int next = BitOperations.TrailingZeroCount(rest);
            if (_witnesses.ContainsKey((from, next)) && (_after[next] >> goal & 1) != 0)
            {
                return next;
            }
        }

        throw new InvalidOperationException($"no way from {_names[from]} to {_names[goal]} was learnt");
    }
}
