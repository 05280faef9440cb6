using System.Globalization;

namespace Wayleave.Compare;

/// <summary>What was promised of a ratio of ours over theirs.</summary>
public readonly record struct Bar
{
    private readonly double _value;
    private readonly bool _isMost;

    private Bar(double value, bool isMost) => (_value, _isMost) = (value, isMost);

    /// <summary>Of what should be large: bandwidth, rates.</summary>
    public static Bar AtLeast(double value) => new(value, isMost: false);

    /// <summary>Of what should be small: latency.</summary>
    public static Bar AtMost(double value) => new(value, isMost: true);

    /// <summary>Whether a ratio keeps the promise, unrounded; one that is not a number keeps none.</summary>
    public bool IsMetBy(double ratio) => _isMost ? ratio <= _value : ratio >= _value;

    /// <inheritdoc/>
    public override string ToString() =>
        (_isMost ? "<= " : ">= ") + _value.ToString("0.0##", CultureInfo.InvariantCulture);
}
