using System.Globalization;

namespace Wayleave.Simulation;

/// <summary>
/// The one source of decisions of a simulated run. Every nondeterministic point asks <see cref="Next"/>;
/// the answers, written down in order, are the trail, and a trail replays the run.
/// </summary>
public sealed class Choices
{
    private readonly List<(int Value, int Count)> _trail = [];
    private readonly bool _exhaustive;
    private ulong _random;
    private int _position;

    private Choices(bool exhaustive, ulong seed) => (_exhaustive, _random) = (exhaustive, seed);

    /// <summary>True while the run still repeats the decisions of an earlier one.</summary>
    public bool IsReplayingPrefix => _position < _trail.Count;

    public static Choices Exhaustive() => new(exhaustive: true, seed: 0);

    public static Choices Seeded(ulong seed) => new(exhaustive: false, seed);

    public static Choices Replay(string trail)
    {
        ArgumentNullException.ThrowIfNull(trail);
        Choices choices = new(exhaustive: true, seed: 0);
        foreach (string value in trail.Split('.', StringSplitOptions.RemoveEmptyEntries))
        {
            choices._trail.Add((int.Parse(value, CultureInfo.InvariantCulture), int.MaxValue));
        }

        return choices;
    }

    /// <summary>A number in [0, count).</summary>
    public int Next(int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        if (_position == _trail.Count)
        {
            _trail.Add((_exhaustive ? 0 : (int)(NextRandom() % (ulong)count), count));
        }

        // The count is written down again: a replayed trail does not know it.
        int value = _trail[_position].Value;
        _trail[_position] = (value, count);
        _position++;
        return value;
    }

    /// <summary>Moves to the next run in lexicographic order; false when every run has been made.</summary>
    public bool MoveNext()
    {
        _trail.RemoveRange(_position, _trail.Count - _position);
        while (_trail.Count > 0)
        {
            (int value, int count) = _trail[^1];
            if (value + 1 < count)
            {
                _trail[^1] = (value + 1, count);
                _position = 0;
                return true;
            }

            _trail.RemoveAt(_trail.Count - 1);
        }

        return false;
    }

    public override string ToString() => string.Join('.', _trail.Take(_position).Select(c => c.Value));

    // SplitMix64: the same numbers on every machine and every .NET, which System.Random does not promise.
    private ulong NextRandom()
    {
        ulong z = _random += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
}
