namespace Wayleave.Scenarios.TakeBack;

// One workload on the shipped devices, once for each strategy: first in simulated time, where every figure but the
// costs of TakeBackCosts is counted and none is chosen; then small, in many orders, to look for circles.

/// <summary>
/// Compares what is done when memory that devices use is wanted back: <c>wayleave compare take-back</c>.
/// </summary>
public static class TakeBackComparison
{
    /// <summary>
    /// Runs every strategy that was asked for, on the calling thread. The same options give the same report.
    /// </summary>
    /// <param name="options">Sizes and costs.</param>
    /// <param name="cancellation">Looked at between two runs and two orders.</param>
    /// <exception cref="ArgumentException">An option is out of its range.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static TakeBackReport Run(TakeBackOptions options, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        List<TakeBackResult> results = [];
        foreach (TakeBackStrategy strategy in Chosen(options))
        {
            cancellation.ThrowIfCancellationRequested();
            TakeBackResult result = TakeBackRun.Measure(strategy, options);
            results.Add(options.ExploredOrders == 0
                ? result
                : TakeBackExploration.AddTo(result, strategy, options, cancellation));
        }

        return new TakeBackReport
        {
            DurationUs = options.Duration.TotalMicroseconds,
            PressurePeriodUs = options.PressurePeriod.TotalMicroseconds,
            PressurePages = options.PressurePages,
            MessageBytes = options.MessageBytes,
            ExploredOrders = options.ExploredOrders,
            Results = results,
        };
    }

    private static TakeBackStrategy[] Chosen(TakeBackOptions options)
    {
        TakeBackStrategy[] known = [.. TakeBackStrategy.All, .. TakeBackStrategy.Mixes];
        return options.Strategies.Count == 0
            ? known
            :
            [
                .. known.Where(s => options.Strategies.Contains(s.Name)),
                .. options.Strategies.Where(n => !known.Any(s => s.Name == n)).Distinct()
                    .Select(n => TakeBackStrategy.Find(n)!),
            ];
    }
}
