namespace Wayleave.Devices.Rdma;

/// <summary>
/// How long a peer takes to answer a question, by all queue pairs to it together, after RFC 6298 2: a smoothed time and
/// how much it varies. Port token held by the caller.
/// </summary>
/// <param name="most">What is waited for when nothing was measured, and at most.</param>
/// <param name="least">What is waited for at least; null waits for <paramref name="most"/> always.</param>
internal sealed class RoundTrip(TimeSpan most, TimeSpan? least)
{
    private const int VariationShare = 4;
    private const int SmoothingShare = 8;

    private long _smoothed; // ticks, 0: nothing was measured
    private long _variation;

    /// <summary>How long an answer usually takes; zero when none was timed.</summary>
    public TimeSpan Smoothed => TimeSpan.FromTicks(_smoothed);

    /// <summary>An answer later than that is probably none.</summary>
    public TimeSpan Patience
    {
        get
        {
            if (least is not { } floor || _smoothed == 0)
            {
                return most;
            }

            long ticks = _smoothed + (VariationShare * _variation);
            return TimeSpan.FromTicks(Math.Clamp(ticks, Math.Min(floor.Ticks, most.Ticks), most.Ticks));
        }
    }

    /// <summary>
    /// How long to wait after hearing something that may come from before the question: an answer that is on its way
    /// takes no longer than a round trip.
    /// </summary>
    public TimeSpan ShortPatience
    {
        get
        {
            TimeSpan eighth = most / 8;
            TimeSpan patience = Patience;
            return patience < eighth ? patience : eighth;
        }
    }

    /// <summary>A question that went out once was answered after that time.</summary>
    public void Add(TimeSpan time)
    {
        long ticks = Math.Max(1, time.Ticks);
        if (_smoothed == 0)
        {
            (_smoothed, _variation) = (ticks, ticks / 2);
            return;
        }

        _variation += (Math.Abs(ticks - _smoothed) - _variation) / VariationShare;
        _smoothed = Math.Max(1, _smoothed + ((ticks - _smoothed) / SmoothingShare));
    }
}
