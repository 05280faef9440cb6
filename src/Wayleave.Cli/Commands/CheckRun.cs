using System.Globalization;
using Wayleave.Scenarios;
using Wayleave.Simulation;

namespace Wayleave.Cli.Commands;

/// <summary>How much is explored.</summary>
/// <param name="Schedules">
/// Orders of each scenario at most; null for all, or for the usual number of drawn ones.
/// </param>
/// <param name="Seed">Where drawn orders start.</param>
/// <param name="Orders">Where they come from; null for what each scenario says.</param>
/// <param name="StepsMax">Steps after which an order counts as endless.</param>
internal sealed record CheckOptions(long? Schedules, ulong Seed, OrderSource? Orders, int StepsMax);

/// <summary>Explores scenarios one after the other and prints a line for each as it ends.</summary>
internal sealed class CheckRun(
    CommandContext context, CheckOptions options, TimeProvider clock, CancellationToken cancellation)
{
    private const string NoBreak = "-";
    private const int OrdersWidth = 18;
    private const int ResultWidth = 11;

    private readonly List<CheckedScenario> _done = [];
    private bool _isAll;
    private int _nameWidth;
    private int _breakWidth;

    /// <summary>One scenario, or one of its broken variants, of which the first order that fails is told.</summary>
    /// <returns>A number of <see cref="ExitCode"/>.</returns>
    public int One(NamedScenario scenario, BrokenVariant? broken)
    {
        WriteHeader([(scenario, broken)]);
        Explore(scenario, broken, mustFail: false);
        return Finish();
    }

    /// <summary>Every scenario, which must hold, and every broken variant, which must not.</summary>
    /// <returns>A number of <see cref="ExitCode"/>.</returns>
    public int All()
    {
        _isAll = true;
        (NamedScenario Scenario, BrokenVariant? Broken)[] all =
            [.. ScenarioCatalog.All.SelectMany(s => s.Broken.Select(b => (s, (BrokenVariant?)b)).Prepend((s, null)))];
        WriteHeader(all);
        foreach ((NamedScenario scenario, BrokenVariant? broken) in all)
        {
            if (!cancellation.IsCancellationRequested)
            {
                Explore(scenario, broken, mustFail: broken is not null);
            }
        }

        return Finish();
    }

    private void Explore(NamedScenario scenario, BrokenVariant? broken, bool mustFail)
    {
        string name = broken is null ? scenario.Name : $"{scenario.Name} without {broken.Name}";
        using CheckProgress progress = new(context, clock, name);
        long start = clock.GetTimestamp();
        ExplorationOptions usual = new()
        {
            StepsMax = options.StepsMax,
            Cancellation = cancellation,
            Progress = progress.Report,
        };
        ExplorationReport report =
            scenario.Explore(broken, options.Seed, options.Schedules, options.Orders, usual);
        bool countsCosts = broken is null && report.End == ExplorationEnd.EveryOrder;
        IReadOnlyList<ScenarioCost>? costs = countsCosts ? scenario.MeasureCosts?.Invoke() : null;
        TimeSpan elapsed = clock.GetElapsedTime(start);
        CheckedScenario result = CheckedScenario.Of(scenario, broken, mustFail, report, elapsed) with
        {
            Drawn = (options.Orders ?? scenario.Orders) switch
            {
                OrderSource.Exhaustive => null,
                OrderSource source => CheckedScenario.Snake(source),
            },
            Costs = costs,
        };
        progress.Dispose();
        _done.Add(result);
        Write(result, report.End);
    }

    private int Finish()
    {
        bool passed = _done.TrueForAll(d => d.Passed);
        if (context.IsJson)
        {
            CheckRunDocument document = new()
            {
                Seed = options.Seed,
                Passed = passed,
                Interrupted = cancellation.IsCancellationRequested,
                Runs = _done,
            };
            context.WriteJson(document, CheckJson.Default.CheckRunDocument);
        }
        else if (_done.Count > 1)
        {
            WriteSummary();
        }

        cancellation.ThrowIfCancellationRequested();
        return passed ? ExitCode.Done : ExitCode.Failed;
    }

    private void WriteSummary()
    {
        long orders = _done.Sum(d => d.Orders);
        double seconds = _done.Sum(d => d.ElapsedS);
        int interrupted = _done.Count(d => d.IsInterrupted);
        int wrong = _done.Count(d => !d.Passed) - interrupted;
        string cut = interrupted == 0 ? "" : $", {interrupted} interrupted";
        context.Out.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{_done.Count} checks, {wrong} wrong{cut}, {orders} orders in {seconds:F1} s, seed {options.Seed}"));
    }

    private void WriteHeader(IReadOnlyList<(NamedScenario Scenario, BrokenVariant? Broken)> all)
    {
        _nameWidth = all.Max(a => a.Scenario.Name.Length);
        _breakWidth = all.Max(a => (a.Broken?.Name ?? NoBreak).Length);
        _breakWidth = Math.Max(_breakWidth, "WITHOUT".Length);
        WriteRow("SCENARIO", "WITHOUT", "ORDERS", "RESULT", "TIME");
    }

    private void Write(CheckedScenario result, ExplorationEnd end)
    {
        string orders = end switch
        {
            ExplorationEnd.EveryOrder => $"all of {result.Orders}",
            ExplorationEnd.RunsMax when result.Drawn is null => $"first {result.Orders}",
            ExplorationEnd.RunsMax => $"{result.Orders} drawn",
            _ => $"{result.Orders}",
        };
        string time = string.Create(CultureInfo.InvariantCulture, $"{result.ElapsedS:F2} s");
        WriteRow(result.Scenario, result.Break ?? NoBreak, orders, result.Result, time);
        if (!context.IsJson && result.Costs is { } costs && _done.Count == 1 && !_isAll)
        {
            context.Out.WriteLine($"costs: {string.Join(", ", costs)}");
        }

        if (!context.IsJson && result is { Failure: { } failure, MustFail: false })
        {
            CheckStory.Write(context.Out, failure);
        }
    }

    private void WriteRow(string name, string broken, string orders, string result, string time)
    {
        if (!context.IsJson)
        {
            string left = $"{name.PadRight(_nameWidth)}  {broken.PadRight(_breakWidth)}";
            context.Out.WriteLine($"{left}  {orders,-OrdersWidth}  {result,-ResultWidth}  {time,8}");
            context.Out.Flush();
        }
    }
}
