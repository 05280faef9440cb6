using System.Globalization;

namespace Wayleave.Simulation;

/// <summary>
/// A trail was made by another scenario, or by this one before it changed: it holds a decision for which there are
/// fewer answers now.
/// </summary>
public sealed class TrailException : Exception
{
    public TrailException() { }

    public TrailException(string message) : base(message) { }

    public TrailException(string message, Exception inner) : base(message, inner) { }

    internal TrailException(int decision, int value, int count)
        : base(string.Create(
            CultureInfo.InvariantCulture,
            $"the trail does not fit: decision {decision} is {value} of {count}; the scenario has changed"))
    {
    }
}
