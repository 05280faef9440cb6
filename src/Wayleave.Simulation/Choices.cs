using Wayleave.Core;

namespace Wayleave.Simulation;

/// <summary>
/// The one source of decisions of a simulated run. Every nondeterministic point asks it; the answers, written down in
/// order, are the trail, and a trail replays the run. A question that has one answer is not written down.
/// </summary>
/// <remarks>
/// Not thread-safe: the explorer runs one actor at a time, and that is the one that asks. Exhaustive mode answers with
/// the smallest value not yet tried, so that <see cref="MoveNext"/> walks all trails in lexicographic order.
/// </remarks>
public sealed class Choices : IRandomChoice
{
    private const string SeedPrefix = "seed:";

    private readonly List<(int Value, int Count)> _trail = [];
    private readonly Source _source;
    private readonly ulong _seed;
    private readonly SplitMix64 _random;
    private readonly PrioritySchedule? _priorities;
    private readonly Script? _script;
    private int _position;

    private Choices(Source source, ulong seed, PrioritySchedule? priorities = null, Script? script = null)
    {
        (_source, _seed, _random, _priorities, _script) = (source, seed, new SplitMix64(seed), priorities, script);
    }

    private enum Source
    {
        Exhaustive,
        Drawn,
        Recorded,
        Scripted,
    }

    /// <summary>
    /// True while every decision so far was one that an earlier run has made as well. False from the answer on that
    /// makes this run a new one.
    /// </summary>
    public bool IsReplayingPrefix => _position < _trail.Count;

    /// <summary>
    /// The decisions so far as text that <see cref="Replay"/> takes, shorter than <see cref="ToString"/>: equal
    /// neighbours are counted (<c>12x0.1.0.2</c>), and zeros at the end, which is how a run goes on by itself, are left
    /// out. Never empty.
    /// </summary>
    public string Trail => Simulation.Trail.Format(_trail, _position);

    /// <summary>
    /// Whether this run is told to somebody: a scenario that composes notes (<see cref="Scenario.Narrate"/>) need not
    /// otherwise.
    /// </summary>
    public bool IsTold { get; internal set; }

    /// <summary>Decisions so far.</summary>
    internal int Count => _position;

    internal IReadOnlyList<(int Value, int Count)> Decisions => _trail;

    /// <summary>Every combination of answers, one after the other by <see cref="MoveNext"/>.</summary>
    public static Choices Exhaustive() => new(Source.Exhaustive, seed: 0);

    /// <summary>Answers drawn from <see cref="SplitMix64"/>.</summary>
    public static Choices Seeded(ulong seed) => new(Source.Drawn, seed);

    /// <summary>
    /// Probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010): of the actors that are ready the one of
    /// the highest priority goes on; priorities are drawn, and fall at <paramref name="depth"/> - 1 steps that are
    /// drawn as well. A fault that needs <paramref name="depth"/> orderings among n actors in k steps is found by one
    /// run with a probability of at least 1 / (n * k ^ (depth - 1)). All other questions are answered by chance.
    /// </summary>
    /// <param name="seed">Of this run.</param>
    /// <param name="depth">At least 1.</param>
    /// <param name="steps">How long a run is expected to be; more than it turns out to be wastes changes.</param>
    public static Choices Prioritized(ulong seed, int depth, int steps) =>
        new(Source.Drawn, seed, new PrioritySchedule(seed, depth, steps));

    /// <summary>
    /// The answers of one earlier run: what <see cref="Trail"/> or <see cref="ToString"/> gave, or
    /// <see cref="InterleavingException.Trail"/>.
    /// </summary>
    /// <exception cref="FormatException">The text is no trail; the message says where.</exception>
    public static Choices Replay(string trail)
    {
        ArgumentNullException.ThrowIfNull(trail);
        if (trail.StartsWith(SeedPrefix, StringComparison.Ordinal))
        {
            return Seeded(Simulation.Trail.ParseSeed(trail.AsSpan(SeedPrefix.Length)));
        }

        Choices choices = new(Source.Recorded, seed: 0);
        Simulation.Trail.Parse(trail, choices._trail);
        return choices;
    }

    /// <summary>A run made from the steps of another: see <see cref="Script"/>.</summary>
    internal static Choices Follow(Script script) => new(Source.Scripted, seed: 0, script: script);

    /// <summary>A number in [0, count). Past the end of a replayed trail the answer is 0.</summary>
    /// <exception cref="TrailException">The replayed trail does not fit: the scenario has changed since.</exception>
    public int Next(int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        return count == 1 ? 0 : Answer(count, Draw(count));
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
            _ when _source == Source.Drawn => Answer(2, _random.Next(1000) < perMille ? 1 : 0) == 1,
            _ => Answer(2, Draw(2)) == 1,
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

    /// <summary>Every decision so far, or the seed they came from: what <see cref="Replay"/> takes.</summary>
    public override string ToString() => _source == Source.Drawn && _priorities is null
        ? Simulation.Trail.FormatSeed(SeedPrefix, _seed)
        : string.Join('.', _trail.Take(_position).Select(c => c.Value));

    /// <summary>Who of those that are ready goes on: a place in <paramref name="ready"/>.</summary>
    /// <param name="ready">
    /// Numbers of actors; who made the last step stands first, so that 0 means no switch.
    /// </param>
    internal int NextActor(List<int> ready)
    {
        int count = ready.Count;
        int place = _priorities?.Choose(ready) ?? _script?.Choose(ready) ?? (count == 1 ? 0 : Draw(count));
        return count == 1 ? 0 : Answer(count, place);
    }

    private int Draw(int count) => _source switch
    {
        Source.Drawn => _random.Next(count),
        Source.Scripted => _script!.Answer(count),
        _ => 0, // the smallest that was not tried, or the end of a recorded trail
    };

    private int Answer(int count, int drawn)
    {
        if (_position == _trail.Count)
        {
            _trail.Add((drawn, count));
        }

        int value = _trail[_position].Value;
        if (value >= count)
        {
            throw new TrailException(_position + 1, value, count);
        }

        // The count is written down again: a replayed trail does not know it.
        _trail[_position] = (value, count);
        _position++;
        return value;
    }
}
