namespace Wayleave.Core;

/// <summary>
/// Where a host's random decisions come from: the edge gives true randomness, a test a seed, an explorer every answer.
/// </summary>
public interface IRandomChoice
{
    /// <summary>One of the numbers below <paramref name="count"/>, which is positive.</summary>
    int Next(int count);
}
