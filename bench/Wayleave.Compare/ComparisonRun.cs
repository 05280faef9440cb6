using System.ComponentModel;
using System.Text.Json;

namespace Wayleave.Compare;

/// <summary>
/// Measures comparisons, those in turns round by round, so that what the machine does meanwhile meets all of them. What
/// fails is said in its own row; the others go on.
/// </summary>
/// <param name="comparisons">In the order in which their rows are wanted.</param>
/// <param name="rounds">Of each.</param>
/// <param name="talk">Told of progress and failures while they happen.</param>
public sealed class ComparisonRun(IReadOnlyList<Comparison> comparisons, int rounds, TextWriter talk)
{
    // A program that hangs costs minutes: one failure may be the machine's, two are enough.
    private const int FailuresMax = 2;

    private readonly Tally[] _tallies = [.. comparisons.Select(c => new Tally(c))];

    /// <summary>1 if something failed, else 3 if a peer is missing, else 0. A missed bar is no failure.</summary>
    public int ExitCode =>
        _tallies.Any(t => t.Failure is not null) ? 1 : _tallies.Any(t => t.Missing is not null) ? 3 : 0;

    /// <summary>Measures everything.</summary>
    /// <param name="beginRound">Called before each round of turns.</param>
    /// <returns>A row for each comparison, measured or not.</returns>
    public ComparisonRow[] Run(Action beginRound)
    {
        foreach (Tally tally in _tallies)
        {
            if (tally.Comparison is ComparisonInOneRun once)
            {
                Try(tally, () => once.Run(rounds), rounds);
                talk.WriteLine($"{once.Test}, {once.Peer}");
            }
        }

        int round = 0;
        while (round < rounds && _tallies.Any(t => t.Comparison is ComparisonInTurns))
        {
            beginRound();
            foreach (Tally tally in _tallies.Where(t => t.Failures < FailuresMax))
            {
                if (tally.Comparison is ComparisonInTurns turns)
                {
                    Try(tally, () => [Turn(turns)], expected: 1);
                }
            }

            talk.WriteLine($"round {++round} of {rounds}");
        }

        return [.. _tallies.Select(t => t.Summarize())];
    }

    private static RatioSample Turn(ComparisonInTurns turns) =>
        new(turns.Ours(), turns.Missing is null ? turns.Theirs() : double.NaN);

    private void Try(Tally tally, Func<IReadOnlyList<RatioSample>> measure, int expected)
    {
        try
        {
            tally.Add(measure(), expected);
        }
        catch (Exception e) when (IsOfProgram(e))
        {
            tally.Fail(e.Message);
            talk.WriteLine($"{tally.Comparison.Test}, {tally.Comparison.Peer}: {e.Message}");
        }
    }

    // A program did not start, did not do its work, or printed something else than what is read.
    private static bool IsOfProgram(Exception e) => e is PeerException or Win32Exception or JsonException
        or FormatException or KeyNotFoundException or InvalidOperationException;

    private sealed class Tally(Comparison comparison)
    {
        private readonly List<RatioSample> _samples = [];

        public Comparison Comparison => comparison;

        public string? Missing => (comparison as ComparisonInTurns)?.Missing;

        public string? Failure { get; private set; }

        public int Failures { get; private set; }

        public void Add(IReadOnlyList<RatioSample> samples, int expected)
        {
            if (samples.Count != expected)
            {
                throw new PeerException($"measured {samples.Count} rounds of {expected}");
            }

            foreach (RatioSample sample in samples)
            {
                if (!IsMeasured(sample))
                {
                    throw new PeerException($"measured {sample.Ours} and {sample.Theirs} {comparison.Unit}");
                }

                _samples.Add(sample);
            }
        }

        public void Fail(string message)
        {
            Failure ??= message;
            Failures++;
        }

        public ComparisonRow Summarize()
        {
            bool hasRatio = _samples.Count > 0 && Missing is null;
            double ratio = hasRatio ? Statistics.Median(_samples.Select(s => s.Ratio)) : double.NaN;
            return new ComparisonRow(
                comparison.Test,
                comparison.Peer,
                comparison.Unit,
                _samples.Count > 0 ? Statistics.Median(_samples.Select(s => s.Ours)) : double.NaN,
                hasRatio ? Statistics.Median(_samples.Select(s => s.Theirs)) : double.NaN,
                ratio,
                comparison.Bar?.ToString(),
                hasRatio ? comparison.Bar?.IsMetBy(ratio) : null,
                Failure ?? Missing);
        }

        private bool IsMeasured(RatioSample s) =>
            double.IsFinite(s.Ours) && s.Ours > 0 && (Missing is not null || double.IsFinite(s.Ratio));
    }
}
