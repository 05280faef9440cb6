namespace Wayleave.Compare;

/// <summary>What is said of several rounds.</summary>
public static class Statistics
{
    /// <summary>The one in the middle, or the mean of the two that are; at least one value.</summary>
    public static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        int middle = sorted.Length / 2;
        return sorted.Length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
    }
}
