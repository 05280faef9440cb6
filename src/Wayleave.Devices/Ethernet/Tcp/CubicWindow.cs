namespace Wayleave.Devices.Ethernet.Tcp;

// RFC 9438, in bytes and seconds: between two losses the window follows W(t) = C (t - K)^3 + Wmax, whose plateau is
// where it was when the last loss came, and never grows slower than Reno would (section 4.3).

/// <summary>How the congestion window grows: slow start, then CUBIC (RFC 5681, RFC 9438).</summary>
internal sealed class CubicWindow(int segmentBytes, int initialSegments)
{
    private const double C = 0.4;
    private const double Beta = 0.7;
    private const double Alpha = 3 * (1 - Beta) / (1 + Beta);

    private TimeSpan _epochStart = TimeSpan.MinValue;
    private double _windowMax; // segments, as the rest of RFC 9438
    private double _windowPrior; // when the last loss came
    private double _k;
    private double _renoEstimate;
    private double _credit; // segments of growth that are not whole yet

    /// <summary>The congestion window.</summary>
    public long Bytes { get; set; } = (long)segmentBytes * initialSegments;

    /// <summary>RFC 5681: slow start below, avoidance above. Endless before the first loss.</summary>
    public long Threshold { get; set; } = long.MaxValue;

    public int SegmentBytes { get; private set; } = segmentBytes;

    private double Segments => (double)Bytes / SegmentBytes;

    /// <summary>A path carries less than was thought: the window keeps its bytes.</summary>
    public void SetSegmentBytes(int bytes)
    {
        SegmentBytes = bytes;
        Bytes = Math.Max(Bytes, bytes);
    }

    /// <summary>
    /// Something new was acknowledged while the window was in full use, and nothing is being repaired.
    /// </summary>
    public void Grow(TimeSpan now, long ackedBytes, TimeSpan smoothedRtt)
    {
        if (Bytes < Threshold)
        {
            // RFC 3465 with an L of 2 segments for each segment acknowledged: bytes, so that a stretched
            // acknowledgement counts for all it acknowledges.
            long slowStart = Math.Min(ackedBytes, Threshold - Bytes);
            Bytes += slowStart;
            ackedBytes -= slowStart;
        }

        if (ackedBytes > 0)
        {
            Avoid(now, (double)ackedBytes / SegmentBytes, smoothedRtt);
        }
    }

    /// <summary>RFC 9438 4.6 and 4.7: what the threshold becomes when something was lost.</summary>
    /// <param name="flightBytes">Sent and not acknowledged.</param>
    public void HandleLoss(long flightBytes)
    {
        double window = Segments;
        _windowMax = window < _windowMax ? window * (1 + Beta) / 2 : window;
        _windowPrior = window;
        _epochStart = TimeSpan.MinValue;
        _credit = 0;
        Threshold = Math.Max((long)(Math.Min(Bytes, flightBytes) * Beta), 2L * SegmentBytes);
    }

    /// <summary>
    /// RFC 5681 3.1: after a time-out one segment is all that may be under way. RFC 9438 4.8: and what was before tells
    /// nothing; the plateau is where avoidance begins.
    /// </summary>
    public void Collapse() => (Bytes, _windowMax, _epochStart) = (SegmentBytes, 0, TimeSpan.MinValue);

    /// <summary>RFC 5681 4.1: after an idle time the path may have changed.</summary>
    public void Restart()
    {
        Bytes = Math.Min(Bytes, (long)SegmentBytes * initialSegments);
        _epochStart = TimeSpan.MinValue;
    }

    private void Avoid(TimeSpan now, double ackedSegments, TimeSpan smoothedRtt)
    {
        if (_epochStart == TimeSpan.MinValue)
        {
            _epochStart = now;
            _windowMax = Math.Max(_windowMax, Segments);
            _k = Math.Cbrt((_windowMax - Segments) / C);
            _renoEstimate = Segments;
        }

        double t = (now - _epochStart + smoothedRtt).TotalSeconds - _k;
        double target = Math.Clamp((C * t * t * t) + _windowMax, Segments, 1.5 * Segments);
        // Section 4.3: once it has made up for the gentler decrease, the estimate grows as Reno does.
        double alpha = _renoEstimate < _windowPrior ? Alpha : 1;
        _renoEstimate += alpha * ackedSegments / Segments;
        double growth = Math.Max((target - Segments) / Segments * ackedSegments, 0);
        if (_renoEstimate > Segments + growth)
        {
            growth = Math.Min(_renoEstimate - Segments, ackedSegments);
        }

        _credit += growth;
        double whole = Math.Floor(_credit * SegmentBytes);
        Bytes += (long)whole;
        _credit -= whole / SegmentBytes;
    }
}
