using System.Globalization;

namespace Wayleave.Simulation;

/// <summary>
/// The one source of decisions of a simulated run. Every nondeterministic point asks it; the answers, written down in
/// order, are the trail, and a trail replays the run. A question that has one answer is not written down.
/// </summary>
/// <remarks>
/// Not thread-safe: the explorer runs one actor at a time, and that is the one that asks. Exhaustive mode answers with
/// the smallest value not yet tried, so that <see cref="MoveNext"/> walks all trails in lexicographic order.
/// </remarks>
public sealed class Choices
{
    private const string SeedPrefix = "seed:";

    private readonly List<(int Value, int Count)> _trail = [];
    private readonly Source _source;
    private readonly ulong _seed;
    private readonly SplitMix64 _random;
    private int _position;

    private Choices(Source source, ulong seed) => (_source, _seed, _random) = (source, seed, new SplitMix64(seed));

    private enum Source
    {
        Exhaustive,
        Seeded,
        Recorded,
    }

    /// <summary>
    /// True while every decision so far was one that an earlier run has made as well. False from the answer on that
    /// makes this run a new one.
    /// </summary>
    public bool IsReplayingPrefix => _position < _trail.Count;

    /// <summary>Every combination of answers, one after the other by <see cref="MoveNext"/>.</summary>
    public static Choices Exhaustive() => new(Source.Exhaustive, seed: 0);

    /// <summary>Answers drawn from <see cref="SplitMix64"/>.</summary>
    public static Choices Seeded(ulong seed) => new(Source.Seeded, seed);

    /// <summary>
    /// The answers of one earlier run: what <see cref="ToString"/> gave, or <see cref="InterleavingException.Trail"/>.
    /// </summary>
    /// <exception cref="FormatException">The text is no trail.</exception>
    public static Choices Replay(string trail)
    {
        ArgumentNullException.ThrowIfNull(trail);
        if (trail.StartsWith(SeedPrefix, StringComparison.Ordinal))
        {
            return Seeded(ulong.Parse(trail.AsSpan(SeedPrefix.Length), CultureInfo.InvariantCulture));
        }

        Choices choices = new(Source.Recorded, seed: 0);
        foreach (string value in trail.Split('.', StringSplitOptions.RemoveEmptyEntries))
        {
            choices._trail.Add((int.Parse(value, NumberStyles.None, CultureInfo.InvariantCulture), int.MaxValue));
        }

        return choices;
    }

    /// <summary>A number in [0, count). Past the end of a replayed trail the answer is 0.</summary>
    /// <exception cref="InvalidOperationException">
    /// The replayed trail does not fit: the scenario has changed since.
    /// </exception>
    public int Next(int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        return count == 1 ? 0 : Answer(count, () => _random.Next(count));
    }

    /// <summary>
    /// Whether something happens that is expected <paramref name="perMille"/> times in a thousand. An exhaustive search
    /// tries both; 0 is no and 1000 is yes without a decision.
    /// </summary>
    public bool Chance(int perMille)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(perMille);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(perMille, 1000);
        return perMille switch
        {
            0 => false,
            1000 => true,
            _ => Answer(2, () => _random.Next(1000) < perMille ? 1 : 0) == 1,
        };
    }

    /// <summary>
    /// Moves to the next run in lexicographic order; false when every run has been made, or when only one was asked
    /// for.
    /// </summary>
    public bool MoveNext()
    {
        if (_source != Source.Exhaustive)
        {
            return false;
        }

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

    /// <summary>The trail so far, or the seed: what <see cref="Replay"/> takes.</summary>
    public override string ToString() => _source == Source.Seeded
        ? string.Create(CultureInfo.InvariantCulture, $"{SeedPrefix}{_seed}")
        : string.Join('.', _trail.Take(_position).Select(c => c.Value));

    private int Answer(int count, Func<int> draw)
    {
        if (_source == Source.Seeded)
        {
            return draw();
        }

        if (_position == _trail.Count)
        {
            _trail.Add((0, count));
        }

        int value = _trail[_position].Value;
        if (value >= count)
        {
            throw new InvalidOperationException(string.Create(
                CultureInfo.InvariantCulture,
                $"the trail does not fit: decision {_position + 1} is {value} of {count}; the scenario has changed"));
        }

        // The count is written down again: a replayed trail does not know it.
        _trail[_position] = (value, count);
        _position++;
        return value;
    }
}
