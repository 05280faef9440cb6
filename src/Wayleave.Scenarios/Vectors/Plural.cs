namespace Wayleave.Scenarios.Vectors;

/// <summary>Counts for people.</summary>
internal static class Plural
{
    /// <summary><c>1 packet</c>, <c>2 packets</c>.</summary>
    public static string Of(int count, string noun) => count == 1 ? $"1 {noun}" : $"{count} {noun}s";
}
