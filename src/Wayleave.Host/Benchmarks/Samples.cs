namespace Wayleave.Host.Benchmarks;

/// <summary>Order statistics of measured values; nearest rank, as perftest's.</summary>
internal static class Samples
{
    /// <summary>The middle value, or the mean of the two in the middle. Not for an empty list.</summary>
    public static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        int middle = sorted.Length / 2;
        return sorted.Length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
    }

    /// <summary>
    /// The value that the given share of all does not exceed. The values are in order, and there is at least one.
    /// </summary>
    public static double Percentile(ReadOnlySpan<double> sorted, double share) =>
        sorted[Math.Clamp((int)Math.Ceiling(share * sorted.Length) - 1, 0, sorted.Length - 1)];

    /// <summary>Of one round's or of all rounds' values; puts them in order.</summary>
    public static LatencyResult Summarize(double[] microseconds)
    {
        Array.Sort(microseconds);
        double average = microseconds.Average();
        double variance = microseconds.Sum(t => (t - average) * (t - average)) / microseconds.Length;
        return new LatencyResult
        {
            Count = microseconds.Length,
            MinUs = microseconds[0],
            MaxUs = microseconds[^1],
            MedianUs = Median(microseconds),
            AverageUs = average,
            DeviationUs = Math.Sqrt(variance),
            P99Us = Percentile(microseconds, 0.99),
            P999Us = Percentile(microseconds, 0.999),
        };
    }
}
